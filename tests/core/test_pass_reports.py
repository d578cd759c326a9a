import torch
from story_identity.core.layout import Layout
from story_identity.core.pass_reports import describe_layout, describe_redenoising
from story_identity.core.redenoise import ProgressiveMasks


def two_people() -> Layout:
    masks = torch.zeros(2, 20, 20, dtype=torch.bool)
    masks[0, 8:12, 8:12] = True  # 16 of 400 cells
    return Layout(("Mira", "Tom"), masks, "frame 2")


def test_a_layout_says_how_large_each_is_and_who_is_missing():
    assert describe_layout(two_people()).splitlines() == [
        "frame 2",
        '"Mira": 4 % of the picture',
        '"Tom": not found, stays as drawn',
    ]


def test_redenoising_says_which_steps_and_how_masks_grow():
    layout = two_people()
    masks = ProgressiveMasks(layout.masks, steps=10, start=2, max_kernel_px=4)
    assert describe_redenoising(layout, masks).splitlines() == [
        "frame 2: steps 3 to 10 of 10 re-denoised",
        '"Mira": mask 4 % of the picture, 36 % at the last step',  # 12 x 12 of 400
    ]


def test_redenoising_says_how_much_was_seen():
    layout = two_people()
    masks = ProgressiveMasks(layout.masks, steps=10, start=2, max_kernel_px=4)
    last = describe_redenoising(layout, masks, {"Mira": 0.25, "Tom": 1.0}).splitlines()[-1]
    assert last == '"Mira": mask 4 % of the picture, 36 % at the last step, drawn on 25 % of it'


def test_a_frame_with_nobody():
    empty = Layout((), torch.zeros(0, 4, 4, dtype=torch.bool), "frame 1")
    assert describe_layout(empty) == "frame 1: shows nobody."
    masks = ProgressiveMasks(empty.masks, steps=4, start=0, max_kernel_px=1)
    assert describe_redenoising(empty, masks) == "frame 1: shows nobody; the template stays as it is."


def test_a_speck_is_not_nothing():
    masks = torch.zeros(1, 100, 100, dtype=torch.bool)
    masks[0, 0, 0] = True
    assert '"Mira": under 1 %' in describe_layout(Layout(("Mira",), masks, "frame 1"))
