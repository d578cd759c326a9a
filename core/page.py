"""Where pictures and their texts stand on the pages of a picture book, one to six a page.

The pictures of a page keep their order and stand in rows. Every way to divide them into rows is tried, with the largest
pictures that fit; kept is the one whose smallest picture is largest, since all frames of a story count alike.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

from torch import Tensor

from .shapes import Float
from .text_lines import Measure, wrap

UNDER, BALLOONS, NO_CAPTIONS = "under the pictures", "in balloons", "none"
CAPTIONS = (UNDER, BALLOONS, NO_CAPTIONS)
MOST_PER_PAGE = 6

_STEPS, _HALVINGS = 20, 5
"""How finely the size of the pictures is searched for."""
_BALLOON_WIDTHS = (0.45, 0.6, 0.75, 0.92)
"""Shares of the picture's width; the first is taken that breaks no word and whose balloon is low enough."""
_BALLOON_HEIGHT, _LARGEST_BALLOON = 0.35, 0.92
"""How high a balloon should be, and may be, as a share of the picture's height."""


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of the page; the right and the lower edge are outside."""

    left: int
    top: int
    width: int
    height: int

    @property
    def right(self) -> int:
        return self.left + self.width

    @property
    def bottom(self) -> int:
        return self.top + self.height


@dataclass(frozen=True)
class Text:
    """A text as it is to be written.

    Args:
        words: The text; empty for none.
        measure: The width of a text in its font.
        line_height: In pixels.
    """

    words: str
    measure: Measure
    line_height: int


@dataclass(frozen=True)
class Panel:
    """A picture and its text on the page.

    Args:
        picture: Where the picture is.
        text: Where its lines are, or the balloon that holds them; None if there are none.
        lines: The lines.
    """

    picture: Box
    text: Box | None = None
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class PageStyle:
    """A page.

    Args:
        width: In pixels.
        height: Likewise.
        captions: One of `CAPTIONS`.
    """

    width: int = 1240
    height: int = 1754
    captions: str = UNDER

    @property
    def margin(self) -> int:
        """What is left free at every edge."""
        return min(self.width, self.height) // 20

    @property
    def gutter(self) -> int:
        """What is left free between pictures."""
        return max(4, self.margin // 2)

    @property
    def padding(self) -> int:
        """What is left free between a text and what it belongs to."""
        return max(2, self.margin // 6)


def pages_of(count: int, per_page: int) -> list[range]:
    """Which pictures are on which page: as few pages as possible, with as equal numbers as possible.

    Raises:
        ValueError: If a page is to have less than one picture or more than six.
    """
    if not 1 <= per_page <= MOST_PER_PAGE:
        raise ValueError(f"A page has 1 to {MOST_PER_PAGE} pictures, not {per_page}.")
    pages = -(-count // per_page)
    ends = [0]
    for page in range(pages):
        ends.append(ends[-1] + count // pages + (page < count % pages))
    return [range(start, end) for start, end in zip(ends, ends[1:], strict=False)]


def arrange_page(
    sizes: Sequence[tuple[int, int]],
    texts: Sequence[Text],
    style: PageStyle,
    busy: Sequence[Float[Tensor, "_ _"] | None],
) -> list[Panel] | None:
    """Place the pictures of one page, and their texts.

    Args:
        sizes: Width and height of each picture, of which only the ratio matters.
        texts: One per picture.
        style: The page.
        busy: Per picture, how much a balloon would hide at each place, in any unit and resolution.

    Returns:
        One panel per picture; None where a text does not fit.
    """
    under = [text if style.captions == UNDER else Text("", text.measure, 1) for text in texts]

    @cache
    def text_height(index: int, width: int) -> int:
        lines = wrap(under[index].words, width, under[index].measure)
        return len(lines) * under[index].line_height + style.padding if lines else 0

    ratios = [width / height for width, height in sizes]
    fitted = [_fitted(rows, ratios, text_height, style) for rows in _divisions(len(sizes))]
    arranged = [boxes for boxes in fitted if boxes is not None]
    if not arranged:
        return None
    boxes = max(arranged, key=lambda boxes: (min(map(_area, boxes)), sum(map(_area, boxes))))
    if style.captions != BALLOONS:
        return [_with_lines(box, text, style) for box, text in zip(boxes, under, strict=True)]
    panels = [_with_balloon(box, text, style, own) for box, text, own in zip(boxes, texts, busy, strict=True)]
    return None if any(panel is None for panel in panels) else [panel for panel in panels if panel is not None]


def _area(box: Box) -> int:
    return box.width * box.height


def _divisions(count: int) -> Iterator[list[range]]:
    """Every way to divide pictures into rows, in order."""
    for cuts in range(count):
        for ends in combinations(range(1, count), cuts):
            edges = (0, *ends, count)
            yield [range(start, end) for start, end in zip(edges, edges[1:], strict=False)]


def _fitted(
    rows: Sequence[range], ratios: Sequence[float], text_height: Callable[[int, int], int], style: PageStyle
) -> list[Box] | None:
    """The pictures of these rows, as large as the page allows; None if they do not fit."""
    low = high = 1.0
    best = None
    for step in range(_STEPS):  # smaller pictures leave more room, but their texts are higher
        low = 1 - step / _STEPS
        best = _placed(rows, ratios, text_height, style, low)
        if best is not None:
            break
        high = low
    for _ in range(0 if best is None or low == high else _HALVINGS):
        middle = (low + high) / 2
        placed = _placed(rows, ratios, text_height, style, middle)
        low, high, best = (low, middle, best) if placed is None else (middle, high, placed)
    return best


def _placed(
    rows: Sequence[range],
    ratios: Sequence[float],
    text_height: Callable[[int, int], int],
    style: PageStyle,
    scale: int | float,
) -> list[Box] | None:
    """The pictures at a share of the size at which each row is as wide as the page; None if they are too high."""
    inner = style.width - 2 * style.margin
    sized: list[list[tuple[int, int]]] = []
    for row in rows:
        height = scale * (inner - style.gutter * (len(row) - 1)) / sum(ratios[index] for index in row)
        widths = [int(height * ratios[index]) for index in row]
        sized.append([(width, round(width / ratios[index])) for width, index in zip(widths, row, strict=True)])
    if any(min(size) < 1 for own in sized for size in own):
        return None
    texts = [
        max(text_height(index, width) for index, (width, _) in zip(row, own, strict=True))
        for row, own in zip(rows, sized, strict=True)
    ]
    heights = [max(height for _, height in own) + text for own, text in zip(sized, texts, strict=True)]
    free = style.height - 2 * style.margin - sum(heights) - style.gutter * (len(rows) - 1)
    if free < 0:
        return None
    boxes, top = [], style.margin + free // 2
    for own, height in zip(sized, heights, strict=True):
        left = (style.width - sum(width for width, _ in own) - style.gutter * (len(own) - 1)) // 2
        for width, picture_height in own:
            boxes.append(Box(left, top, width, picture_height))
            left += width + style.gutter
        top += height + style.gutter
    return boxes


def _with_lines(box: Box, text: Text, style: PageStyle) -> Panel:
    lines = wrap(text.words, box.width, text.measure)
    if not lines:
        return Panel(box)
    under = Box(box.left, box.bottom + style.padding, box.width, len(lines) * text.line_height)
    return Panel(box, under, tuple(lines))


def _with_balloon(box: Box, text: Text, style: PageStyle, busy: Tensor | None) -> Panel | None:
    """A balloon inside the picture where it hides least; None if there is no room for the text."""
    if not text.words.strip():
        return Panel(box)
    padding, sized = 2 * style.padding, []
    for share in _BALLOON_WIDTHS:
        lines = wrap(text.words, share * box.width - 2 * padding, text.measure)
        width = round(max(map(text.measure, lines))) + 2 * padding
        height = len(lines) * text.line_height + 2 * padding
        if width <= _LARGEST_BALLOON * box.width and height <= _LARGEST_BALLOON * box.height:
            sized.append((height, width, lines))
            whole = max(map(text.measure, text.words.split())) <= share * box.width - 2 * padding
            if whole and height <= _BALLOON_HEIGHT * box.height:
                break
    if not sized:
        return None
    height, width, lines = sized[-1]
    return Panel(box, _quietest(box, width, height, busy), tuple(lines))


def _quietest(box: Box, width: int, height: int, busy: Tensor | None) -> Box:
    """The place at the edge of a picture where a balloon hides least; of equal ones the highest, then the leftmost."""
    inset = min(box.width - width, box.height - height, max(4, box.width // 40)) // 2
    lefts = (inset, (box.width - width) // 2, box.width - width - inset)
    tops = (inset, (box.height - height) // 2, box.height - height - inset)
    places = [(left, top) for top in tops for left in lefts if (left, top) != (lefts[1], tops[1])]

    def hidden(place: tuple[int, int]) -> float:
        if busy is None:
            return 0.0
        rows, columns = busy.shape[0] / box.height, busy.shape[1] / box.width
        left, top = place
        part = busy[int(top * rows) : int((top + height) * rows) + 1, int(left * columns) :]
        return round(float(part[:, : int(width * columns) + 1].sum()), 6)

    left, top = min(places, key=hidden)
    return Box(box.left + left, box.top + top, width, height)
