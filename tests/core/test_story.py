"""Stories in both forms, who is in a frame, and what is refused."""

import json

import pytest
from story_identity.core import story_fields
from story_identity.core.character_mentions import find_word
from story_identity.core.story import Story

MIRA = {"name": "Mira", "word": "woman", "description": "a young woman with short red hair"}
BEN = {"name": "Ben", "word": "man", "description": "an old man in a raincoat"}
PUBLISHED = {"character": ["a tall woman"], "token": ["woman"], "style": "ink of"}
ANA = {"name": "Ana", "word": "woman", "description": "a tall woman in a green coat"}


def story(*frames, characters=(MIRA, BEN), **more) -> Story:
    return Story.parse({"characters": list(characters), "frames": list(frames), **more})


def names(frame) -> list[str]:
    return [character.name for character in frame.cast]


def words(frame) -> list[str]:
    return [frame.prompt[start:end] for start, end in tuple(each.class_word for each in frame.appearances)]


def test_names_become_descriptions_once_and_the_class_word_after_that():
    frame = story("Mira greets Ben; Mira's hat falls, Ben laughs").frames[0]
    assert frame.prompt == (
        "a young woman with short red hair greets an old man in a raincoat; the woman's hat falls, the man laughs"
    )
    assert frame.caption == "Mira greets Ben; Mira's hat falls, Ben laughs"
    assert names(frame) == ["Mira", "Ben"]
    assert words(frame) == ["woman", "man"]
    assert frame.span_of("Mira") == (8, 13)
    assert story("Ben waits").frames[0].span_of("Mira") is None
    with pytest.raises(ValueError, match='frame 1: the story has no character "Nobody". It has "Mira", "Ben"'):
        frame.span_of("Nobody")


def telling(frame) -> list[str]:
    return [
        " ".join(frame.prompt[start:end] for start, end in spans)
        for spans in (each.identifying_words for each in frame.appearances)
    ]


def test_the_words_that_say_who_somebody_is_are_known():
    told = story("Ben greets Mira; Mira's hat falls", "the woman waits", "an empty beach", style="ink")
    assert [telling(frame) for frame in told.frames] == [
        ["old man raincoat", "young woman short red hair woman"],
        ["woman"],
        [],
    ]
    written = story("A young woman with short red hair, called Mira, and a woman").frames[0]
    assert telling(written) == ["young woman short red hair"]
    assert telling(story("Mira's hat, Mira").frames[0]) == ["woman young woman short red hair"]
    odd = "(25-year-old:1.1) polar bear, (red:1.25) scarf, embedding:bruno, of the (icy) north"
    bear = {"name": "Bruno", "word": "polar bear", "description": odd}
    parts = telling(story("Bruno", characters=[bear]).frames[0])
    assert parts == ["25-year-old polar polar bear bear red scarf icy north"]


def test_the_cast_is_found_by_names_and_class_words_in_the_order_of_the_prompt():
    frames = story(
        "Ben meets Mira", "a woman alone", "a manly mira at the womanhood", "An empty beach", "the MAN"
    ).frames
    assert [names(frame) for frame in frames] == [["Ben", "Mira"], ["Mira"], [], [], ["Ben"]]
    assert words(frames[4]) == ["MAN"]


def test_a_given_cast_wins():
    frame = story({"prompt": "a woman and a man on a bench", "cast": ["Ben"], "seed": 7, "negative": "rain"}).frames[0]
    assert names(frame) == ["Ben"]
    assert (frame.seed, frame.negative) == (7, "rain")
    assert story({"prompt": "a woman", "cast": []}).frames[0].cast == ()


