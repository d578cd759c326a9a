"""A translation that drops or changes what must stay is found, and a true one is not."""

import pytest
from story_identity.lab.locales.faults import missing, stale, untrue

TOOLTIP = 'Gives {character} 0.2 of keep_maps, as Each Frame does: "by words", models/sams, SDXL. hard: no edge.'
DESCRIPTION = "Makes one frame."
NODES = {
    "StoryIdentityA": {
        "display_name": "Each Frame",
        "category": "StoryIdentity/story",
        "description": DESCRIPTION,
        "inputs": [{"name": "keep_maps", "tooltip": TOOLTIP, "options": ["hard", "soft"]}],
        "outputs": [{"name": "frame", "tooltip": ""}],
    }
}
TRUE = {
    "Each Frame": "Jedes Bild",
    "story": "Geschichte",
    DESCRIPTION: "Macht ein Bild.",
    "keep_maps": "Karten behalten",
    TOOLTIP: '{character}, 0.2, „Karten behalten“ wie „Jedes Bild“: "by words", models/sams, SDXL. hard: klar.',
    "frame": "Bild",
}


def faults(changed: dict[str, str], language: str = "de") -> list[str]:
    return list(untrue(NODES, language, {**TRUE, **changed}))


def test_a_true_translation_has_no_fault():
    assert faults({}) == []
    assert missing(NODES, TRUE) == []
    assert stale(NODES, TRUE) == []


@pytest.mark.parametrize(
    "kept", ["{character}", "0.2", "Karten behalten", "Jedes Bild", '"by words"', "models/sams", "SDXL", "hard"]
)
def test_what_must_stay_is_missed(kept: str):
    (line,) = faults({TOOLTIP: TRUE[TOOLTIP].replace(kept, "etwas")})
    assert kept in line.split(" is not in ")[0]


def test_an_input_may_be_called_by_its_id():
    assert faults({TOOLTIP: TRUE[TOOLTIP].replace("Karten behalten", "keep_maps")}) == []


def test_a_sentence_that_stayed_english_is_found():
    assert len(faults({DESCRIPTION: DESCRIPTION})) == 1


@pytest.mark.parametrize("language", ["zh", "zh-TW", "ja", "ko", "ru"])
def test_a_sentence_in_the_letters_of_another_language_is_found(language: str):
    assert len(faults({}, language)) == 2


@pytest.mark.parametrize("letter", "{}|@")
def test_letters_that_the_editor_takes_for_commands_are_found_in_names_and_descriptions(letter: str):
    assert len(faults({DESCRIPTION: f"Macht {letter} ein Bild."})) == 1
    assert len(faults({"frame": f"Bild{letter}"})) == 1


def test_a_text_without_translation_is_missing_and_one_that_no_node_has_is_stale():
    assert missing(NODES, {**TRUE, "frame": " "}) == ["frame"]
    assert stale(NODES, {**TRUE, "frames": "Bilder"}) == ["frames"]
