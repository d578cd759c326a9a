"""The laws of AMSA in the host: exact, rows never mixed, nothing left behind, beside what others patch."""

import contextlib
import gc

import comfy.hooks
import comfy.model_management
import setting
import torch
from frames import (
    HEIGHT,
    PEOPLE,
    WIDTH,
    amsa,
    controlled,
    masks_noted,
    on_two_gpus,
    prompts,
    sample,
    split_calls,
    story,
    warnings,
)
from setting import refused
from story_identity.core.story import Story
from story_identity.nodes.amsa import AMSANode
from story_identity.nodes.host import shared_attention

import nodes
from tests.closeness import assert_close, largest_difference


def written_out(model, noted, mixed=False):
    """A clone that does what AMSA does by one dense, masked attention over all frames, with masks already known.

    With `mixed`, the rows of all prompts see each other, which is wrong.
    """

    def replacement(q, k, v, extra):
        grid = tuple(extra["activations_shape"][2:])
        known = noted[float(extra["sigmas"].max())].get(grid)
        chunks = 1 if mixed else len(extra["cond_or_uncond"])
        parts = zip(*(each.double().chunk(chunks) for each in (q, k, v)), strict=True)
        return torch.cat([joined(*part, known, extra["n_heads"]) for part in parts]).to(q.dtype)

    def joined(q, k, v, known, heads):
        frames, tokens = q.shape[:2]
        frame = torch.arange(frames).repeat_interleave(tokens)
        allowed = frame[:, None] == frame[None, :]
        if known is not None:
            repeats = frames // len(known[0])
            subject, labels = (each.repeat(repeats, 1).flatten() for each in known)
            allowed |= subject[None, :] & (labels[:, None] == labels[None, :])
        q, k, v = (each.flatten(0, 1).unflatten(1, (heads, -1)).transpose(0, 1) for each in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        return out.transpose(0, 1).flatten(1).unflatten(0, (frames, tokens))

    patched = model.clone()
    for side, count in (("input", 12), ("middle", 1), ("output", 12)):
        for number in range(count):
            patched.set_model_attn1_replace(replacement, side, number)
    return patched


def check_it_is_dense_masked_attention_over_the_frames_of_each_prompt():
    for model in (setting.tiny_sd15(), setting.tiny_sdxl()):
        told = story()
        for settings in ({}, {"same_character": False}, {"threshold": 0.4, "decay": 0.0}):
            with masks_noted() as noted:
                ours = sample(amsa(model, told, **settings), told)
            assert sum(bool(grids) for grids in noted.values()) == 2  # three steps, the first is plain
            subjects = [subject for grids in noted.values() for subject, _ in grids.values()]
            assert all(0 < subject.float().mean() < 1 for subject in subjects)
            assert_close(ours, sample(written_out(model, noted), told), 1e-4)
            mixed = sample(written_out(model, noted, mixed=True), told)
            assert largest_difference(ours, mixed) > 1e-3
            assert largest_difference(ours, sample(model, told)) > 1e-3


def check_strength_zero_is_the_model_itself():
    model, told = setting.tiny_sd15(), story()
    (patched,) = AMSANode.execute(model, told, 0.0, "all", 0.0, 1.0, True, 0, 0.0, 0.5).result
    assert patched is not model
    assert patched.model_options == model.model_options
    one, half, full = (sample(amsa(model, told, strength=s), told) for s in (1e-6, 0.5, 1.0))
    plain = sample(model, told)
    assert_close(one, plain, 1e-3)
    assert 0 < (half - plain).norm() < (full - plain).norm()


def check_where_nothing_is_shared_every_byte_is_the_models_own():
    """Sharing ends before there is a mask, or no frame shows anybody; fused and split, SD1.5 and SDXL."""
    nobody = Story.parse({"characters": PEOPLE, "frames": ["an empty beach", "a forest", "a road"]})
    for model in (setting.tiny_sd15(), setting.tiny_sdxl()):
        for told, end in ((story(), 1e-4), (nobody, 1.0)):
            patched = amsa(model, told, end=end)
            for context in (contextlib.nullcontext, split_calls):
                with context(), setting.counted(model) as count, warnings() as said:
                    assert torch.equal(sample(patched, told), sample(model, told))
                assert said == []
                assert count.calls == (6 if context is contextlib.nullcontext else 12)


def check_fused_and_split_calls_give_the_same():
    for model in (setting.tiny_sd15(), setting.tiny_sdxl()):
        told = story()
        patched = amsa(model, told)
        with masks_noted() as fused_masks:
            fused = sample(patched, told)
        with split_calls(), masks_noted() as split_masks:
            split = sample(patched, told)
        assert_close(fused, split, 1e-4)
        for sigma, grids in fused_masks.items():
            assert all(torch.equal(subject, split_masks[sigma][grid][0]) for grid, (subject, _) in grids.items())


def check_the_negative_prompt_never_reaches_the_conditional_rows():
    """Where the guidance ignores the negative, so must the picture: whatever it says, and where it is not run."""
    model, told = setting.tiny_sd15(), story()
    patched = amsa(model, told)
    only = patched.clone()
    only.set_model_sampler_post_cfg_function(lambda args: args["cond_denoised"], disable_cfg1_optimization=True)
    results = [
        sample(only, told, negative=prompts(model, told, negative_seed=seed)[1], cfg=cfg)
        for seed, cfg in ((50, 4.0), (90, 4.0), (50, 1.0))
    ]
    assert all(largest_difference(results[0], each) <= 1e-5 for each in results[1:])
    assert_close(results[0], sample(patched, told, cfg=1.0))


def check_prompts_of_other_lengths_and_several_masked_prompts():
    model, told = setting.tiny_sd15(), story()
    patched = amsa(model, told)
    positive, negative = prompts(model, told)
    with setting.counted(model) as count, masks_noted() as noted:
        doubled = [[negative[0][0].repeat(1, 2, 1), negative[0][1]]]
        fused = sample(patched, told, negative=doubled)
    assert count.calls == 3
    assert_close(fused, sample(patched, told), 1e-3)
    with setting.counted(model) as count:
        sample(patched, told, negative=prompts(model, told, negative_tokens=100)[1])
    assert count.calls == 6
    halves = torch.zeros(2, HEIGHT * 8, WIDTH * 8)
    halves[0, :, :64], halves[1, :, 64:] = 1, 1
    both = [
        entry
        for mask in halves
        for entry in nodes.ConditioningSetMask().append(positive, mask[None], "default", 1.0)[0]
    ]
    with setting.counted(model) as count, warnings() as said, masks_noted() as noted:
        one = sample(patched, told, positive=both)
    assert (count.calls, count.samples) == (3, 27)
    assert said == []
    assert_close(one, sample(written_out(model, noted), told, positive=both), 1e-4)


def check_prompts_with_an_area_are_served_plainly_with_one_warning():
    model, told = setting.tiny_sd15(), story()
    positive, _ = prompts(model, told)
    (area,) = nodes.ConditioningSetArea().append(prompts(model, told)[0], 64, 64, 0, 0, 1.0)
    with warnings() as said:
        result = sample(amsa(model, told), told, positive=[*positive, *area])
    assert len(said) == 1, said
    assert all(word in said[0] for word in ("AMSA", "area", "plain attention"))
    assert largest_difference(result, sample(model, told, positive=[*positive, *area])) > 1e-3
    refused(lambda: sample(amsa(model, told), told, positive=area), "Encode Story", "area")


def check_a_call_without_all_frames_is_plain_with_one_warning():
    model, told = setting.tiny_sd15(), story()

    def one_by_one(executor, x, timesteps, context, y, control, options, **more):
        return torch.cat(
            [
                executor(*(e[i : i + 1] for e in (x, timesteps, context)), y, control, options, **more)
                for i in range(len(x))
            ]
        )

    def cut(model):
        model = model.clone()
        model.add_wrapper_with_key("diffusion_model", "one by one", one_by_one)
        return model

    with warnings() as said:
        result = sample(amsa(cut(model), told), told)
    assert torch.equal(result, sample(cut(model), told))
    assert len(said) == 1
    assert "1 pictures of 6" in said[0]


def check_merged_tokens_are_left_alone_with_one_warning():
    from comfy_extras.nodes_tomesd import TomePatchModel

    model, told = setting.tiny_sd15(), story()
    (merged,) = TomePatchModel.execute(model, 0.5).result if hasattr(TomePatchModel, "execute") else (None,)
    with warnings() as said:
        sample(amsa(merged, told), told)
    assert len(said) == 1
    assert "token merging" in said[0]


def check_prompts_that_cannot_be_read_are_plain_with_one_warning():
    model, told = setting.tiny_sd15(), story()
    cut = model.clone()
    cut.set_model_attn2_patch(lambda n, context, value, extra: (n, context[:, :7], value[:, :7]))
    with warnings() as said:
        result = sample(amsa(cut, told), told)
    assert torch.equal(result, sample(cut, told))
    assert len(said) == 1
    assert "tokens of the text" in said[0]


def check_a_b_a_gives_the_same_bytes():
    model = setting.tiny_sdxl()
    one, other = story(3), story(4)
    before, options = {key: value.clone() for key, value in model.model.state_dict().items()}, repr(model.model_options)
    first, second = amsa(model, one), amsa(model, other, same_character=False)
    kept = repr(first.model_options)
    a, _, again = (
        sample(first, one, sampler="euler_ancestral"),
        sample(second, other),
        sample(first, one, sampler="euler_ancestral"),
    )
    assert torch.equal(a, again)
    assert (repr(model.model_options), repr(first.model_options)) == (options, kept)
    assert all(torch.equal(value, before[key]) for key, value in model.model.state_dict().items())


def check_two_hundred_runs_leave_nothing_behind():
    model, told = setting.tiny_one_grid(), story(2)
    own, noise = prompts(model, told), torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def run(times):
        patched = amsa(model, told, anchors=1)
        for _ in range(times):
            sample(patched, told, positive=own[0], negative=own[1], steps=2, cfg=1.0, noise=noise)
        del patched  # the host notes every loading of a clone until the clone is gone
        gc.collect()
        held = gc.get_objects()
        tensors = sum(type(each) is torch.Tensor for each in held)
        return tensors, sum(type(each) is shared_attention._Run for each in held), len(held)

    tensors, runs, objects = run(3)
    after = run(200)
    assert runs == after[1] == 0
    assert after[0] <= tensors, (tensors, after)
    assert after[2] < objects + 200, (objects, after)


def check_samplers_that_call_the_model_twice_a_step():
    model, told = setting.tiny_sd15(), story()
    for sampler in ("heun", "dpm_2", "dpmpp_2m", "dpmpp_sde", "euler_cfg_pp", "uni_pc", "heunpp2"):
        for anchors in (0, 2):
            with masks_noted() as noted:
                result = sample(amsa(model, told, anchors=anchors), told, sampler=sampler)
            assert result.isfinite().all(), sampler
            assert largest_difference(result, sample(model, told, sampler=sampler)) > 1e-3, sampler
            if not anchors and sampler != "heunpp2":  # which comes back to a level with other masks than are noted
                assert_close(result, sample(written_out(model, noted), told, sampler=sampler), 1e-3)


def check_layers_and_percents_are_those_asked_for():
    model, told = setting.tiny_sd15(), story()
    grids = [(8, 16), (4, 8), (2, 4), (1, 2)]
    for layers, wanted in (("all", grids), ("without the largest", grids[1:]), ("smallest two", grids[2:])):
        with masks_noted() as noted:
            sample(amsa(model, told, layers=layers), told)
        assert [sorted(each) for each in noted.values()] == [[], sorted(wanted), sorted(wanted)], layers
    with masks_noted() as noted:
        sample(amsa(model, told, start=0.5), told, steps=6)
    started = [bool(each) for each in noted.values()]
    assert started == sorted(started)
    assert 0 < sum(started) < 5
    with masks_noted() as noted:
        sample(amsa(model, told, end=0.5), told, steps=6)
    assert [bool(each) for each in noted.values()] == [False] + [True] * started[1:].count(False)  # then no hooks
    one_grid = setting.tiny_one_grid()
    with masks_noted() as noted:
        sample(amsa(one_grid, told, layers="without the largest"), told)
    assert [len(each) for each in noted.values()] == [0, 1, 1]


def check_beside_freeu_pag_controlnet_and_ip_adapter():
    from comfy_extras.nodes_freelunch import FreeU_V2
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance
    from comfy_extras.nodes_sag import SelfAttentionGuidance

    model, told = setting.tiny_sd15(), story()
    (free,) = FreeU_V2.execute(model, 1.3, 1.4, 0.9, 0.2).result
    (pag,) = PerturbedAttentionGuidance.execute(model, 3.0).result
    (sag,) = SelfAttentionGuidance.execute(model, 0.5, 2.0).result
    large = torch.randn(3, 4, 16, 32, generator=torch.Generator().manual_seed(0))  # SAG fails on grids of one row
    adapter = model.clone()
    for number in (1, 4, 8):
        adapter.set_model_attn2_replace(lambda q, k, v, extra: 0.1 * q, "input", number)
    for theirs in (free, pag, sag, adapter):
        with warnings() as said:
            ours = sample(amsa(theirs, told), told, noise=large)
        assert said == []
        assert ours.isfinite().all()
        assert largest_difference(ours, sample(theirs, told, noise=large)) > 1e-3
        assert theirs is free or largest_difference(ours, sample(amsa(model, told), told, noise=large)) > 1e-3
    with masks_noted() as noted:
        perturbed = sample(amsa(pag, told), told)
    with masks_noted() as plain_noted:
        sample(amsa(model, told), told, steps=1)
    assert list(plain_noted) == list(noted)[:1]
    assert torch.equal(perturbed, sample(amsa(pag, told), told))
    positive, _ = prompts(model, told)
    hints = torch.tensor([1.0, 3.0, -2.0])[:, None, None, None].expand(3, 3, 64, 128)
    guided = controlled(model, positive, hints)
    assert largest_difference(sample(amsa(model, told), told), sample(amsa(model, told), told, positive=guided)) > 1e-3


def check_perturbed_guidance_adds_nothing_to_the_maps():
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    model, told = setting.tiny_sd15(), story()
    (pag,) = PerturbedAttentionGuidance.execute(model, 1e-9).result
    with masks_noted() as with_pag:
        sample(amsa(pag, told), told)
    with masks_noted() as without:
        sample(amsa(model, told), told)
    for sigma, grids in without.items():
        assert all(torch.equal(subject, with_pag[sigma][grid][0]) for grid, (subject, _) in grids.items())


def check_a_lora_hook_on_the_positive_alone():
    model, told = setting.tiny_sd15(), story()
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_v"
    down, up = torch.randn(2, 64, generator=torch.Generator().manual_seed(1)), torch.randn(64, 2)
    lora = {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
    hooks = comfy.hooks.create_hook_lora(lora, 1.0, 0.0)
    positive, _ = prompts(model, told)
    hooked = comfy.hooks.set_hooks_for_conditioning(positive, hooks)
    with setting.counted(model) as count, warnings() as said:
        result = sample(amsa(model, told), told, positive=hooked)
    assert count.calls == 6
    assert not [each for each in said if "AMSA" in each]
    assert largest_difference(result, sample(amsa(model, told), told)) > 1e-3
    assert largest_difference(result, sample(model, told, positive=hooked)) > 1e-3


def check_an_interrupt_is_noticed_and_the_model_is_as_before():
    import comfy.model_management

    model, told = setting.tiny_sd15(), story()
    patched = amsa(model, told)
    before = sample(patched, told)
    comfy.model_management.interrupt_current_processing(True)
    try:
        sample(patched, told)
    except comfy.model_management.InterruptProcessingException:
        pass
    else:
        raise AssertionError("the interrupt was not noticed")
    finally:
        comfy.model_management.interrupt_current_processing(False)
    assert torch.equal(sample(patched, told), before)


def check_bad_input_is_refused_before_any_unet_call():
    model, told = setting.tiny_sd15(), story()
    patched = amsa(model, told)
    positive, negative = prompts(model, told)
    elsewhere = Story.parse({"characters": PEOPLE, "frames": ["Mira waits, 0", "Mira sleeps", "Ben runs, 2"]})
    strangers = Story.parse({"characters": PEOPLE[:1], "frames": ["Mira waits", "Mira sleeps", "Mira runs"]})
    with setting.counted(model) as count:
        for frames in (1, 2, 4):
            latent = setting.empty_latent(HEIGHT, WIDTH, frames)
            refused(
                lambda latent=latent: nodes.KSampler().sample(
                    patched, 1, 2, 4.0, "euler", "normal", positive, negative, latent
                ),
                f"{frames} pictures",
                "3 frames",
                "batch_size",
            )
        unnamed = [[positive[0][0], {}]]
        refused(lambda: sample(patched, told, positive=unnamed), "Encode Story")
        refused(
            lambda: sample(amsa(model, elsewhere), elsewhere, positive=positive),
            "frame 2",
            "woman with red hair sleeps",
            "STORY",
        )
        refused(lambda: sample(amsa(model, strangers), strangers, positive=positive), '"Mira", "Ben"', 'with "Mira".')
        refused(lambda: sample(amsa(model, told, anchors=2), told, sampler="dpm_adaptive"), "dpm_adaptive", "anchors")
        refused(lambda: amsa(patched, told), "already")
        refused(lambda: sample(on_two_gpus(patched), told), "AMSA works on one GPU", "MultiGPU")
        refused(lambda: amsa(model, told, start=0.6, end=0.5), "0.6", "0.5")
    assert count.calls == 0
    assert sample(amsa(model, told, anchors=3), told, sampler="dpm_adaptive").isfinite().all()


def check_models_of_other_kinds_are_refused():
    model, told = setting.tiny_sd15(), story()
    other = model.clone()
    other.model = torch.nn.Module()
    other.model.diffusion_model, other.model.model_config = (
        torch.nn.Linear(1, 1),
        type("Flux", (), {"unet_config": {}})(),
    )
    refused(lambda: amsa(other, told), "AMSA", "kind Flux", "SDXL", "Z-Image")