def test_two_of_one_word_are_told_apart():
    frame = story("Ana waves to Mira", characters=(MIRA, ANA)).frames[0]
    assert names(frame) == ["Ana", "Mira"]
    assert words(frame) == ["woman", "woman"]
    assert frame.appearances[0].class_word == find_word("woman", frame.prompt)[0]
    assert frame.appearances[1].class_word == find_word("woman", frame.prompt)[1]
    both = story("a woman and another woman", characters=(MIRA, ANA)).frames[0]
    assert names(both) == ["Mira", "Ana"]
    with pytest.raises(ValueError, match='Frame 1: "woman" could be "Mira" or "Ana"'):
        story("a woman at the window", characters=(MIRA, ANA))
    named = story("Mira meets another woman", characters=(MIRA, ANA)).frames[0]
    assert names(named) == ["Mira"]


def test_style_and_negative_of_the_story():
    parsed = story("Mira waits", {"prompt": "rain", "negative": ""}, style="ink drawing", negative="blurry")
    assert parsed.frames[0].prompt == "ink drawing, a young woman with short red hair waits"
    assert [frame.negative for frame in parsed.frames] == ["blurry", ""]
    assert words(parsed.frames[0]) == ["woman"]


def test_a_prompt_that_has_the_description_is_left_alone():
    prompt = "A Young Woman with short red hair, called Mira, sleeps"
    frame = story(prompt).frames[0]
    assert frame.prompt == prompt
    assert words(frame) == ["Woman"]


def test_published_stories_load_as_they_are(tmp_path):
    one = {
        "character": "a middle-aged woman with dark curly hair",
        "token": "woman",
        "prompts": [f"A photo of a middle-aged woman with dark curly hair, scene {i}" for i in range(10)],
        "style": "A photo of",
        "settings": [f"scene {i}" for i in range(10)],
        "settings_types": ["indoor"] * 10,
    }
    path = tmp_path / "one.json"
    path.write_text(json.dumps(one), encoding="utf-8")
    parsed = Story.load(path)
    assert [frame.prompt for frame in parsed.frames] == one["prompts"]
    assert all(names(frame) == ["woman"] for frame in parsed.frames)
    assert parsed.character("").description == one["character"]
    assert parsed.metadata["settings_types"] == ["indoor"] * 10


def test_published_stories_of_two_are_built_from_style_and_settings():
    two = {
        "character": ["young woman with freckles", "an old man with a white beard"],
        "token": ["woman", "man"],
        "style": "A watercolor of",
        "settings": ["in a bakery", "on a ship"],
    }
    parsed = Story.parse(two)
    assert [frame.prompt for frame in parsed.frames] == [
        "A watercolor of a young woman and an old man in a bakery",
        "A watercolor of a young woman and an old man on a ship",
    ]
    assert [words(frame) for frame in parsed.frames] == [["woman", "man"]] * 2
    twins = Story.parse({**two, "character": ["a tall girl", "a small girl"], "token": ["girl", "girl"]})
    assert [names(frame) for frame in twins.frames] == [["girl 1", "girl 2"]] * 2
    assert twins.frames[0].appearances[0].class_word < twins.frames[0].appearances[1].class_word


def test_published_pairs_of_one_word_are_both_found():
    pair = {"character": ["a small boy, red cap", "old boy"], "token": ["boy", "boy"], "style": "ink of"}
    frame = Story.parse({**pair, "settings": ["in a boat"]}).frames[0]
    assert frame.prompt == "ink of a small boy and an old boy in a boat"
    assert names(frame) == ["boy 1", "boy 2"]
    same = Story.parse({**pair, "prompts": ["an old boy teases a small boy"]}).frames[0]
    assert names(same) == ["boy 2", "boy 1"]


def test_names_that_contain_one_another():
    kim, lee = {**MIRA, "name": "Kim"}, {**BEN, "name": "Kim Lee"}
    for characters in ((kim, lee), (lee, kim)):
        frames = story("Kim Lee runs", "Kim runs, Kim Lee waits", characters=characters).frames
        assert [names(frame) for frame in frames] == [["Kim Lee"], ["Kim", "Kim Lee"]]
        assert frames[0].prompt == "an old man in a raincoat runs"


