"""The laws of AMSA on diffusion transformers."""

import contextlib

import comfy.controlnet
import comfy.model_management
import setting
import torch
from comfy.ldm.flux.math import apply_rope1
from families import FAMILIES
from frames import PerFrame, amsa, masks_noted, story, warnings, with_control
from setting import counted, refused
from story_identity.core.frame_sharing import FrameSharing
from story_identity.nodes.amsa import AMSANode
from story_identity.nodes.host.transformer_families import family_of
from story_identity.nodes.host.transformer_hooks import mover
from transformer_frames import ALL, GRID, JOINT, latents, nobody, overridden, prompts, sample, written_out

from tests.closeness import assert_close, largest_difference

LENGTHS = (12, 17, 33)


def check_it_is_dense_masked_attention_over_the_frames_of_each_prompt():
    """All frames in one call: text sees nothing elsewhere and nobody sees it; the picture sees its own person."""
    for name in ALL:
        family, told = FAMILIES[name], story()
        model = family.make()
        with masks_noted() as noted, warnings() as said:
            ours = sample(family, amsa(model, told), told)
        assert said == [], (name, said)
        assert [len(grids) for grids in noted.values()] == [0, 1, 1], name
        shares = [subject.float().mean() for grids in noted.values() for subject, _ in grids.values()]
        assert all(0 < share < 1 for share in shares), name
        assert_close(ours, sample(family, written_out(name, model, noted), told), 5e-6)
        assert largest_difference(ours, sample(family, model, told)) > 1e-4, name


def check_every_place_of_the_picture_sees_everybody_without_same_character():
    family, told = FAMILIES["Krea 2"], story()
    model = family.make()
    with masks_noted() as noted:
        ours = sample(family, amsa(model, told, same_character=False), told)
    everybody = {
        level: {grid: (subject, torch.where(subject, 0, 0)) for grid, (subject, _) in grids.items()}
        for level, grids in noted.items()
    }
    assert_close(ours, sample(family, written_out("Krea 2", model, everybody), told), 5e-6)


def check_frame_by_frame_each_frame_sees_the_anchors_before_it():
    """Prompts of equal lengths, so that one batch can say what the calls of single frames must come to."""
    for name, anchors in (("Flux.1", 1), ("Qwen-Image", 2), ("Z-Image", 3), ("SD3.5", 1)):
        family, told = FAMILIES[name], story(4)
        model = family.make()
        with noted_by_frame() as noted, counted(model) as count, warnings() as said:
            ours = sample(family, amsa(model, told, anchors=anchors), told)
        assert len(said) == (anchors == 1), (name, said)  # the first frame shows Mira alone
        assert all('"Ben"' in each and "anchors" in each for each in said)
        assert count.calls >= 3 * 4, name

        def sees(viewer, seen, anchors=anchors):
            return seen < min(viewer, anchors)

        assert_close(ours, sample(family, written_out(name, model, noted, sees), told), 5e-6)


def check_without_people_every_frame_is_itself_bit_for_bit():
    """In one call the batch's bytes; with prompts of different lengths each frame's own, sampled by itself."""
    for name in ALL:
        family, told = FAMILIES[name], nobody()
        model = family.make()
        assert torch.equal(sample(family, amsa(model, told), told), sample(family, model, told)), name
        conds = prompts(family, told, LENGTHS)
        for strength in (1.0, 0.0) if name == "Krea 2" else (1.0,):
            ours = sample(family, amsa(model, told, strength=strength), told, conds)
            for frame, length in enumerate(LENGTHS):
                alone = prompts(family, told, length, seed=1)
                alone = [[[rows[frame : frame + 1], single(extras, frame)] for rows, extras in each] for each in alone]
                assert torch.equal(ours[frame : frame + 1], sample(family, model, told, alone, frame=frame)), name


def single(extras, frame):
    """What a prompt carries, of one frame."""
    return {
        key: value[frame : frame + 1] if isinstance(value, torch.Tensor) else value for key, value in extras.items()
    }


def check_prompts_of_different_lengths_share():
    for name in ALL:
        family, told = FAMILIES[name], story()
        model, conds = family.make(), prompts(family, told, LENGTHS)
        apart = amsa(model, told, strength=0.0)
        with warnings() as said:
            ours, alone = sample(family, amsa(model, told), told, conds), sample(family, apart, told, conds)
        assert said == [], (name, said)
        assert torch.equal(ours[0], alone[0]), name  # the first frame sees nobody
        assert all(largest_difference(ours[i], alone[i]) > 1e-4 for i in (1, 2)), name


