"""Generated stories, most of them malformed: each is read, or refused in one short sentence that can be printed.

The generators are seeded; a case is named by its number.
"""

import copy
import json
import random
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from story_identity.core.near_misses import unfound_names
from story_identity.core.story import Story

OURS = {
    "characters": [
        {"name": "Mira", "word": "woman", "description": "a young woman with short red hair", "reference_images": []},
        {"name": "Zoë", "word": "robot", "description": "a robot with a white lamp"},
    ],
    "style": "watercolor",
    "negative": "blurry",
    "frames": ["Mira meets Zoë", {"prompt": "a woman alone", "cast": ["Mira"], "seed": 7, "negative": "rain"}],
}
ONE = {"character": "a tall woman", "token": "woman", "prompts": ["a tall woman reads", "a tall woman sleeps"]}
TWO = {
    "character": ["a tall woman", "an old man with a beard"],
    "token": ["woman", "man"],
    "style": "ink of",
    "settings": ["in a bakery", "on a ship"],
    "settings_types": ["indoor", "outdoor"],
}
JUNK: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 7, 2**64, 10**300, 0.5, float("nan"), float("inf"), 1e400),
    *("", " ", "\t\n", "Mira", "mira", "woman", "|", "\x00", "\x1b[31m", "\ud83d", "a\udc00b", "\u202egnp", "\u200b"),
    *(
        "e\u0301",
        "小美walks",
        "지은이가",
        "राम",
        "👩\u200d🚀",
        "<lora:Mira:1>",
        "embedding:Mira",
        "(woman:1.2)",
        "\ufeff",
    ),
    *("x" * 3_000, "Mira " * 2_000, "woman " * 30_000, "\x01" * 500, "\u2028" * 300),
    *([], [None], [[]], [{}], ["Mira"], ["Mira", "Mira"], [["Mira"]], ["\ud800"], list(range(300))),
    *({}, {"prompt": None}, {"name": "Mira"}, {"Mira": "woman"}, {"\ud800": 1}, {"a": {"b": {"c": {"d": {}}}}}),
)
LETTERS = 'ab woman Mira | \uff5c,\n\t\\"{}[]:<>()1é\u0301\u200d\ud800\x1b소美กा🤖'
KEYS = (
    "name",
    "word",
    "prompt",
    "cast",
    "token",
    "frames",
    "prompts",
    "characters",
    "settings",
    "",
    "\ud800",
    "x" * 3_000,
)
LONGEST_MESSAGE = 1_500
CASES_A_TEST = 50


def check(read: Any) -> str:
    """Read a story; what it came to in one word."""
    try:
        story = read()
    except (ValueError, FileNotFoundError) as error:
        check_message(str(error))
        return "refused"
    for frame in story.frames:
        frame.prompt.encode()
        frame.negative.encode()
        for each in frame.appearances:
            assert frame.prompt[slice(*each.class_word)].lower() == each.character.word.lower()
            assert all(0 <= first < last <= len(frame.prompt) for first, last in each.identifying_words)
    for warning in unfound_names(story):
        check_message(warning)
    return "read"


def check_message(said: str) -> None:
    """That a terminal and a log can show it."""
    said.encode()
    assert len(said) < LONGEST_MESSAGE, said
    assert not {unicodedata.category(letter) for letter in said} & {"Cc", "Cs", "Zl", "Zp"}, said


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Where every value of a JSON value stands, itself among them."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] + [each for key, entry in inside for each in places(entry, (*path, key))]


def change(chance: random.Random, story: Any) -> Any:
    """A story with one value replaced, taken away, doubled, put deeper or under another key."""
    *path, last = chance.choice(places(story)[1:] or [("characters",)])
    holder = story
    for key in path:
        holder = holder[key]
    deed = chance.randrange(6)
    if deed <= 1 or not isinstance(holder, (dict, list)):
        holder[last] = copy.deepcopy(chance.choice(JUNK))
    elif deed == 2:
        del holder[last]
    elif deed == 3 and isinstance(holder, list):
        holder.insert(last, copy.deepcopy(holder[last]))
    elif deed == 3:
        holder[chance.choice(KEYS)] = copy.deepcopy(chance.choice(JUNK))
    elif deed == 4:
        holder[last] = [holder[last]] if chance.random() < 0.5 else {chance.choice(KEYS): holder[last]}
    elif isinstance(holder, dict):
        holder[chance.choice(KEYS)] = holder.pop(last)
    return story