@pytest.mark.parametrize(
    ("people", "prompt", "cast"),
    [
        ((MIRA, {**BEN, "description": "an old man in a woman's coat"}), "Ben walks", ["Ben"]),
        ((MIRA, {**BEN, "description": "an old man in a woman's coat"}), "Ben walks past a woman", ["Ben", "Mira"]),
        (({**MIRA, "description": "a young woman with a man's hat"}, BEN), "Mira runs", ["Mira"]),
        ((MIRA, BEN), "a man-made lake at dawn, nobody", []),
        ((MIRA, BEN), "a well-dressed man", ["Ben"]),
    ],
)
def test_words_inside_descriptions_and_compounds_cast_nobody(people, prompt, cast):
    frame = story(prompt, characters=people, style="a woman's magazine").frames[0]
    assert names(frame) == cast
    assert all(
        frame.prompt[start:end] == c.word
        for c, (start, end) in zip(frame.cast, [each.class_word for each in frame.appearances], strict=True)
    )


def test_a_possessive_does_not_take_the_description():
    assert story("Mira's hat falls, Mira laughs").frames[0].prompt == (
        "the woman's hat falls, a young woman with short red hair laughs"
    )


def test_text_lines_make_a_story():
    parsed = Story.from_lines("Mira | woman | a young woman\n\n", "Mira runs\n  \nnobody here", "ink", "blurry")
    assert [frame.prompt for frame in parsed.frames] == ["ink, a young woman runs", "ink, nobody here"]
    with pytest.raises(ValueError, match='Character line 1 is "Mira, a woman"; write "name . class word'):
        Story.from_lines("Mira, a woman", "Mira runs")


@pytest.mark.parametrize("bar", ["|", "\uff5c", "\uffe8"])
def test_full_width_bars_stand_between_the_parts_of_a_line(bar: str):
    parsed = Story.from_lines(f"小美{bar}女人 {bar} 一个年轻女人，短红发", "小美走")
    assert parsed.characters[0].description == "一个年轻女人，短红发"
    assert parsed.frames[0].prompt == "一个年轻女人，短红发走"


