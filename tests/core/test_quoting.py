import pytest
from story_identity.core.quoting import LONGEST, printable, quote, quote_all


@pytest.mark.parametrize("text", ["Mira", "Zoë", "小美", "राम", "👩‍🚀", 'a "b"'])
def test_ordinary_text_is_only_put_in_quotes(text: str):
    assert quote(text) == f'"{text}"'


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\ud83d", '"\\ud83d"'),
        ("a\nb\t\x1b[31m", '"a\\nb\\t\\x1b[31m"'),
        ("a\u2028b", '"a\\u2028b"'),
        ("\u202egnp", '"\\u202egnp"'),
        ("\x9b2J", '"\\x9b2J"'),
    ],
)
def test_what_cannot_be_printed_is_escaped(text: str, shown: str):
    assert quote(text) == shown
    quote(text).encode("utf-8")


def test_long_text_is_cut_and_its_length_said():
    shown = quote("a" * 70_000 + "b" * 50_000)
    assert len(shown) < LONGEST + 40
    assert shown.startswith('"aaa')
    assert shown.endswith('bbb (120,000 characters)"')


def test_escapes_count_as_they_are_written():
    shown = quote("\ud800" * 100)
    assert len(shown) < LONGEST + 40
    assert shown.startswith('"\\ud800\\ud800')
    assert shown.endswith('\\ud800 (100 characters)"')


def test_other_values_are_written_as_python_does():
    assert quote(12) == "12"
    assert quote(None) == "None"
    assert quote(["a", "\ud800"]) == "['a', '\\ud800']"


def test_a_value_nested_without_end_is_cut():
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    assert quote(nested) == "[[[[...]]]]"
    while nested:  # taken apart from outside, since Python's own deletion would recurse
        nested = nested.pop()


def test_many_values_are_counted():
    assert quote_all(["a", 1]) == '"a", 1'
    assert quote_all(range(12), limit=2) == "0, 1 and 10 more"


def test_an_error_of_another_library_keeps_its_words():
    assert printable("expected a number, not \x1b") == "expected a number, not \\x1b"
