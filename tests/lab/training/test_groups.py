"""Groups: some of the pictures, other sizes, and toy groups that are the same wherever they are drawn."""

from itertools import islice

import pytest
import torch
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.lab.toyworld.training.toy_groups import ToyGroups
from story_identity.lab.training.groups import GroupSource
from story_identity.lab.training.loop import _Batches
from torch.utils.data import DataLoader

from tests.closeness import assert_close

from .pieces import SIDE, Source, group


def same(one, other):
    return one.captions == other.captions and torch.equal(one.pictures, other.pictures)


def test_some_of_the_pictures_keep_what_is_told_of_them():
    whole = group(0, 4, 2)
    some = whole.of([2, 0])
    assert len(some) == 2
    assert some.captions == (whole.captions[2], whole.captions[0])
    assert some.words == tuple((own[2], own[0]) for own in whole.words)
    assert torch.equal(some.masks, whole.masks[[2, 0]])
    assert torch.equal(some.pictures, whole.pictures[[2, 0]])


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 8), (8, 24), (32, 32), (40, 24)])
def test_at_another_size_people_stay_where_they_are_in_the_picture(height, width):
    """A picture that shows its masks still does; what is beyond the shape is cut off on both sides alike."""
    whole = group(0, 2, 2)
    shown = whole.masks.float()
    whole = type(whole)(
        whole.names, torch.stack([*shown.unbind(1), shown[:, 0]], dim=-1), whole.captions, whole.words, whole.masks
    )
    fitted = whole.fitted(height, width)
    assert fitted.pictures.shape == (2, height, width, 3)
    assert torch.equal(fitted.pictures[..., :2].movedim(-1, 1) > 0.5, fitted.masks)
    if height == width:
        assert fitted.masks.float().mean().item() == pytest.approx(whole.masks.float().mean().item(), abs=0.03)
    assert whole.fitted(SIDE, SIDE) is whole


def test_the_middle_is_kept():
    whole = group(0, 1)
    fitted = whole.fitted(SIDE, SIDE // 2)
    assert_close(fitted.pictures, whole.pictures[:, :, 4:12])


def test_toy_groups_are_the_same_again_and_different_between_processes():
    source = ToyGroups(3, frames=4)
    assert isinstance(source, GroupSource)
    first = list(islice(source.stream(0, 0, 1), 6))
    assert all(same(one, other) for one, other in zip(first[2:], source.stream(2, 0, 1), strict=False))
    shares = [list(islice(source.stream(0, process, 2), 3)) for process in range(2)]
    assert all(same(shares[number % 2][number // 2], first[number]) for number in range(6))
    assert not same(first[0], next(ToyGroups(4, frames=4).stream(0, 0, 1)))


def test_toy_groups_tell_who_is_where():
    for each in islice(ToyGroups(1, frames=3).stream(0, 0, 1), 8):
        assert len(each) == 3
        assert each.pictures.shape == (3, TOY_WORLD.picture_side, TOY_WORLD.picture_side, 3)
        assert each.masks.flatten(2).any(dim=2).all()
        assert not (each.masks.sum(dim=1) > 1).any()
        for own in each.words:
            for caption, spans in zip(each.captions, own, strict=True):
                assert spans
                assert all(caption[slice(*span)].strip() == caption[slice(*span)] != "" for span in spans)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_go_on_where_they_are_told(workers):
    batches = DataLoader(_Batches(Source(), 2, 3, 1, 2), batch_size=None, num_workers=workers)
    expected = [group(number, 4, 1 + number % 2) for number in (13, 15, 17, 19)]
    found = [each for batch in islice(batches, 2) for each in batch]
    assert all(same(one, other) for one, other in zip(found, expected, strict=True))
