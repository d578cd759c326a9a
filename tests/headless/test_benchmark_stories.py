"""Published sets of stories: what is read, what is left out, and what is refused by name."""

import json

import pytest
from PIL import Image
from story_identity.headless.benchmark_stories import CONSISTORY_HUMAN, VISTORYBENCH, open_set

ONE = {"character": "a woman with red hair", "token": "woman", "prompts": ["a woman with red hair on a beach"]}
TWO = {
    "character": ["a woman with red hair", "a boy with black hair"],
    "token": ["woman", "boy"],
    "style": "A photo of",
    "settings": ["in a forest", "in the snow"],
    "prompts": ["left out"],
}
SHOT = {
    "index": 1,
    "Static Shot Description": {"en": "Anna waves at the cat.", "ch": "..."},
    "Setting Description": {"en": "A street at night."},
    "Characters Appearing": {"en": ["Anna", "Cat"]},
    "Plot Correspondence": {"en": "She leaves."},
    "Shot Perspective Design": {"en": "Wide shot."},
}
STORY = {
    "Story_type": {"en": "novel"},
    "Characters": {
        "Anna": {"name_en": "Anna", "prompt_en": "A tall woman, once a girl, in a coat", "tag": "realistic_human"},
        "Cat": {"name_en": "Tom", "prompt_en": "grey fur, green eyes", "tag": "non_human"},
    },
    "Shots": [SHOT, {**SHOT, "Characters Appearing": {"en": []}}],
}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_prompts_are_those_of_the_published_code(tmp_path):
    write(tmp_path / "one.json", ONE)
    write(tmp_path / "multi-2" / "two.json", TWO)
    two, one = open_set(CONSISTORY_HUMAN, tmp_path)
    assert (two.name, one.name) == ("multi-2/two", "one")
    assert [frame.prompt for frame in two.story.frames] == [
        "A photo of a woman and a boy in a forest", "A photo of a woman and a boy in the snow",
    ]  # fmt: skip
    assert one.story.frames[0].prompt == ONE["prompts"][0]
    assert len(open_set(CONSISTORY_HUMAN, tmp_path, 1)) == 1


def test_a_story_of_vistorybench(tmp_path):
    write(tmp_path / "01" / "story.json", STORY)
    for name in ("b.png", "a.jpg", "notes.txt"):
        path = tmp_path / "01" / "image" / "Anna" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path, format="PNG")
    (each,) = open_set(VISTORYBENCH, tmp_path)
    anna, tom = each.story.characters
    assert (each.name, each.people) == ("01", {"Anna"})
    assert (anna.word, tom.word) == ("woman", "character")
    assert tom.description == "a character, grey fur, green eyes"
    assert {who: [path.name for path in files] for who, files in each.references.items()} == {
        "Anna": ["a.jpg", "b.png"]
    }
    first, second = each.story.frames
    assert {person.name for person in first.cast} == {"Anna", "Tom"}
    assert "waves at the cat. A street at night." in first.prompt
    assert all(person.description in first.prompt for person in (anna, tom))
    assert not second.cast


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Shots": None}, 'objects "Characters" and "Shots"'),
        ({"Characters": {"Anna": 3}}, 'Character "Anna" must be an object'),
        ({"Characters": {"Anna": {"name_en": "Anna"}}}, 'needs "name_en" and "prompt_en"'),
        ({"Shots": [{"index": 1}]}, 'Shot 1 needs "Static Shot Description"'),
        ({"Shots": [{**SHOT, "Characters Appearing": {"en": ["Eve"]}}]}, '"Eve" is none of the story\'s characters'),
        ({"Shots": [{**SHOT, "Characters Appearing": {"en": "Anna"}}]}, "must be a list"),
    ],
)
def test_malformed_stories_are_named(tmp_path, change, message):
    write(tmp_path / "07" / "story.json", {**STORY, **change})
    with pytest.raises(ValueError, match=r"^07/story\.json: ") as error:
        open_set(VISTORYBENCH, tmp_path)
    assert message in str(error.value)


def test_what_is_no_set(tmp_path):
    with pytest.raises(ValueError, match='no benchmark "Consistory"; there are ConsiStory-Human and ViStoryBench'):
        open_set("Consistory", tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no story in"):
        open_set(VISTORYBENCH, tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        open_set(CONSISTORY_HUMAN, tmp_path / "nowhere")
    write(tmp_path / "bad.json", {"character": "a woman"})
    with pytest.raises(ValueError, match=r"bad\.json: .*token"):
        open_set(CONSISTORY_HUMAN, tmp_path)