def test_characters_are_looked_up_by_name():
    parsed = story("Mira waits")
    assert parsed.character("Ben").word == "man"
    with pytest.raises(ValueError, match='no character "Bob". It has "Mira", "Ben"'):
        parsed.character("Bob")
    with pytest.raises(ValueError, match='no character ""'):
        parsed.character("")


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ([], "A story is a JSON object, not a list"),
        ({}, 'neither "characters" nor'),
        ({"characters": [MIRA], "frames": []}, "no frames"),
        ({"characters": [MIRA]}, "no frames"),
        ({"characters": [], "frames": ["x"]}, "no characters"),
        ({"characters": [MIRA], "frames": "Mira waits"}, '"frames" must be a list'),
        ({"characters": [MIRA], "frames": ["x"], "prompts": ["x"]}, 'both "frames" and "prompts"'),
        ({"characters": [MIRA], "frames": ["x", 5]}, "Frame 2 must be a prompt or an object, not 5"),
        ({"characters": [MIRA], "frames": ["x", {"prompt": " "}]}, 'Frame 2: "prompt" is missing or empty'),
        (
            {"characters": [MIRA], "frames": [{"prompt": "x", "sead": 1}]},
            'Frame 1: unknown key "sead". Known are prompt',
        ),
        ({"characters": [MIRA], "frames": [{"prompt": "x", "seed": -1}]}, 'Frame 1: "seed" must be a whole number'),
        ({"characters": [MIRA], "frames": [{"prompt": "x", "seed": True}]}, '"seed" must be a whole number'),
        (
            {"characters": [MIRA], "frames": ["x", {"prompt": "a woman", "cast": ["Bob"]}]},
            'Frame 2: the cast names "Bob", but the story\'s characters are "Mira"',
        ),
        ({"characters": [MIRA], "frames": [{"prompt": "a woman", "cast": "Mira"}]}, '"cast" must be a list'),
        ({"characters": [MIRA], "frames": [{"prompt": "a woman", "cast": ["Mira", "Mira"]}]}, 'names "Mira" twice'),
        (
            {"characters": [MIRA], "frames": [{"prompt": "an empty room", "cast": ["Mira"]}]},
            'Frame 1: the class word "woman" of "Mira" is not in the prompt "an empty room"',
        ),
        (
            {"characters": [{**MIRA, "word": "girl"}], "frames": ["x"]},
            'class word "girl" is not a word of the description',
        ),
        ({"characters": [MIRA, MIRA], "frames": ["x"]}, 'Two characters are called "Mira"'),
        ({"characters": [{"name": "Mira"}], "frames": ["x"]}, 'Character 1: "word" is missing'),
        ({"characters": [{**MIRA, "age": 3}], "frames": ["x"]}, 'Character 1: unknown key "age"'),
        ({"characters": ["Mira"], "frames": ["x"]}, "Character 1 must be an object"),
        ({"characters": [{**MIRA, "reference_images": [1]}], "frames": ["x"]}, "must be paths"),
        ({"character": "a woman", "token": ["woman", "man"], "prompts": ["x"]}, '1 in "character" but 2 in "token"'),
        ({"character": "a woman", "token": "woman"}, "no frames"),
        ({"character": "a woman", "token": "man", "prompts": ["x"]}, 'class word "man" is not a word'),
        ({"character": "a woman", "prompts": ["x"]}, '"character" but no "token"'),
        ({"character": "a woman", "token": 5, "prompts": ["x"]}, '"token" must be a list'),
        ({**PUBLISHED, "settings": [None]}, '"settings", entry 1, must be text, not None'),
        ({**PUBLISHED, "settings": ["x", 5]}, '"settings", entry 2, must be text, not 5'),
        ({**PUBLISHED, "settings": "x"}, '"settings" must be a list, not "x"'),
        ({**PUBLISHED, "prompts": [None]}, '"prompts", entry 1, must be text, not None'),
        ({**PUBLISHED, "prompts": [{"prompt": "x"}]}, '"prompts", entry 1, must be text'),
        ({**PUBLISHED, "prompts": ["x"], "settings": [None]}, '"settings", entry 1, must be text'),
        ({**PUBLISHED, "prompts": ["x"], "style": 5}, 'the story: "style" must be text, not 5'),
        ({**PUBLISHED, "prompts": [" "]}, 'Frame 1: "prompt" is missing or empty'),
        ({**PUBLISHED, "settings": ["x"], "token": [["woman"]]}, 'Character 1: "token" must be text'),
        ({"characters": [MIRA], "frames": [{"prompt": "a woman", "cast": [["Mira"]]}]}, "cast names ..Mira.., but the"),
        ({"characters": [MIRA], "frames": [{"prompt": "a woman", "cast": [{}]}]}, "cast names {}, but the story"),
        ({"characters": [MIRA], "frames": [{"prompt": "a woman", 5: 1}]}, "Frame 1: unknown key 5"),
    ],
)
def test_malformed_stories_are_refused(mapping, message):
    with pytest.raises(ValueError, match=message):
        Story.parse(mapping)


def test_files_that_are_no_stories_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no story file"):
        Story.load(tmp_path / "gone.json")
    broken = tmp_path / "broken.json"
    broken.write_text('{"characters": [')
    with pytest.raises(ValueError, match=r"broken\.json is not valid JSON"):
        Story.load(broken)
    empty = tmp_path / "empty.json"
    empty.write_text("{}")
    with pytest.raises(ValueError, match=r"empty\.json: The story has neither"):
        Story.load(empty)


def test_a_story_file_with_a_byte_order_mark_loads(tmp_path):
    path = tmp_path / "bom.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"characters": [MIRA], "frames": ["Mira wartet auf Zoë"]}).encode())
    assert names(Story.load(path).frames[0]) == ["Mira"]


