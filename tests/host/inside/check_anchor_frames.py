"""Long stories: groups of frames, the anchors that all of them see, and nothing of a group in another."""

import itertools

import comfy.utils
import setting
import torch
from comfy.conds import CONDConstant, CONDRegular
from frames import (
    HEIGHT,
    WIDTH,
    amsa,
    controlled,
    controlnet,
    noise_of,
    per_frame,
    prompts,
    sample,
    story,
    warnings,
    with_control,
)
from story_identity.core import frame_sharing
from story_identity.nodes.host import shared_attention
from story_identity.nodes.host.frame_groups import ROWS, groups_of, of_group

from tests.closeness import assert_close, largest_difference


def check_anchor_frames_are_sampled_as_if_there_were_no_others():
    for model in (setting.tiny_sd15(), setting.tiny_sdxl()):
        told, first = story(5), story(2)
        noise = noise_of(5)
        long = sample(amsa(model, told, anchors=2), told, noise=noise)
        assert torch.equal(long[:2], sample(amsa(model, first), first, noise=noise[:2]))
        other = noise.clone()
        other[0] = noise_of(1, seed=99)[0]
        moved = sample(amsa(model, told, anchors=2), told, noise=other)
        changes = [largest_difference(*pair) for pair in zip(moved, long, strict=True)]
        assert min(changes[row] for row in (0, 1, 2, 4)) > 5e-4  # they see the first frame's people
        assert changes[3] <= 1e-5  # nobody is in this frame, and its background sees nobody
        other = noise.clone()
        other[4] = noise_of(1, seed=99)[0]
        assert torch.equal(sample(amsa(model, told, anchors=2), told, noise=other)[:4], long[:4])
        assert largest_difference(long[4], sample(model, told, noise=noise)[4]) > 1e-3


def check_a_later_frame_sees_the_anchors_in_every_layer_of_every_step_but_the_first():
    model, told = setting.tiny_sd15(), story(3)
    noted = []
    gather = frame_sharing.attend_across_frames

    def noting(q, k, v, heads, positions, found, strength, further, *more):
        if further is not None:
            noted.append((len(q), len(further.k), len(found.k)))
        return gather(q, k, v, heads, positions, found, strength, further, *more)

    frame_sharing.attend_across_frames = noting
    try:
        sample(amsa(model, told, anchors=2), told)
    finally:
        frame_sharing.attend_across_frames = gather
    assert len(noted) == 2 * 2 * 16  # two steps, two prompts, the layers with attention
    assert all(rows == 1 and theirs > 0 for rows, theirs, _ in noted)


def check_other_patches_are_told_which_frames_a_group_has():
    model, told = setting.tiny_sd15(), story(3)
    told_rows = []

    def note(executor, x, timesteps, context, y, control, options, **more):
        told_rows.append((options[ROWS].start, options[ROWS].stop, len(x)))
        return executor(x, timesteps, context, y, control, options, **more)

    noting = model.clone()
    noting.add_wrapper_with_key("diffusion_model", "note", note)
    for patched, rows in ((amsa(noting, told, anchors=2), [(0, 2, 4), (2, 3, 2)]), (amsa(noting, told), [(0, 3, 6)])):
        told_rows.clear()
        sample(patched, told, steps=1)
        assert told_rows == rows


def check_the_bank_does_not_grow_with_the_story():
    model = setting.tiny_sd15()
    banks = []

    class Noted(shared_attention._AnchorBank):
        def __init__(self):
            super().__init__()
            banks.append(self)

    original, shared_attention._AnchorBank = shared_attention._AnchorBank, Noted
    try:
        for count in (3, 6):
            told = story(count)
            sample(amsa(model, told, anchors=2), told)
    finally:
        shared_attention._AnchorBank = original
    short, long = (bank.nbytes for bank in banks)
    assert short == long > 0


def check_groups_that_share_nothing_are_the_plain_batch():
    """Prompts, pooled outputs, ControlNet hints, noise and noise masks are cut right: each frame is as in the batch."""
    for model in (setting.tiny_sd15(), setting.tiny_sdxl()):
        told = story(5)
        positive, negative = prompts(model, told)
        hints = torch.arange(5.0)[:, None, None, None].expand(5, 3, 64, 128)
        guided = controlled(model, positive, hints)
        masks = torch.zeros(5, HEIGHT * 8, WIDTH * 8)
        for row in range(5):
            masks[row, :, 20 * row :] = 1
        more = {"positive": guided, "negative": negative, "noise_mask": masks}
        steps = []
        grouped = sample(
            amsa(model, told, end=1e-4, anchors=2),
            told,
            **more,
            callback=lambda step, x0, x, total, steps=steps: steps.append((step, total, x0, x.shape)),
        )
        assert_close(grouped, sample(model, told, **more))
        assert largest_difference(grouped, sample(model, told, negative=negative, noise_mask=masks)) > 1e-3
        assert [step[:2] for step in steps] == [(i, 9) for i in range(9)]
        assert all(x0.shape == shape == (5, 4, HEIGHT, WIDTH) for _, _, x0, shape in steps)
        assert [int(x0.flatten(1).any(dim=1).sum()) for _, _, x0, _ in steps] == [2] * 3 + [4] * 3 + [5] * 3
        assert guided[0][1]["control"].cond_hint_original is hints


def assert_groups_are_the_whole(model, told, **more):
    """The same frames sampled in groups of two, which share nothing, and as one batch; what that gives."""
    grouped = sample(amsa(model, told, end=1e-4, anchors=2), told, steps=2, **more)
    whole = sample(model, told, steps=2, **more)
    error = float((grouped - whole).abs().max() / whole.abs().max())
    assert error < 2e-5, error
    return whole


