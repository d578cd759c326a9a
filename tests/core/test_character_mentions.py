"""Whole words in any script, and who is in a caption."""

import unicodedata

import pytest
from story_identity.core.character_mentions import Character, cut_after_word, find_word, identifying_words
from story_identity.core.story import Story
from story_identity.core.text_search import PhraseIndex, SearchedText, content_words, folded, needs_space

MIRA = {"name": "Mira", "word": "woman", "description": "a young woman with short red hair"}
BEN = {"name": "Ben", "word": "man", "description": "an old man in a raincoat"}


def frame_of(prompt: str, *characters: dict):
    return Story.parse({"characters": list(characters) or [MIRA, BEN], "frames": [prompt]}).frames[0]


def names(frame) -> list[str]:
    return [character.name for character in frame.cast]


def called(name: str, word: str = "woman", description: str = "a young woman with short red hair") -> dict:
    return {"name": name, "word": word, "description": description}


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("小美", "小美walks"),
        ("小美", "小美在走"),
        ("小美", "走吧小美、快点"),
        ("さくら", "さくらが歩く"),
        ("さくら", "街でさくらさんが歩く"),
        ("アン", "アンが歩く"),
        ("アン", "メアリ・アン"),
        ("สมชาย", "วันนี้สมชายเดินไป"),
        ("ສົມ", "ມື້ນີ້ສົມຍ່າງ"),
        ("សុខ", "ថ្ងៃនេះសុខដើរ"),
        ("မောင်", "ယနေ့မောင်သွား"),
        ("राम", "राम चलता है"),
        ("Mira", "Miraが歩く"),
        ("Mira", "Mira가 걷는다"),
        ("지은", "지은은 걷는다"),
        ("지은", "지은이 걷는다"),
        ("지은", "지은이가 걷는다"),
        ("지은", "지은에게는 집이 있다"),
        ("지은", "지은씨가 걷는다"),
        ("지은", "지은, 걷는다"),
        ("민수", "민수와의 약속"),
        ("여자", "여자들이 걷는다"),
        ("Mira", "“Mira”, she said"),
        ("Mira", "(Mira:1.2)"),
        ("Dr. T.", "Dr. T. waits"),
        ("👩", "the 👩 waits"),
    ],
)
def test_a_word_is_found_in_any_script(word: str, text: str):
    start = text.index(word)
    assert find_word(word, text) == [(start, start + len(word))]


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("man", "woman"),
        ("man", "man-made"),
        ("man", "man\u2011made"),
        ("man", "man_1"),
        ("राम", "रामा"),
        ("राम", "श्रीराम"),
        ("Zoe", "Zoe\u0308"),
        ("x", "x\u0302"),
        ("アン", "アンテナ"),
        ("マリ", "マリー"),
        ("人", "人々"),
        ("มา", "เมา"),
        ("มาน", "มานะ"),
        ("지은", "지은숙"),
        ("지은", "옥지은"),
        ("여자", "여자아이"),
        ("여자", "여자친구"),
        ("J.", "J.R. waits"),
        ("👩", "👩\u200d🚀"),
        ("👩", "👩🏽"),
        ("Mira", "embedding:Mira"),
        ("Mira", "embedding: Mira walks"),
        ("Mira", "(embedding:Mira:1.2)"),
        ("Mira", "embedding:people/Mira.pt"),
        ("embedding", "embedding:Mira"),
        ("Mira", "<lora:Mira:0.8>"),
        ("Mira", "<lora:people Mira:0.8>"),
        ("Mira", "<lyco:Mira"),
        ("", "Mira"),
    ],
)
def test_a_part_of_a_word_or_of_a_file_reference_is_no_word(word: str, text: str):
    assert find_word(word, text) == []


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("other", ["NFC", "NFD"])
@pytest.mark.parametrize("word", ["Zoë", "지은", "Åsa Ķ", "Nguyễn"])
def test_composed_and_decomposed_letters_are_the_same_and_places_are_those_of_the_text(form, other, word):
    written = unicodedata.normalize(other, word)
    text = unicodedata.normalize(other, "é ") + written + ", " + written
    first = text.index(written)
    second = text.index(written, first + 1)
    assert find_word(unicodedata.normalize(form, word), text) == [
        (first, first + len(written)),
        (second, second + len(written)),
    ]


def test_capitals_count_where_they_should():
    assert find_word("mira", "MIRA mira", ignore_case=False) == [(5, 9)]
    assert find_word("ΟΔΟΣ", "οδός οδος Οδοσ") == [(5, 9), (10, 14)]
    assert find_word("straße", "STRASSE straße Straẞe") == [(8, 14), (15, 21)]
    for text in ("İI", "ǅ", "ßẞ", "ﬀ", "Σς"):
        assert len(folded(text)) == len(text)