def test_a_utf_16_file_is_refused_by_name(tmp_path):
    path = tmp_path / "wide.json"
    path.write_text(json.dumps({"characters": [MIRA], "frames": ["x"]}), encoding="utf-16")
    with pytest.raises(ValueError, match=r"wide\.json is not UTF-8 text: .*Save it as UTF-8"):
        Story.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"frames": ["x"], "frames": ["y"]}', 'the key "frames" stands twice in one object; keep one'),
        ('{"characters": [{"name": "A", "na\\u006de": "B"}], "frames": ["x"]}', 'the key "name" stands twice'),
        ('{"notes": ' + "[" * 100_000 + "]" * 100_000 + "}", "its lists and objects are nested too deeply"),
        ('{"notes": ' + '{"a":' * 100_000 + "1" + "}" * 100_000 + "}", "its lists and objects are nested too deeply"),
        ('{"seed": ' + "9" * 5_000 + "}", "is not valid JSON: .*4300 digits"),
    ],
)
def test_json_that_python_would_misread_or_cannot_read_is_refused(tmp_path, text: str, message: str):
    path = tmp_path / "odd.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as refused:
        Story.load(path)
    assert str(refused.value).startswith("odd.json")


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"style": "ink \ud83d"}, 'the story: "style"'),
        ({"negative": "\udc00"}, 'the story: "negative"'),
        ({"frames": ["x", "Mira \ud800"]}, 'Frame 2: "prompt"'),
        ({"frames": [{"prompt": "x", "negative": "\ud800"}]}, 'Frame 1: "negative"'),
        ({"characters": [{**MIRA, "name": "Mira\ud800"}]}, 'Character 1: "name"'),
        ({"characters": [{**MIRA, "word": "\ud800"}]}, 'Character 1: "word"'),
        ({"characters": [{**MIRA, "description": "a woman \ud800"}]}, 'Character 1: "description"'),
        ({"characters": [{**MIRA, "reference_images": ["a\ud800.png"]}]}, 'Character 1: "reference_images"'),
    ],
)
def test_half_a_character_is_refused_in_words_that_can_be_encoded(tmp_path, change: dict, where: str):
    mapping = {"characters": [MIRA], "frames": ["Mira waits"], **change}
    path = tmp_path / "half.json"
    path.write_text(json.dumps(mapping))
    for read in (lambda: Story.parse(mapping), lambda: Story.load(path)):
        with pytest.raises(ValueError, match=f"{where} has half of a character .the lone surrogate U") as refused:
            read()
        str(refused.value).encode()


