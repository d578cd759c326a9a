"""Long stories: groups of frames, the anchors that all of them see, and nothing of a group in another."""

import setting
import torch
from frames import (
    HEIGHT,
    WIDTH,
    amsa,
    controlled,
    noise_of,
    prompts,
    sample,
    story,
    warnings,
)
from story_identity.nodes.host import shared_attention
from story_identity.nodes.host.frame_groups import ROWS


def check_anchor_frames_are_sampled_as_if_there_were_no_others():
    for model in (setting.tiny_sd15(), setting.tiny_sdxl()):
        told, first = story(5), story(2)
        noise = noise_of(5)
        long = sample(amsa(model, told, anchors=2), told, noise=noise)
        assert torch.equal(long[:2], sample(amsa(model, first), first, noise=noise[:2]))
        other = noise.clone()
        other[0] = noise_of(1, seed=99)[0]
        moved = sample(amsa(model, told, anchors=2), told, noise=other)
        changed = (moved - long).abs().amax(dim=(1, 2, 3)) > 1e-4
        assert changed[[0, 1, 2, 4]].all()  # they see the first frame's people
        assert not changed[3]  # nobody is in this frame, and its background sees nobody
        other = noise.clone()
        other[4] = noise_of(1, seed=99)[0]
        assert torch.equal(sample(amsa(model, told, anchors=2), told, noise=other)[:4], long[:4])
        assert not torch.allclose(long[4], sample(model, told, noise=noise)[4], atol=1e-3)


def check_a_later_frame_sees_the_anchors_in_every_layer_of_every_step_but_the_first():
    model, told = setting.tiny_sd15(), story(3)
    noted = []
    gather = shared_attention.attend_across_frames

    def noting(q, k, v, heads, positions, found, strength, further, attend):
        if further is not None:
            noted.append((len(q), len(further.k), len(found.k)))
        return gather(q, k, v, heads, positions, found, strength, further, attend)

    shared_attention.attend_across_frames = noting
    try:
        sample(amsa(model, told, anchors=2), told)
    finally:
        shared_attention.attend_across_frames = gather
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

    class Noted(shared_attention.SubjectBank):
        def __init__(self):
            super().__init__()
            banks.append(self)

    original, shared_attention.SubjectBank = shared_attention.SubjectBank, Noted
    try:
        for count in (3, 6):
            told = story(count)
            sample(amsa(model, told, anchors=2), told)
    finally:
        shared_attention.SubjectBank = original
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
        assert torch.allclose(grouped, sample(model, told, **more), atol=1e-4)
        assert not torch.allclose(grouped, sample(model, told, negative=negative, noise_mask=masks), atol=1e-3)
        assert [step[:2] for step in steps] == [(i, 9) for i in range(9)]
        assert all(x0.shape == shape == (5, 4, HEIGHT, WIDTH) for _, _, x0, shape in steps)
        assert [int(x0.flatten(1).any(dim=1).sum()) for _, _, x0, _ in steps] == [2] * 3 + [4] * 3 + [5] * 3
        assert guided[0][1]["control"].cond_hint_original is hints


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
    assert not torch.allclose(result[0], result[2], atol=1e-2)


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