def test_the_leftmost_and_then_the_longest_of_several_phrases_counts():
    index = PhraseIndex(["a b", "b c d", "a", "c", "a b c"], ignore_case=False)
    searched = SearchedText("a b c d, a b; b c d a")
    found = [phrase for phrase, _ in index.find_leftmost(searched, without=())]
    assert found == ["a b c", "a b", "b c d", "a"]
    assert [phrase for phrase, _ in index.find_leftmost(searched, without={"a b c", "a"})] == [
        "a b",
        "c",
        "a b",
        "b c d",
    ]
    assert list(PhraseIndex(["a a", "a"], ignore_case=False).find_leftmost(SearchedText("a a a"), without=())) == [
        ("a a", (0, 3)),
        ("a", (4, 5)),
    ]


def test_an_index_finds_what_looking_for_one_word_after_another_finds():
    phrases = [
        "a",
        "a tall woman",
        "woman",
        "woman in red",
        "小美",
        "美",
        "지은",
        "Person 1",
        "Person 10",
        "(red",
        "red)",
    ]
    text = "Person 10 and a tall woman in red meet 지은이 and 小美, a woman, person 1 (red) Person 1"
    for ignore_case in (True, False):
        alone = {
            (folded(each) if ignore_case else each, span)
            for each in phrases
            for span in find_word(each, text, ignore_case)
        }
        assert set(PhraseIndex(phrases, ignore_case).find(SearchedText(text))) == alone


def test_content_words_leave_out_weights_and_file_references():
    text = "(25-year-old:1.1) श्रीमती embedding:bruno red:1.2 <lora:mira:0.8> x\u0302y"
    assert [text[start:end] for start, end in content_words(text)] == ["25-year-old", "श्रीमती", "red", "x\u0302y"]


@pytest.mark.parametrize(
    ("before", "after", "is_needed"),
    [
        ("n", "w", True),
        ("n", "が", True),
        ("n", "이", True),
        ("人", "w", True),
        ("人", "走", False),
        ("자", "이", False),
    ]
    + [("n", "'", False), ("n", " ", False), ("n", "1", True), ("-", "w", False)],
)
def test_where_two_words_would_become_one(before: str, after: str, is_needed: bool):
    assert needs_space(before, after) is is_needed


@pytest.mark.parametrize(
    "reference", ["embedding:Mira", "(embedding:Mira:1.2)", "<lora:Mira:0.8>", "embedding:Ben-Mira", "EMBEDDING:Mira"]
)
def test_names_inside_file_references_stay(reference: str):
    frame = frame_of(f"{reference}, Mira waits")
    assert frame.prompt == f"{reference}, a young woman with short red hair waits"
    assert names(frame) == ["Mira"]
    assert names(frame_of(f"{reference}, nobody")) == []


@pytest.mark.parametrize("reference", ["embedding:woman", "<lora:woman:0.8>", "(embedding:a-woman:1.2)"])
def test_class_words_inside_file_references_cast_nobody(reference: str):
    assert names(frame_of(f"{reference}, an empty beach")) == []
    frame = frame_of(f"{reference}, a woman waits")
    assert names(frame) == ["Mira"]
    assert tuple(each.class_word for each in frame.appearances) == (find_word("woman", frame.prompt)[0],)
    assert frame.appearances[0].class_word[0] > len(reference)


def test_a_description_may_hold_a_file_reference_but_its_class_word_may_not_be_in_it():
    mira = called("Mira", description="embedding:woman_v2 woman, red hair")
    for prompt in ("Mira waits", "embedding:woman_v2 woman, red hair waits"):
        frame = frame_of(prompt, mira)
        assert frame.prompt == "embedding:woman_v2 woman, red hair waits"
        assert tuple(each.class_word for each in frame.appearances) == ((19, 24),)
        assert [frame.prompt[start:end] for start, end in frame.appearances[0].identifying_words] == [
            "woman",
            "red",
            "hair",
        ]
    with pytest.raises(ValueError, match='class word "woman" is not a word of the description "embedding:woman, red"'):
        frame_of("Mira", called("Mira", description="embedding:woman, red"))


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("other", ["NFC", "NFD"])
def test_a_story_is_in_composed_form_however_it_was_written(form: str, other: str):
    zoe = {key: unicodedata.normalize(form, value) for key, value in called("Zoë", "señora", "una señora alta").items()}
    prompts = [unicodedata.normalize(other, each) for each in ("Zoë waits in a café", "una señora alta", "la SEÑORA")]
    story = Story.parse({"characters": [zoe], "frames": [{"prompt": prompts[0], "cast": [zoe["name"]]}, *prompts[1:]]})
    assert [frame.prompt for frame in story.frames] == [
        "una señora alta waits in a café",
        "una señora alta",
        "la SEÑORA",
    ]
    for frame in story.frames:
        assert names(frame) == ["Zoë"]
        assert frame.prompt[slice(*frame.appearances[0].class_word)].lower() == "señora"
        assert frame.span_of(unicodedata.normalize(other, "Zoë")) == frame.appearances[0].class_word
    assert story.character(unicodedata.normalize(other, "Zoë")) is story.characters[0]