@pytest.mark.parametrize(
    "read",
    [
        lambda: Story.from_lines("Mira | woman", "x\ud800"),
        lambda: Story.from_lines("Mi\ud800 | woman | a woman", "x"),
        lambda: Story.from_lines("Mi\x1b[31mra, a woman", "x"),
        lambda: Story.parse({"characters": [MIRA], "frames": [{"prompt": "a woman", "cast": ["\ud800"]}]}),
        lambda: Story.parse({"characters": [MIRA], "frames": [{"prompt": "a woman", "\ud800": 1}]}),
        lambda: story("x").character("\ud800"),
        lambda: story("x").frames[0].span_of("\ud800"),
        lambda: Story.load("no\ud800where.json"),
        lambda: Story.load("no\x1b[31mwhere.json"),
        lambda: Story.load("n" * 5_000),
    ],
)
def test_what_a_message_quotes_can_be_printed(read):
    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        read()
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 1_500


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"characters": [MIRA] * 1_001}, '"characters" has 1,001 entries; at most 1,000 are allowed'),
        ({"frames": ["x"] * 10_001}, '"frames" has 10,001 entries; at most 10,000 are allowed'),
        ({"frames": ["x" * 100_001]}, 'Frame 1: "prompt" has 100,001 characters of text; at most 100,000'),
        ({"characters": [{**MIRA, "name": "M" * 201}]}, '"name" has 201 characters of text; at most 200'),
        ({"characters": [{**MIRA, "word": "w" * 101}]}, '"word" has 101 characters of text; at most 100'),
        ({"characters": [{**MIRA, "description": "w" * 10_001}]}, '"description" has 10,001 characters'),
        ({"style": "s" * 10_001}, '"style" has 10,001 characters'),
        ({"style": "s" * 9_990, "frames": ["x"] * 201}, "Frame 201: up to here the prompts, with their descriptions"),
        ({"characters": [{**MIRA, "reference_images": ["p"] * 1_001}]}, '"reference_images" has 1,001 entries'),
    ],
)
def test_a_story_has_limits(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Story.parse({"characters": [MIRA], "frames": ["Mira waits"], **change})


def test_a_published_story_does_not_grow_without_limit():
    tall = {"character": [f"{'tall ' * 1_900}woman {i}" for i in range(100)], "token": ["woman"] * 100}
    with pytest.raises(ValueError, match='Frame 1: "prompt" has .* characters of text'):
        Story.parse({**tall, "settings": ["here"] * 10_000})


def test_typed_text_and_files_have_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(story_fields, "LARGEST_FILE", 1_000)
    path = tmp_path / "large.json"
    path.write_text(json.dumps({"characters": [MIRA], "frames": ["x"], "notes": "n" * 1_000}))
    with pytest.raises(ValueError, match=r"large\.json is larger than a story file may be, 1,000 bytes"):
        Story.load(path)
    with pytest.raises(ValueError, match="characters has 11,000,000 characters of text; at most 10,000,000"):
        Story.from_lines("Ada\n" * 2_750_000, "x")
    with pytest.raises(ValueError, match='"characters" has 100,000 entries; at most 1,000'):
        Story.from_lines("Ada | woman | a woman\n" * 100_000, "x")


PUBLISHED = {
    "character": ["a young woman with red hair", "an old man in a raincoat"],
    "token": ["woman", "man"],
    "style": "a photo of",
    "settings": ["in a kitchen", "at a bus stop"],
    "prompts": ["a young woman with red hair and an old man in a raincoat eat"],
}


def test_the_prompt_of_a_frame_or_the_description_alone():
    story = Story.parse({
        "characters": [{"name": "Mira", "word": "woman", "description": "a young woman with red hair"}],
        "style": "watercolor",
        "frames": ["the rain falls, a woman waits", "Mira waits"],
    })  # fmt: skip
    for frame in story.frames:
        (each,) = frame.appearances
        assert frame.prompt_about(each) == (frame.prompt, each.class_word)
        text, span = frame.prompt_about(each, "character")
        assert text == "watercolor, a young woman with red hair"
        assert text[slice(*span)] == "woman"
    with pytest.raises(ValueError, match='frame 2: prompt is "both"; it must be one of frame, character'):
        frame.prompt_about(each, "both")


def test_prompts_as_the_published_code_builds_them():
    """Of several characters, style and settings count, descriptions end at the class word, and prompts do not count."""
    plain, published = (Story.parse(PUBLISHED, as_published) for as_published in (False, True))
    assert [frame.prompt for frame in plain.frames] == PUBLISHED["prompts"]
    assert [frame.prompt for frame in published.frames] == [
        "a photo of a young woman and an old man in a kitchen",
        "a photo of a young woman and an old man at a bus stop",
    ]
    woman, man = (published.frames[1].prompt_about(each, "character")[0] for each in published.frames[1].appearances)
    assert woman == "a photo of a young woman with red hair"
    assert man == "a photo of an old man in a raincoat"
    assert plain.frames[0].prompt_about(plain.frames[0].appearances[1], "character")[0] == "an old man in a raincoat"


def test_one_published_character_keeps_the_prompts_and_is_described_alone():
    alone = {**PUBLISHED, "character": PUBLISHED["character"][0], "token": "woman", "prompts": ["a woman eats"]}
    story = Story.parse(alone, as_published=True)
    assert [frame.prompt for frame in story.frames] == ["a woman eats"]
    without = Story.parse({**alone, "prompts": []}, as_published=True)
    assert without.frames[0].prompt == "a photo of a young woman in a kitchen"
    for frame in (story.frames[0], without.frames[0]):
        assert frame.prompt_about(frame.appearances[0], "character")[0] == "a young woman with red hair"
    with pytest.raises(ValueError, match="our own form"):
        Story.parse({"characters": [], "frames": []}, as_published=True)