def check_a_b_a_gives_the_same_bytes():
    for name in ("Z-Image", "SD3.5"):
        family, one, other = FAMILIES[name], story(3), story(4)
        model = family.make()
        before, options = (
            {key: value.clone() for key, value in model.model.state_dict().items()},
            repr(model.model_options),
        )
        conds = prompts(family, one, LENGTHS)
        first, second = amsa(model, one), amsa(model, other, same_character=False)
        a = sample(family, first, one, conds, sampler="euler_ancestral")
        sample(family, second, other)
        assert torch.equal(a, sample(family, first, one, conds, sampler="euler_ancestral")), name
        assert repr(model.model_options) == options
        assert all(torch.equal(value, before[key]) for key, value in model.model.state_dict().items())


def check_an_interrupt_is_noticed_and_the_model_is_as_before():
    family, told = FAMILIES["Krea 2"], story()
    patched = amsa(family.make(), told)
    conds = prompts(family, told, LENGTHS)
    before = sample(family, patched, told, conds)
    comfy.model_management.interrupt_current_processing(True)
    try:
        sample(family, patched, told, conds)
    except comfy.model_management.InterruptProcessingException:
        pass
    else:
        raise AssertionError("the interrupt was not noticed")
    finally:
        comfy.model_management.interrupt_current_processing(False)
    assert torch.equal(sample(family, patched, told, conds), before)


def check_samplers_that_call_the_model_twice_a_step():
    family, told = FAMILIES["Qwen-Image"], story()
    model, conds = family.make(), prompts(family, told, LENGTHS)
    for sampler in ("heun", "dpmpp_2m", "dpmpp_sde", "uni_pc", "euler_cfg_pp", "dpm_adaptive"):
        ours = sample(family, amsa(model, told), told, conds, sampler=sampler)
        assert ours.isfinite().all(), sampler
        assert (
            largest_difference(ours, sample(family, amsa(model, told, strength=0.0), told, conds, sampler=sampler))
            > 1e-4
        )


def check_reference_latents_are_neither_seen_nor_moved():
    """References lie behind the picture, before it in Z-Image; the text's places stay right."""
    for name, method in (
        ("Flux.2", None),
        ("Qwen-Image", "index_timestep_zero"),
        ("Krea 2", "index"),
        ("Z-Image", None),
    ):
        family, told = FAMILIES[name], story()
        model = family.make()
        reference = model.model.process_latent_out(torch.randn(latents(family, model, 1)[..., :4, :8].shape))
        extras = {"reference_latents": [reference], "reference_latents_method": method}
        conds = prompts(family, told, **{key: value for key, value in extras.items() if value is not None})
        with masks_noted() as noted, warnings() as said:
            ours = sample(family, amsa(model, told), told, conds)
        assert said == [], (name, said)
        tokens = reference[0, 0].numel() // (1 if name == "Flux.2" else 4)
        more = (
            32 + 32 if name == "Z-Image" else tokens
        )  # the text that the reference has not, and the reference, padded
        oracle = written_out(name, model, noted, references=more)
        assert_close(ours, sample(family, oracle, told, conds), 5e-6)
        assert largest_difference(ours, sample(family, model, told, conds)) > 1e-4, name
        assert largest_difference(ours, sample(family, amsa(model, told), told)) > 1e-4, name


def check_a_reference_next_to_the_picture_is_named_and_nothing_is_shared():
    """HiDream's editing models draw a picture twice as wide, whose other half is the reference."""
    family, told = FAMILIES["HiDream"], story()
    model = family.make()
    beside = torch.randn(latents(family, model, 1).shape, generator=torch.Generator().manual_seed(0))
    conds = prompts(family, told, concat_latent_image=beside)
    with warnings() as said:
        ours = sample(family, amsa(model, told), told, conds)
    assert len(said) == 1
    assert "number of tokens" in said[0]
    assert torch.equal(ours, sample(family, model, told, conds))


def check_masked_text_stays_masked():
    """Each row's own mask, whatever other frames' keys come behind."""
    family, told = FAMILIES["Qwen-Image"], story()
    model = family.make()
    mask = torch.ones(3, 12, dtype=torch.long)
    mask[0, 10:], mask[1, 11:] = 0, 0
    positive, negative = prompts(family, told)
    conds = [[positive[0][0], {**positive[0][1], "attention_mask": mask}]], negative
    with masks_noted() as noted, warnings() as said:
        ours = sample(family, amsa(model, told), told, conds)
    assert said == []
    assert_close(ours, sample(family, written_out("Qwen-Image", model, noted), told, conds), 5e-6)
    assert largest_difference(ours, sample(family, amsa(model, told), told)) > 1e-4


