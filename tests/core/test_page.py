"""The pages of a picture book: what holds for every layout, and what is drawn."""

import numpy as np
import pytest
import torch
from story_identity.core.fonts import load_font
from story_identity.core.page import (
    BALLOONS,
    CAPTIONS,
    NO_CAPTIONS,
    UNDER,
    Box,
    PageStyle,
    Text,
    arrange_page,
    pages_of,
)
from story_identity.core.page_drawing import detail, draw_pages, line_height

WORDS = "Mira waits at a bus stop in the rain and holds an umbrella while Tom looks for Donaudampfschifffahrtskapitäne"
FONT = load_font(None, 20)


def random_page(seed: int) -> tuple[list[tuple[int, int]], list[Text], PageStyle, list[torch.Tensor | None]]:
    random = np.random.default_rng(seed)
    count = 1 + seed % 6
    sizes = [tuple(random.integers(200, 1200, 2).tolist()) for _ in range(count)]
    texts = [
        Text(" ".join(WORDS.split()[: random.integers(0, 18)]), FONT.getlength, line_height(FONT)) for _ in range(count)
    ]
    style = PageStyle(*random.integers(900, 2400, 2).tolist(), CAPTIONS[seed % 3])
    return sizes, texts, style, [None if seed % 2 else torch.rand(8, 8) for _ in range(count)]


def overlap(one: Box, other: Box) -> bool:
    return one.left < other.right and other.left < one.right and one.top < other.bottom and other.top < one.bottom


def is_in(inner: Box, outer: Box) -> bool:
    return (
        outer.left <= inner.left
        and outer.top <= inner.top
        and inner.right <= outer.right
        and inner.bottom <= outer.bottom
    )


@pytest.mark.parametrize("seed", range(36))
def test_nothing_overlaps_everything_is_on_the_page_and_no_picture_is_distorted(seed):
    sizes, texts, style, busy = random_page(seed)
    panels = arrange_page(sizes, texts, style, busy)
    assert panels is not None
    page = Box(style.margin, style.margin, style.width - 2 * style.margin, style.height - 2 * style.margin)
    pictures = [panel.picture for panel in panels]
    texts_of = [panel.text for panel in panels if panel.text is not None]
    for number, box in enumerate(pictures):
        assert is_in(box, page)
        assert not any(overlap(box, other) for other in pictures[number + 1 :])
        width, height = sizes[number]
        assert abs(box.height - box.width * height / width) <= 0.5 + 1e-9  # to the pixel
    for number, box in enumerate(texts_of):
        assert is_in(box, page)
        assert not any(overlap(box, other) for other in texts_of[number + 1 :])
        if style.captions == UNDER:
            assert not any(overlap(box, picture) for picture in pictures)
    for panel, text in zip(panels, texts, strict=True):
        written = "" if style.captions == NO_CAPTIONS else text.words
        assert "".join(panel.lines) == written.replace(" ", "") or " ".join(panel.lines).replace(" ", "") == "".join(
            written.split()
        )
        assert (panel.text is None) == (not written)
        if panel.text is not None:
            assert all(FONT.getlength(line) <= panel.text.width for line in panel.lines)
            assert len(panel.lines) * line_height(FONT) <= panel.text.height
            if style.captions == BALLOONS:
                assert is_in(panel.text, panel.picture)


def test_pictures_keep_their_order_from_left_to_right_and_from_top_to_bottom():
    for seed in range(12):
        sizes, texts, style, busy = random_page(seed)
        boxes = [panel.picture for panel in arrange_page(sizes, texts, style, busy) or []]
        assert all(
            a.top < b.top or (a.top == b.top and a.right < b.left) for a, b in zip(boxes, boxes[1:], strict=False)
        )


def test_four_squares_are_two_rows_of_two():
    texts = [Text("", FONT.getlength, 20)] * 4
    boxes = [panel.picture for panel in arrange_page([(512, 512)] * 4, texts, PageStyle(1240, 1754), [None] * 4) or []]
    inner, gutter = 1240 - 2 * 62, 31
    side = (inner - gutter) // 2
    assert {(box.width, box.height) for box in boxes} == {(side, side)}
    assert len({box.top for box in boxes}) == 2