def damage(chance: random.Random, text: bytes) -> bytes:
    """The bytes of a file cut, with some replaced, with a key doubled, nested deeply, or in another encoding."""
    deed, place = chance.randrange(8), chance.randrange(len(text))
    if deed == 0:
        return text[:place]
    if deed == 1:
        return text[:place] + bytes(chance.randrange(256) for _ in range(chance.randrange(1, 9))) + text[place + 1 :]
    if deed == 2:
        return text.replace(b'"name"', b'"word"').replace(b'"token"', b'"character"')
    if deed == 3:
        deep = chance.choice((b"[", b'{"a":')) * chance.choice((100, 900, 5_000, 200_000))
        return b'{"notes": ' + deep + text + b"]" * place
    if deed == 4:
        return text.decode().encode(chance.choice(("utf-16", "utf-8-sig", "utf-32", "utf-7", "cp037")))
    if deed == 5:
        return text.replace(b"7", b"9" * chance.choice((20, 4_000, 5_000)))
    if deed == 6:
        return chance.choice(
            (b"", b"\x00", b"null", b"[]", b'"x"', b"NaN", b"\xef\xbb\xbf", b"version https://git-lfs")
        )
    return text + text


def typed(chance: random.Random) -> list[str]:
    """The four fields of the Story node."""
    names = [chance.choice(("Mira", "Zoë", "小美", "지은", "A", "m" * 300, "\x1b[31m", "\ud83d", "")) for _ in range(3)]
    bar = chance.choice(("|", " | ", "\uff5c", "", "||"))
    lines = [
        bar.join((name, "woman", f"a woman {chance.choice(('', 'in red', '🤖'))}{chance.randrange(9)}"))
        for name in names
    ]
    words = [*names, "woman", "a woman", "walks", "and", *chance.choices(LETTERS, k=20)]
    prompts = ["".join(chance.choices(words, k=chance.randrange(1, 40))) for _ in range(chance.randrange(6))]
    texts = ["\n".join(lines[: chance.randrange(4)]), "\n".join(prompts), "", ""]
    for _ in range(chance.randrange(3)):
        text = texts[(which := chance.randrange(4))]
        junk = chance.choice([each for each in JUNK if isinstance(each, str)])
        place = chance.randrange(len(text) + 1)
        texts[which] = text[:place] + junk + text[place + chance.randrange(3) :]
    return texts


@pytest.mark.parametrize("first", range(0, 1_200, CASES_A_TEST))
def test_stories_with_a_few_values_changed(first: int, tmp_path: Path):
    path, found = tmp_path / "story.json", set()
    for case in range(first, first + CASES_A_TEST):
        chance = random.Random(case)
        story = copy.deepcopy(chance.choice((OURS, ONE, TWO)))
        for _ in range(chance.randrange(1, 4)):
            story = change(chance, story)
        path.write_text(json.dumps(story))
        found.add(check(lambda: Story.load(path)))
        found.add(check(lambda changed=story: Story.parse(changed)))
    assert found == {"read", "refused"}


@pytest.mark.parametrize("first", range(0, 400, CASES_A_TEST))
def test_damaged_story_files(first: int, tmp_path: Path):
    path, found = tmp_path / "story.json", set()
    for case in range(first, first + CASES_A_TEST):
        chance = random.Random(f"file {case}")
        text = json.dumps(chance.choice((OURS, ONE, TWO)), ensure_ascii=chance.random() < 0.5).encode()
        path.write_bytes(damage(chance, text))
        found.add(check(lambda: Story.load(path)))
    assert "refused" in found


@pytest.mark.parametrize("first", range(0, 500, CASES_A_TEST))
def test_stories_typed_in(first: int):
    found = {
        check(lambda case=case: Story.from_lines(*typed(random.Random(f"typed {case}"))))
        for case in range(first, first + CASES_A_TEST)
    }
    assert found == {"read", "refused"}


@pytest.mark.parametrize(
    "texts",
    [
        ("Ada | woman | a woman", "Ada " * 2_500_000),
        ("Ada | woman | a woman", "Ada\n" * 2_500_000),
        ("Ada | woman | a woman\n" * 450_000, "Ada"),
        (f"{'A' * 10_000_000} | woman | a woman", "Ada"),
        (f"Ada | woman | a woman{' a woman' * 1_250_000}", "Ada"),
        ("Ada | woman | a woman", "\n".join(["a woman " * 12_000] * 2)),
        ("Ada | woman | a woman", "\n".join(["Ada " * 24_000] * 2)),
        ("\n".join(f"{'A ' * i} | woman | {'a ' * i} woman" for i in range(1, 100)), "A " * 45_000),
        ("\n".join(f"{'A' * i} | woman | {'a' * i} woman" for i in range(1, 100)), "\n".join(["A" * 90_000] * 50)),
        ("\n".join(f"Ada{i} | woman | a woman {i}" for i in range(1_000)), "Ada1 Ada10 Ada999, a woman 5\n" * 2_000),
    ],
    ids=[
        "name",
        "frames",
        "characters",
        "long name",
        "long description",
        "words",
        "names",
        "nested names",
        "letters",
        "many",
    ],
)
@pytest.mark.timeout(300)
@pytest.mark.slow
def test_large_stories_are_read_or_refused(texts: tuple[str, str]):
    assert check(lambda: Story.from_lines(*texts)) in ("read", "refused")