def test_two_forms_of_one_name_are_one_name():
    with pytest.raises(ValueError, match="Two characters are called"):
        Story.parse({"characters": [called("Zo\u00eb"), called("Zoe\u0308")], "frames": ["x"]})


@pytest.mark.parametrize(
    ("name", "word", "description", "prompt", "finished"),
    [
        ("小美", "woman", "a young woman", "小美walks", "a young woman walks"),
        ("小美", "女人", "一个年轻女人", "小美在街上走", "一个年轻女人在街上走"),
        ("さくら", "woman", "a young woman", "街でさくらが歩く", "街で a young woman が歩く"),
        ("지은", "여자", "젊은 여자", "지은이가 걷는다", "젊은 여자이가 걷는다"),
        ("지은", "woman", "a young woman", "지은은 걷는다", "a young woman 은 걷는다"),
        ("Mira", "woman", "a young woman", "Mira's hat, Mira-like", "a young woman's hat, Mira-like"),
    ],
)
def test_a_description_in_place_of_a_name_is_not_glued_to_its_neighbours(name, word, description, prompt, finished):
    frame = frame_of(prompt, called(name, word, description))
    assert frame.prompt == finished
    assert [frame.prompt[start:end] for start, end in tuple(each.class_word for each in frame.appearances)] == [word]


def test_the_longer_of_two_korean_names_is_meant():
    people = called("지은"), called("지은이", "man", "an old man")
    assert names(frame_of("지은이가 걷는다", *people)) == ["지은이"]
    assert names(frame_of("지은은 걷는다", *people)) == ["지은"]


def test_words_after_replaced_names_are_found_where_they_went():
    people = [called("A"), called("B", "man", "an old man"), called("C", "robot", "a robot")]
    frame = frame_of("A, B, A, an old man, the robot and B", *people)
    assert frame.prompt == "a young woman with short red hair, B, the woman, an old man, the robot and B"
    assert [frame.prompt[start:end] for start, end in tuple(each.class_word for each in frame.appearances)] == [
        "woman",
        "man",
        "robot",
    ]
    assert tuple(each.class_word for each in frame.appearances)[1:] == ((56, 59), (65, 70))


def test_identifying_words_of_mentions_that_others_found():
    character = Character("Mira", "woman", "a young woman")
    assert cut_after_word(character) == "a young woman"
    assert identifying_words("the woman", [], [character], [(4, 9)]) == [((4, 9),)]


def test_a_text_costs_what_is_in_it_and_not_what_is_in_the_story(monkeypatch):
    """Nothing is prepared per frame and character, and only phrases are looked for that can be there."""
    made, looked_for = [], []
    find, prepare = SearchedText.next, SearchedText.__init__
    monkeypatch.setattr(SearchedText, "__init__", lambda self, text: (made.append(text), prepare(self, text))[1])
    monkeypatch.setattr(SearchedText, "next", lambda self, *given: (looked_for.append(given), find(self, *given))[1])
    people = [called(f"Person {i}", "woman", f"a woman with hat number {i}") for i in range(150)]
    frames = [{"prompt": f"Person {i} meets Person {i + 1}", "cast": []} for i in range(140)]
    Story.parse({"characters": people, "frames": frames})
    assert len(made) <= 3 * len(people) + len(frames)
    assert len(looked_for) <= 3 * len(people) + 12 * len(frames)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["Ada " * 20_000, "Ada's " * 10_000, "Ada" * 30_000, "a woman, " * 10_000])
def test_a_prompt_of_one_word_over_and_over(text: str):
    frame = frame_of(text, called("Ada"))
    assert frame.prompt.count("short red hair") == frame.caption.startswith(("Ada ", "Ada's"))
    assert names(frame) == ([] if text.startswith("AdaAda") else ["Ada"])


@pytest.mark.slow
def test_a_thousand_characters_in_a_thousand_frames():
    people = [called(f"Person {i}", "woman", f"a tall woman with hat number {i}") for i in range(1000)]
    frames = [f"Person {i} meets Person {(7 * i + 1) % 1000} at the sea" for i in range(1000)]
    story = Story.parse({"characters": people, "frames": frames})
    assert [names(frame) for frame in story.frames[:2]] == [["Person 0", "Person 1"], ["Person 1", "Person 8"]]
    assert sum(len(frame.cast) for frame in story.frames) == 2000