def test_a_single_picture_is_as_large_as_the_page_lets_it():
    text = Text("", FONT.getlength, 20)
    (panel,) = arrange_page([(600, 400)], [text], PageStyle(1240, 1754), [None]) or []
    assert panel.picture.width == 1240 - 2 * 62
    (panel,) = arrange_page([(400, 600)], [text], PageStyle(1754, 1000), [None]) or []
    assert 1000 - 2 * 50 - 3 <= panel.picture.height <= 1000 - 2 * 50


def test_a_balloon_stands_where_it_hides_least():
    busy = torch.ones(10, 10)
    busy[6:, 5:] = 0
    (panel,) = (
        arrange_page([(500, 500)], [Text("Mira waits", FONT.getlength, 24)], PageStyle(1000, 1000, BALLOONS), [busy])
        or []
    )
    assert panel.text is not None
    assert panel.text.left > panel.picture.left + panel.picture.width // 2
    assert panel.text.top > panel.picture.top + panel.picture.height // 2


@pytest.mark.slow
def test_a_text_that_fits_nowhere_gives_no_page():
    long = Text("word " * 4000, FONT.getlength, 24)
    for captions in (UNDER, BALLOONS):
        assert arrange_page([(500, 500)], [long], PageStyle(400, 400, captions), [None]) is None


def test_pages_are_few_and_even():
    for count in range(1, 40):
        for per_page in range(1, 7):
            pages = pages_of(count, per_page)
            assert [number for page in pages for number in page] == list(range(count))
            assert len(pages) == -(-count // per_page)
            assert max(map(len, pages)) - min(map(len, pages)) <= 1
    assert pages_of(0, 4) == []
    for wrong in (0, 7):
        with pytest.raises(ValueError, match="A page has 1 to 6 pictures"):
            pages_of(3, wrong)


def test_drawn_pages_have_the_pictures_where_the_layout_says():
    colours = [(0.8, 0.2, 0.2), (0.2, 0.8, 0.2), (0.2, 0.2, 0.8)]
    pictures = [torch.tensor(colour).expand(60, 80, 3) for colour in colours]
    pages, about = draw_pages(pictures, ["one", "", "three"], 2, PageStyle(400, 600), 16, [])
    assert len(pages) == 2
    assert about == "font: Aileron (Pillow's own), 16 pixels"
    levels = [np.asarray(page) for page in pages]
    for page, found in zip(levels, ([0, 1], [2]), strict=True):
        assert page.shape == (600, 400, 3)
        for number, colour in enumerate(colours):
            same = (np.abs(page.astype(int) - np.round(255 * np.array(colour))) <= 1).all(axis=-1)
            assert same.any() == (number in found)
        assert (page[:20] == 255).all()  # the margin
    assert (levels[0] < 60).all(axis=-1).any()  # ink


@pytest.mark.slow
def test_texts_that_do_not_fit_are_written_smaller_and_then_refused():
    pictures = [torch.zeros(64, 64, 3)]
    _, about = draw_pages(pictures, ["Mira waits " * 30], 1, PageStyle(400, 500), 22, [])
    assert "smaller than 22 so that every text fits" in about
    with pytest.raises(ValueError, match="The texts of page 1 do not fit, even in half of the size"):
        draw_pages(pictures, ["Mira waits " * 900], 1, PageStyle(400, 500), 22, [])
    with pytest.raises(ValueError, match="There are no pictures"):
        draw_pages([], [], 1, PageStyle(), 20, [])


def test_detail_is_nought_where_nothing_changes():
    picture = torch.full((20, 30, 3), 0.3)
    picture[5, 7] = 1.0
    found = detail(picture)
    assert found.shape == (20, 30)
    assert set(map(tuple, found.nonzero().tolist())) == {(5, 7), (6, 7), (5, 8)}
    assert float(found.max()) <= 1
