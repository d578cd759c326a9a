"""Lines fit their width, lose nothing, and never part a letter from its marks."""

import pytest
from story_identity.core.text_lines import letters, wrap

TEXTS = (
    "Mira opens a letter at the kitchen table, morning light",
    "Donaudampfschifffahrtsgesellschaftskapitänsmützenfabrikantenwitwenrente und Söhne",
    "彼女は静かに窓の外を眺めていた。雨がまだ降っている",
    "a\u0301e\u0301i\u0301o\u0301u\u0301 x",
    "",
    " \n ",
)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("width", [1, 3, 10, 25, 1000])
def test_lines_fit_and_have_all_letters_in_order(text, width):
    lines = wrap(text, width, len)
    assert "".join("".join(line.split()) for line in lines) == "".join(text.split())
    for line in lines:
        assert line
        assert len(line) <= width or len(list(letters(line))) == 1
    if width == 1000:
        assert lines == ([" ".join(text.split())] if text.split() else [])


def test_marks_and_joined_letters_stay_together():
    assert list(letters("e\u0301a")) == ["e\u0301", "a"]
    assert list(letters("👩\u200d🚀b")) == ["👩\u200d🚀", "b"]
    assert list(letters("❤\ufe0f!")) == ["❤\ufe0f", "!"]
    assert all(not line.startswith("\u0301") for line in wrap("e\u0301" * 30, 7, len))


def test_a_word_that_fits_a_line_is_not_broken():
    assert wrap("Mira waits", 5, len) == ["Mira", "waits"]
    assert wrap("Mira waiting", 5, len) == ["Mira", "waiti", "ng"]