def check_blocks_and_steps_are_those_asked_for():
    family, told = FAMILIES["Flux.1"], story()
    model = family.make()
    for block in (0, 1):
        with masks_noted() as noted:
            ours = sample(family, amsa(model, told, blocks=(range(block, block + 1),)), told)
        assert_close(ours, sample(family, written_out("Flux.1", model, noted, blocks=[block]), told), 5e-6)
    with masks_noted() as noted:
        sample(family, amsa(model, told, start=0.5), told, steps=6)
    started = [bool(each) for each in noted.values()]
    assert started == sorted(started)
    assert 0 < sum(started) < 5
    refused(lambda: amsa(model, told, blocks=(range(7, 8),)), "block 7", "Flux.1", "0 to 1")


def check_moved_keys_are_what_embedding_them_there_gives():
    for name in JOINT:
        family = FAMILIES[name]
        model = family.make()
        kind = family_of(model)
        if kind.rotary is None:
            refused(lambda m=model: amsa(m, story(), matched=True), "rotary", '"own"')
            continue
        embed = getattr(model.model.diffusion_model, kind.rotary)
        width, tokens, axes = sum(embed.axes_dim), 7, len(embed.axes_dim)
        k = torch.randn(1, 2, tokens, width, generator=torch.Generator().manual_seed(0))
        places = torch.randint(0, 40, (1, tokens, axes), generator=torch.Generator().manual_seed(1)).float()
        by = torch.tensor([[3.0, -2.0]] * tokens)
        onto = places.clone()
        onto[..., 1:3] += by
        turns = (embed(each).reshape(1, 1, tokens, width // 2, 2, 2) for each in (places, onto))
        embedded, there = (apply_rope1(k, turn)[0].transpose(0, 1).flatten(1) for turn in turns)
        assert_close(mover(model, kind, {})(embedded, by, 2), there, 1e-6)


def check_matched_positions_bring_everybody_to_where_this_frame_shows_them():
    for name, axes, base, frame_by_frame in (
        ("Flux.1", (8, 12, 12), 10000, False),
        ("Z-Image", (8, 12, 12), 256, True),
    ):
        family, told = FAMILIES[name], story()
        model = family.make()
        patched = amsa(model, told, matched=True, anchors=2 if frame_by_frame else 0)
        with (noted_by_frame if frame_by_frame else masks_noted)() as noted:
            ours = sample(family, patched, told)

        def sees(viewer, seen, anchors=2 if frame_by_frame else None):
            return viewer != seen if anchors is None else seen < min(viewer, anchors)

        oracle = written_out(name, model, noted, sees, rotary=(axes, base))
        assert_close(ours, sample(family, oracle, told), 1e-5)
        own = amsa(model, told, anchors=2 if frame_by_frame else 0)
        assert largest_difference(ours, sample(family, own, told)) > 1e-5, name


def check_beside_loras_and_the_attention_of_others():
    family, told = FAMILIES["Flux.1"], story()
    model = family.make()
    key = "diffusion_model.double_blocks.0.img_attn.qkv.weight"
    weight = model.model.state_dict()[key]
    lora = model.clone()
    lora.add_patches({key: ("diff", (0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)),))})
    with masks_noted() as noted:
        ours = sample(family, amsa(lora, told), told)
    assert_close(ours, sample(family, written_out("Flux.1", lora, noted), told), 5e-6)
    assert largest_difference(ours, sample(family, amsa(model, told), told)) > 1e-3
    theirs = overridden(model, lambda q, k, v, mask, sigma, options, plain: 0.5 * plain())
    for lengths in (12, LENGTHS):
        conds = prompts(family, told, lengths)
        ours = sample(family, amsa(theirs, told), told, conds)
        assert largest_difference(ours, sample(family, theirs, told, conds)) > 1e-4
        assert largest_difference(ours, sample(family, amsa(model, told), told, conds)) > 1e-3


