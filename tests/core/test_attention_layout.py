"""Laws of layouts from attention maps."""

import pytest
import torch
from story_identity.core.attention_layout import attention_layout

SIDE = 64
MIRA, BEN = (slice(8, 24), slice(4, 12)), (slice(8, 28), slice(18, 28))
"""On a grid of 32; in pixels twice that."""


def planted(*places, noise=0.05) -> torch.Tensor:
    """A low map with higher places, on a grid half as fine as the picture."""
    image = noise * torch.rand(32, 32, generator=torch.Generator().manual_seed(1))
    for place, height in places:
        image[place] += height
    return image


def layout(maps, names=("Mira", "Ben"), *, method: str | float = "otsu", dilate_px=0, skip_missing=False):
    return attention_layout(
        maps, names, (SIDE, SIDE), "frame 2", method=method, dilate_px=dilate_px, skip_missing=skip_missing
    )


def overlap(mask, place) -> float:
    truth = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    truth[tuple(slice(2 * part.start, 2 * part.stop) for part in place)] = True
    return float((mask & truth).sum() / (mask | truth).sum())


def test_planted_people_are_found_at_the_pictures_size():
    found = layout({"Ben": planted((BEN, 0.3)), "Mira": planted((MIRA, 2.0))})
    assert found.names == ("Mira", "Ben")
    assert found.size == (SIDE, SIDE)
    assert overlap(found.masks[0], MIRA) > 0.9
    assert overlap(found.masks[1], BEN) > 0.9
    assert found.label == "frame 2"


def test_where_two_people_meet_the_higher_map_wins_whatever_the_scales():
    both = {
        "Mira": planted((MIRA, 1.0), (BEN, 0.6)),
        "Ben": 0.01 * planted((MIRA, 0.6), (BEN, 1.0)),
    }
    found = layout(both)
    assert overlap(found.masks[0], MIRA) > 0.85
    assert overlap(found.masks[1], BEN) > 0.85


def test_the_largest_piece_stays_and_grows():
    twice = {"Mira": planted((MIRA, 1.0), ((slice(28, 31), slice(28, 31)), 1.0), noise=0.0)}
    small, grown = (layout(twice, ("Mira",), dilate_px=px).masks[0] for px in (0, 3))
    assert overlap(small, MIRA) > 0.9
    assert not small[50:, 50:].any()
    rows, columns = grown.any(dim=1).sum(), grown.any(dim=0).sum()
    assert (rows, columns) == (small.any(dim=1).sum() + 6, small.any(dim=0).sum() + 6)


def test_a_fixed_threshold_is_a_share_of_the_map():
    ramp = torch.linspace(0, 5, 32).expand(32, 32).contiguous()
    areas = [float(layout({"Mira": ramp}, ("Mira",), method=height).masks.float().mean()) for height in (0.25, 0.75)]
    assert areas == pytest.approx([0.75, 0.25], abs=0.02)


def test_who_is_not_there_is_an_error_or_is_left_out():
    maps = {"Mira": planted((MIRA, 1.0)), "Ben": torch.zeros(32, 32)}
    with pytest.raises(ValueError, match='frame 2: the attention maps do not show "Ben".*on_missing'):
        layout(maps)
    found = layout(maps, skip_missing=True)
    assert [bool(mask.any()) for mask in found.masks] == [True, False]


def test_a_frame_with_nobody_has_an_empty_layout():
    found = layout({}, ())
    assert (found.names, found.masks.shape) == ((), (0, SIDE, SIDE))


def test_maps_of_other_people_are_refused():
    with pytest.raises(ValueError, match='frame 2: the attention maps are of "Ben", the frame shows "Mira", "Ben"'):
        layout({"Ben": planted((BEN, 1.0))})
    with pytest.raises(ValueError, match='are of "Mira", the frame shows nobody'):
        layout({"Mira": planted((MIRA, 1.0))}, ())
