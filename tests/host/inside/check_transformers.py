"""The laws of AMSA on diffusion transformers."""

import contextlib

import comfy.model_management
import torch
from families import FAMILIES
from frames import amsa, masks_noted, story, warnings
from setting import counted, refused
from story_identity.core.frame_sharing import FrameSharing
from transformer_frames import GRID, JOINT, latents, nobody, prompts, sample, written_out

from tests.closeness import assert_close, largest_difference

LENGTHS = (12, 17, 33)


def check_it_is_dense_masked_attention_over_the_frames_of_each_prompt():
    """All frames in one call: text sees nothing elsewhere and nobody sees it; the picture sees its own person."""
    for name in JOINT:
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
    for name in JOINT:
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
    for name in JOINT:
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