def check_every_frame_has_its_own_controlnet_hint_and_its_own_easycache():
    from comfy_extras.nodes_easycache import EasyCacheNode

    family, told = FAMILIES["Qwen-Image"], story()
    model = family.make()
    (cached,) = EasyCacheNode.execute(model, 0.9, 0.1, 0.95, False).result
    hints = torch.tensor([1.0, 3.0, -2.0])[:, None, None, None].expand(3, 3, 64, 64)
    for theirs, controlled in ((cached, False), (model, True)):
        positive, negative = prompts(family, told, LENGTHS)
        if controlled:
            control = TokenControl().set_cond_hint(hints)
            positive, negative = (with_control(each, control) for each in (positive, negative))
        apart = sample(family, amsa(theirs, told, strength=0.0), told, (positive, negative), steps=8)
        without = sample(family, amsa(model, told, strength=0.0), told, prompts(family, told, LENGTHS), steps=8)
        assert largest_difference(apart, without) > 1e-4, controlled
        for frame, length in enumerate(LENGTHS):
            alone = prompts(family, told, length)
            alone = [[[rows[frame : frame + 1], single(extras, frame)] for rows, extras in each] for each in alone]
            if controlled:
                control = TokenControl().set_cond_hint(hints[frame : frame + 1])
                alone = [with_control(each, control) for each in alone]
            single_frame = sample(family, theirs, told, alone, frame=frame, steps=8)
            assert torch.equal(apart[frame : frame + 1], single_frame), (controlled, frame)
        with warnings() as said:
            shared = sample(family, amsa(theirs, told), told, (positive, negative), steps=8)
        assert shared.isfinite().all()
        assert largest_difference(shared, apart) > 1e-4
        assert len(said) <= 1, said  # a frame whose anchors were skipped
        assert all("EasyCache" in each for each in said)


class TokenControl(PerFrame):
    """A control that pushes the picture's tokens of every frame by its own hint."""

    def copy(self):
        other = TokenControl()
        self.copy_to(other)
        return other

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        hint = self.cond_hint_original[:, :1, 0, 0]
        rows = comfy.controlnet.broadcast_image_to(hint, x_noisy.shape[0], batched_number)
        push = torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(0))
        return {"middle": [], "output": [], "input": [0.3 * push * rows[..., None]]}


def check_a_compiled_transformer_gives_what_it_gives_uncompiled():
    """Compiled as in `check_compiled_models`: traced, run as it is, and counted."""
    from check_compiled_models import Traced, compiled

    torch._dynamo.reset()
    family, told, backend = FAMILIES["Flux.1"], story(2), Traced()
    model = family.make()
    ready = compiled(model, backend)
    assert torch.equal(sample(family, ready, told, cfg=1.0), sample(family, model, told, cfg=1.0))
    before = backend.runs
    assert before > 0
    for lengths in (12, LENGTHS[:2]):
        conds = prompts(family, told, lengths)
        found = sample(family, amsa(ready, told), told, conds, cfg=1.0)
        assert backend.runs == before
        assert torch.equal(found, sample(family, amsa(model, told), told, conds, cfg=1.0))


def check_bad_input_is_refused_before_any_model_call():
    family, told = FAMILIES["Z-Image"], story()
    model = family.make()
    patched = amsa(model, told)
    positive, negative = prompts(family, told, LENGTHS)
    with counted(model) as count:
        refused(lambda: amsa(patched, told), "already")
        refused(lambda: sample(family, patched, story(4), prompts(family, story(4))), "4 pictures", "3 frames")
        refused(lambda: sample(family, patched, told, ([[positive[0][0], {}]], negative)), "Encode Story")
        longer = [[torch.cat([positive[0][0]] * 2, dim=1), positive[0][1]]]
        refused(lambda: sample(family, patched, told, (longer, negative)), "different lengths", "Conditioning Concat")
    assert count.calls == 0
    refused(lambda: amsa(FAMILIES["Ernie-Image"].make(), told), "AMSA", "Ernie-Image", "hook", "Z-Image")
    refused(lambda: amsa(setting.tiny_sd15(), told, blocks=(range(1),)), "blocks", "UNet", "layers")
    refused(lambda: amsa(setting.tiny_sd15(), told, matched=True), "positions", "UNet")
    refused(lambda: AMSANode.execute(model, told, 1.0, "all", 0.0, 1.0, True, 0, 0.0, 0.5, "1-x"), 'blocks: "1-x"')
    node = AMSANode.execute(model, told, 1.0, "all", 0.0, 1.0, True, 0, 0.0, 0.5, "0", "own").result[0]
    assert largest_difference(sample(family, node, told), sample(family, model, told)) > 1e-4


@contextlib.contextmanager
def noted_by_frame():
    """As `masks_noted`, of frames that are run one by one, in order."""
    noted = {}
    begin = FrameSharing.begin_call

    def noting(sharing, prompts, level, device):
        again = level == sharing.reader.level  # the other prompt's call
        begin(sharing, prompts, level, device)
        if not again:
            labels = sharing._labels.get(GRID, torch.full((1, *GRID), -1)).flatten(1)
            noted.setdefault(level, []).append(labels)

    FrameSharing.begin_call = noting
    try:
        yield noted
    finally:
        FrameSharing.begin_call = begin
        for level, rows in noted.items():
            labels = torch.cat(rows)
            noted[level] = {GRID: (labels >= 0, labels)}