def assert_all_differ(results):
    for one, other in itertools.combinations(results, 2):
        assert (one - other).abs().max() > 1e-3 * one.abs().max()


def hints_of(count, size=(64, 128)):
    return torch.linspace(-1, 1, count)[:, None, None, None].expand(count, 3, *size)


def check_any_number_of_hints_is_dealt_out_as_in_the_whole_batch():
    model, told = setting.tiny_sd15(), story(5)
    positive, negative = prompts(model, told)
    masks = torch.rand(3, 1, 64, 128, generator=torch.Generator().manual_seed(1))
    results = []
    for count in (1, 2, 3, 4, 7):
        chain = controlnet(model, hints_of(count), masks).set_previous_controlnet(per_frame(model, hints_of(2)))
        guided = with_control(positive, chain)
        results.append(assert_groups_are_the_whole(model, told, positive=guided, negative=negative))
    assert_all_differ(results)


def check_masks_of_a_prompt_are_dealt_out_as_in_the_whole_batch():
    """Any number of masks that the host takes, a height that is the number of frames, and areas from masks' bounds."""
    model, told = setting.tiny_sd15(), story(8)
    positive, negative = prompts(model, told)
    boxes = torch.zeros(4, HEIGHT, WIDTH)
    for row in range(4):
        boxes[row, :, : 4 + 4 * row] = 1
    [[tensor, extras]] = setting.conditioning(model, 77)
    results = []
    for masks in (boxes[1], boxes[:2], boxes, boxes.flip(0).repeat(3, 1, 1)):
        for bounds in (False, True):
            masked = [tensor, {**extras, "mask": masks, "mask_strength": 0.8, "set_area_to_bounds": bounds}]
            results.append(assert_groups_are_the_whole(model, told, positive=[*positive, masked], negative=negative))
    assert_all_differ(results[::2])


def check_fewer_prompts_than_frames_are_dealt_out_as_in_the_whole_batch():
    for model in (setting.tiny_sd15(), setting.tiny_sdxl()):
        told = story(5)
        positive, negative = prompts(model, told)
        [[tensor, extras]] = negative
        for rows in (1, 2, 3):
            few = [[tensor[:rows], {key: value[:rows] for key, value in extras.items()}]]
            assert_groups_are_the_whole(model, told, positive=positive, negative=few)


def check_what_the_host_makes_of_a_groups_rows_are_the_groups_rows_of_what_it_makes_of_all():
    """Whatever a prompt carries per frame, at every number of rows, and what is not per frame stays as it is."""
    repeat, resize = comfy.utils.repeat_to_batch_size, comfy.utils.resize_to_batch_size
    size, frames = torch.Size((HEIGHT, WIDTH)), 7
    for count in range(1, 10):
        rows_of = torch.arange(float(count))[:, None, None, None].expand(count, 4, HEIGHT, WIDTH)
        entry = {
            "cross_attn": rows_of[:, 0],
            "cross_attn_controlnet": rows_of[:, 0],
            "pooled_output": rows_of[:, 0, 0],
            "noise_concat": rows_of,
            "concat_latent_image": rows_of,
            "concat_mask": rows_of[:, :1],
            "model_conds": {"c": CONDRegular(rows_of), "one": CONDConstant(rows_of)},
            "strength": 1.0,
            "reading": torch.tensor(3.0),
        }
        for rows in groups_of(frames, 3):
            [cut] = of_group({"positive": [entry]}, rows, frames, size)["positive"]
            length = rows.stop - rows.start
            for key in ("cross_attn", "cross_attn_controlnet", "pooled_output", "noise_concat"):
                assert torch.equal(repeat(cut[key], length), repeat(entry[key], frames)[rows]), (count, rows, key)
            for key in ("concat_latent_image", "concat_mask"):
                assert torch.equal(resize(cut[key], length), resize(entry[key], frames)[rows]), (count, rows, key)
            made = cut["model_conds"]["c"].process_cond(batch_size=length).cond
            assert torch.equal(made, repeat(rows_of, frames)[rows])
            assert cut["model_conds"]["one"] is entry["model_conds"]["one"]
            assert cut["strength"] == 1.0
            assert cut["reading"] is entry["reading"]


def check_frames_of_different_groups_draw_different_noise_on_the_way():
    model, told = setting.tiny_sd15(), story(4)
    same = noise_of(1).repeat(4, 1, 1, 1)
    own = prompts(model, told)
    alike = [[each[0][0][:1].repeat(4, 1, 1), each[0][1]] for each in own]
    result = sample(
        amsa(model, told, end=1e-4, anchors=2),
        told,
        positive=[alike[0]],
        negative=[alike[1]],
        noise=same,
        sampler="euler_ancestral",
    )
    assert largest_difference(result[0], result[2]) > 1e-2


def check_step_skipping_caches_beside_anchors():
    from comfy_extras.nodes_easycache import LazyCacheNode

    model, told = setting.tiny_sd15(), story(4)
    (lazy,) = LazyCacheNode.execute(model, 0.2, 0.15, 0.95, False).result
    assert sample(amsa(lazy, told, anchors=2), told, steps=12).isfinite().all()


def check_who_is_not_in_the_anchor_frames_is_told_of():
    model, told = setting.tiny_sd15(), story(3)  # Ben comes in the second frame
    for anchors, expected in ((1, 1), (2, 0), (0, 0)):
        with warnings() as said:
            sample(amsa(model, told, anchors=anchors), told)
        assert sum('do not show "Ben"' in each for each in said) == expected, (anchors, said)


def check_a_single_step_is_said_to_be_plain():
    model, told = setting.tiny_sd15(), story()
    with warnings() as said:
        result = sample(amsa(model, told), told, steps=1)
    assert sum("nothing is shared" in each for each in said) == 1
    assert torch.equal(result, sample(model, told, steps=1))
