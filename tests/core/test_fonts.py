"""Fonts: which letters they have, and what is said where none has them."""

from pathlib import Path

import pytest
from PIL import features
from story_identity.core import fonts
from story_identity.core.fonts import (
    check_letters,
    check_shaping,
    fonts_for,
    load_font,
    missing_letters,
    system_fonts,
)


def test_pillows_own_font_has_the_latin_alphabet_and_no_chinese():
    assert missing_letters("Mira opens a letter; 3 + 4 = 7!\n", None) == []
    assert missing_letters("Mira 漢字 漢", None) == ["漢", "字"]
    assert fonts_for(["Mira waits", ""], []) == [None, None]


def test_what_has_no_shape_is_never_missing():
    assert missing_letters("a\u200db\ufe0f\u00a0 \t\u3000\u202e", None) == []


def test_letters_that_no_font_has_are_named(tmp_path):
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    with pytest.raises(ValueError, match='No font of this machine has the letters "漢 字"') as caught:
        fonts_for(["Mira", "漢字"], [broken])
    assert "models/fonts" in str(caught.value)
    with pytest.raises(ValueError, match=r'The font "Aileron \(Pillow\'s own\)" lacks the letters "漢"'):
        check_letters(["漢"], None)
    with pytest.raises(ValueError, match=r"broken.ttf is not a font that can be read"):
        load_font(broken, 20)
    with pytest.raises(ValueError, match="and 8 more"):
        fonts_for(["".join(map(chr, range(0x4E00, 0x4E14)))], [])


@pytest.mark.skipif(not features.check("raqm"), reason="this Pillow has no Raqm")
def test_texts_share_a_font_where_one_has_all_letters():
    cyrillic = "Жизнь"
    have = [file for file in system_fonts() if not missing_letters(cyrillic + "Mira", file)]
    if not have:
        pytest.skip("this machine has no font with Cyrillic letters")
    first = have[0]
    assert fonts_for(["Mira", cyrillic], [first]) == [first, first]
    assert load_font(first, 20).getlength(cyrillic) > 0


def test_a_font_for_each_text_where_none_has_all(monkeypatch):
    letters = {None: "abc", Path("greek"): "abcλ", Path("russian"): "abcж"}
    monkeypatch.setattr(fonts, "_has", lambda file, letter: letter in letters[file])
    assert fonts_for(["ab", "λ", "жa"], [Path("greek"), Path("russian")]) == [None, Path("greek"), Path("russian")]
    assert fonts_for(["ab", "λ"], [Path("russian"), Path("greek")]) == [Path("greek"), Path("greek")]


def test_letters_that_must_be_joined_need_raqm(monkeypatch):
    monkeypatch.setattr(fonts.features, "check", lambda feature: feature != "raqm")
    check_shaping("Mira Жизнь 漢字 ไทย")
    for text in ("שלום", "مرحبا", "नमस्ते"):
        with pytest.raises(ValueError, match="need Raqm and FriBiDi"):
            check_shaping(text)


def test_upright_sans_serif_fonts_come_first():
    assert all(path.suffix.lower() in fonts.ENDINGS for path in system_fonts())
    names = ["DejaVuSans-Bold", "DejaVuSerif", "DejaVuSans", "DejaVuSansMono", "Other"]
    ordered = sorted((Path(f"{name}.ttf") for name in names), key=fonts._preference)
    assert [path.stem for path in ordered] == [
        "DejaVuSans",
        "Other",
        "DejaVuSansMono",
        "DejaVuSerif",
        "DejaVuSans-Bold",
    ]
