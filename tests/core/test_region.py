"""Laws of regions: they hold the masks, keep to the network's grid, and give back what they were given."""

import pytest
import torch
from story_identity.core.layout import exclusive_masks
from story_identity.core.redenoise import ProgressiveMasks, composite, to_latent_grid
from story_identity.core.region import LEAST_SIDE, Region, regions_around

from .test_layout import blobs, box

SIDE = 256
GRID = (32, 32)


def mask_of(top: int, left: int, bottom: int, right: int, height: int = SIDE, width: int = SIDE) -> torch.Tensor:
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[0, top:bottom, left:right] = True
    return mask


def region_of(mask: torch.Tensor, grid=GRID, step=1, margin=0, kernel=0) -> Region:
    (found,) = regions_around(ProgressiveMasks(mask, 10, 2, kernel), grid, step, margin)
    return found


def place(region: Region) -> tuple[int, int, int, int]:
    return region.top, region.left, region.top + region.height, region.left + region.width


def test_a_large_mask_has_its_bounding_box_and_the_margin():
    mask = mask_of(40, 24, 40 + 152, 24 + 176)  # cells 5 to 24 and 3 to 25
    assert place(region_of(mask)) == (5, 3, 24, 25)
    assert place(region_of(mask, margin=64)) == (3, 1, 26, 27)  # 64 of 1024 is 16 of 256 pixels, 2 cells
    assert place(region_of(mask, margin=65)) == (2, 0, 27, 28)
    assert place(region_of(mask, kernel=1)) == (4, 2, 25, 26)  # a pixel more is another cell
    assert place(region_of(mask, step=4)) == (4, 0, 24, 28)


def test_a_small_mask_has_the_least_side_around_it_or_at_the_edge():
    least = LEAST_SIDE // 4 // 8
    assert place(region_of(mask_of(120, 120, 136, 136))) == (8, 8, 8 + least, 8 + least)
    assert place(region_of(mask_of(0, 0, 8, 8))) == (0, 0, least, least)
    assert place(region_of(mask_of(248, 248, 256, 256))) == (32 - least, 32 - least, 32, 32)


def test_a_step_that_does_not_divide_the_picture_is_cut_at_its_edge():
    mask = mask_of(0, 240, 256, 296, width=300 // 8 * 8)
    region = region_of(mask, grid=(32, 37), step=8)
    assert place(region) == (0, 16, 32, 37)
    assert region.share == 21 / 37


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("step", [1, 2, 4, 8])
def test_regions_hold_every_mask_of_every_step(seed, step):
    masks = ProgressiveMasks(exclusive_masks(blobs(seed), 2), steps=9, start=3, max_kernel_px=7)
    height, width = masks.at(0).shape[-2:]
    grid = (height // 2, width // 2)
    regions = regions_around(masks, grid, step, margin=30)
    assert len(regions) == len(masks.at(0))
    for region in regions:
        top, left, bottom, right = place(region)
        assert (top % step, left % step) == (0, 0)
        assert bottom % step == 0 or bottom == grid[0]
        assert right % step == 0 or right == grid[1]
        assert 0 <= top < bottom <= grid[0]
        assert 0 <= left < right <= grid[1]
        assert min(region.height, region.width) >= min(grid) // 2
    for each in range(9):
        for soft in (False, True):
            for region, cells in zip(regions, to_latent_grid(masks.at(each), *grid, soft)[:, 0] > 0, strict=True):
                assert int(region.crop(cells).sum()) == int(cells.sum())


def test_who_has_no_mask_has_the_whole_picture_and_nobody_has_no_region():
    masks = torch.stack([box(5, 5, 9, 9), torch.zeros_like(box(0, 0, 1, 1))])
    schedule = ProgressiveMasks(masks, 5, 0, 40)
    grid = (masks.shape[1] // 2, masks.shape[2] // 2)
    assert regions_around(schedule, grid, 1)[1] == Region.everything(*grid)
    assert regions_around(ProgressiveMasks(masks[:0], 5, 0, 40), grid, 1) == []


def test_a_mask_of_everything_has_everything_and_nothing_is_copied():
    region = region_of(mask_of(0, 0, SIDE, SIDE), step=8, margin=100)
    picture = torch.randn(1, 4, *GRID)
    assert region == Region.everything(*GRID)
    assert region.crop(picture) is picture
    assert region.paste(picture, torch.zeros_like(picture)) is picture
    assert region.share == 1


@pytest.mark.parametrize("shape", [(2, 4), (2, 4, 1)])
def test_what_was_cropped_is_pasted_where_it_was_and_no_input_is_written_into(shape):
    region, picture = region_of(mask_of(100, 40, 180, 120), step=4), torch.randn(*shape, *GRID)
    before, other = picture.clone(), torch.randn(*shape, *GRID)
    kept = other.clone()
    assert torch.equal(region.paste(region.crop(picture), picture), picture)
    pasted = region.paste(region.crop(picture), other)
    inside = torch.zeros(GRID, dtype=torch.bool)
    region.crop(inside).fill_(True)
    assert torch.equal(pasted[..., inside], picture[..., inside])
    assert torch.equal(pasted[..., ~inside], other[..., ~inside])
    assert torch.equal(picture, before)
    assert torch.equal(other, kept)


@pytest.mark.parametrize("moments", [(), (1,)])
def test_a_network_that_looks_at_each_cell_alone_predicts_the_same(moments):
    mask = mask_of(100, 40, 180, 120)
    schedule, region = ProgressiveMasks(mask, 10, 2, 9), region_of(mask, step=4, kernel=9)
    latent, background = torch.randn(2, 1, 4, *moments, *GRID)
    cells = to_latent_grid(schedule.at(9), *GRID).reshape(1, 1, 1, *moments, *GRID)
    whole = composite(background, torch.tanh(latent)[None], cells)
    part = region.paste(torch.tanh(region.crop(latent)), background)
    assert region.share < 0.5
    assert torch.equal(composite(background, part[None], cells), whole)


def test_pictures_of_more_pixels_are_cropped_at_the_same_place():
    region = region_of(mask_of(100, 40, 180, 120), step=4)
    latent = torch.randn(1, 3, *GRID)
    pixels = latent.repeat_interleave(8, -1).repeat_interleave(8, -2)
    assert torch.equal(region.crop(pixels, 8)[..., ::8, ::8], region.crop(latent))


def test_the_sizes_that_sdxl_reads():
    region = Region(8, 16, 64, 32, (128, 96))
    assert region.sizes(8) == {
        "height": 1024, "width": 768, "crop_h": 64, "crop_w": 128, "target_height": 512, "target_width": 256
    }  # fmt: skip
    given = {"width": 2000, "height": 3000, "crop_w": 10, "target_width": 1536, "target_height": 2048}
    assert region.sizes(8, given) == {
        "height": 3000, "width": 2000, "crop_h": 128, "crop_w": 266, "target_height": 1024, "target_width": 512
    }  # fmt: skip


@pytest.mark.parametrize(("step", "margin"), [(1, -1), (0, 0)])
def test_a_margin_and_a_step_that_are_none_are_refused(step, margin):
    with pytest.raises(ValueError, match="must be at least 0 and 1"):
        region_of(mask_of(0, 0, 9, 9), step=step, margin=margin)
