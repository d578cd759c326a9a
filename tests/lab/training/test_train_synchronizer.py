"""The synchronizer: what it learns from and what it leaves alone, and a file that others load."""

from contextlib import closing

import pytest
import torch
from story_identity.headless import prompts
from story_identity.headless.checkpoint import load_checkpoint
from story_identity.headless.prompts import encode_prompt
from story_identity.lab.step_random import StepRandom
from story_identity.lab.training import batch as batches
from story_identity.lab.training.loop import Loop
from story_identity.lab.training.train_synchronizer import Synchronizer

from tests.closeness import assert_close, largest_difference
from tests.stand_ins.diffusers_models import write_single_file

from .pieces import Source, group, synchronizer_settings

GROUPS = [group(1, 3, 1), group(2, 3, 2)]


def training(pipe, **changes):
    return closing(Synchronizer(pipe, synchronizer_settings(**changes)))


def wake(trainee):
    """A LoRA begins as nothing; give it something to do."""
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, each in trainee.named_parameters():
            if "lora_B" in name:
                each.copy_(0.1 * torch.randn(each.shape, generator=random))


def losses_of(trainee, groups=None, step=0):
    return trainee(groups or GROUPS, StepRandom.of(0, 0, step))


def gradients(trainee, loss):
    wanted = {name: each for name, each in trainee.named_parameters() if each.requires_grad}
    return dict(zip(wanted, torch.autograd.grad(loss, list(wanted.values())), strict=True))


def test_without_mask_loss_it_is_the_plain_loss_bit_for_bit(two_grids):
    with training(two_grids) as trainee:
        wake(trainee)
        whole = losses_of(trainee)
    with training(two_grids, mask_loss=0.0) as trainee:
        wake(trainee)
        plain = losses_of(trainee)
    assert plain.keys() == {"loss", "diffusion"}
    assert torch.equal(plain["loss"], whole["diffusion"])
    assert torch.equal(plain["loss"], plain["diffusion"])
    assert torch.equal(whole["loss"], whole["diffusion"] + 0.5 * whole["mask"])
    assert whole["mask"] > 0


@pytest.mark.slow
def test_groups_are_plain_or_share_and_no_maps_are_made_where_none_does(two_grids, monkeypatch):
    found = {}
    for plain in (0.0, 0.5, 1.0):
        with training(two_grids, plain=plain, mask_loss=0.0) as trainee:
            wake(trainee)
            if plain == 1:
                monkeypatch.setattr("story_identity.lab.training.group_attention.token_maps", None)
            found[plain] = [losses_of(trainee, step=step)["loss"].item() for step in range(6)]
    seen = list(zip(found[0.0], found[0.5], found[1.0], strict=True))
    assert all(shared != plain for shared, _, plain in seen)
    assert any(mixed not in (shared, plain) for shared, mixed, plain in seen)


def test_every_layer_learns_and_the_mask_loss_teaches_too(two_grids):
    with training(two_grids) as trainee:
        wake(trainee)
        losses = losses_of(trainee)
        assert all(each.abs().max() > 0 for each in gradients(trainee, losses["diffusion"]).values())
        wanted = [each for name, each in trainee.named_parameters() if "attn2.to_k.lora_A" in name]
        taught = torch.autograd.grad(losses_of(trainee)["mask"], wanted)
        assert all(each.abs().max() > 0 for each in taught)


def test_only_the_lora_is_trained(two_grids):
    before = {name: each.clone() for name, each in two_grids.unet.state_dict().items()}
    text = {name: each.clone() for name, each in two_grids.text_encoder.state_dict().items()}
    with training(two_grids, steps=2, learning_rate=1e-2) as trainee:
        loop = Loop(trainee, Source(), trainee.settings)
        started = {name: each.detach().clone() for name, each in loop.trained.items()}
        batch = loop._batches()
        for _ in range(2):
            loop.step(batch)
        assert all(".lora_" in name for name in loop.trained)
        assert not any(torch.equal(each, started[name]) for name, each in loop.trained.items())
        frozen = {name.replace(".base_layer", ""): each for name, each in trainee.unet.state_dict().items()}
        assert all(torch.equal(frozen[name], each) for name, each in before.items())
    assert all(torch.equal(two_grids.text_encoder.state_dict()[name], each) for name, each in text.items())


def test_afterwards_the_pipeline_is_as_it_was(two_grids):
    inputs = torch.randn(2, 4, 8, 8), 100, torch.randn(2, 77, 32)
    processors, before = dict(two_grids.unet.attn_processors), two_grids.unet(*inputs).sample
    keys = two_grids.unet.state_dict().keys()
    assert all(each.requires_grad for each in two_grids.unet.parameters())
    for _ in range(2):
        with training(two_grids, gradient_checkpointing=True) as trainee:
            wake(trainee)
            assert largest_difference(two_grids.unet(*inputs).sample, before) > 1e-4
    assert two_grids.unet.attn_processors == processors
    assert two_grids.unet.state_dict().keys() == keys
    assert not two_grids.unet.is_gradient_checkpointing
    assert torch.equal(two_grids.unet(*inputs).sample, before)
    assert all(each.requires_grad for each in two_grids.unet.parameters())


def test_gradient_checkpointing_changes_nothing_but_memory(two_grids):
    found = []
    for checkpointing in (False, True):
        with training(two_grids, gradient_checkpointing=checkpointing) as trainee:
            wake(trainee)
            losses = losses_of(trainee)
            found.append((losses, gradients(trainee, losses["loss"])))
    (one, plain), (other, again) = found
    for name in one:
        assert_close(other[name], one[name])
    for name in plain:
        assert_close(again[name], plain[name])


def test_a_caption_that_is_left_out_is_an_empty_prompt_and_has_no_words(two_grids, monkeypatch):
    """The look at where the characters are gets all captions, as in guidance."""
    asked, encode = [], prompts.encode_prompts
    monkeypatch.setattr(
        "story_identity.lab.training.denoising_task.encode_prompts",
        lambda pipe, texts, labels: asked.append(list(texts)) or encode(pipe, texts, labels),
    )
    with training(two_grids, text_dropout=1.0) as trainee:
        losses = losses_of(trainee)
    assert asked[0] == [""] * 4
    assert sorted(asked[1]) != [""] * 4
    assert "" not in asked[1]
    assert losses["mask"] == 0
    with training(two_grids) as trainee:
        assert losses_of(trainee)["mask"] > 0
    assert asked[2:] == [asked[1]]


def test_captions_are_left_out_of_whole_groups():
    chosen = synchronizer_settings(text_dropout=0.5)
    seen = [batches.batch_of(GROUPS, chosen, StepRandom.of(0, 0, step)).captions for step in range(40)]
    assert all(bool(captions[first]) == bool(captions[first + 1]) for captions in seen for first in (0, 2))
    assert {bool(captions[0]) == bool(captions[2]) for captions in seen} == {True, False}


def test_the_share_of_captions_left_out():
    random = StepRandom.of(0, 0, 0)
    assert sum(random.chosen(20000, 0.05)) == pytest.approx(1000, abs=4 * (20000 * 0.05 * 0.95) ** 0.5)


def test_all_frames_of_a_group_have_one_noise_level_and_groups_their_own(two_grids, monkeypatch):
    seen = []
    hook = two_grids.unet.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[1]))
    with training(two_grids) as trainee:
        for step in range(3):
            losses_of(trainee, step=step)
    hook.remove()
    for times in seen:
        assert times[0] == times[1]
        assert times[2] == times[3]
    assert any(times[0] != times[2] for times in seen)


def test_groups_that_are_too_small_are_refused(two_grids):
    with (
        training(two_grids, frames=4) as trainee,
        pytest.raises(ValueError, match='"Mira" has 3 pictures.*frames is 4'),
    ):
        losses_of(trainee)


def test_pictures_and_their_order_are_chosen_by_the_dice():
    three = group(0, 6)
    chosen = [batches.some_of(three, 3, StepRandom.of(0, 0, step)).captions for step in range(20)]
    assert len(set(chosen)) > 10
    assert {caption for captions in chosen for caption in captions} == set(three.captions)
    assert all(len(set(captions)) == 3 for captions in chosen)
    assert batches.some_of(three, 3, StepRandom.of(0, 0, 7)).captions == chosen[7]


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_checkpoint_in_a_single_file_is_trained_and_diffusers_loads_what_comes_out(request, tmp_path, family):
    folder = request.getfixturevalue(f"{family}_folder")
    path = write_single_file(tmp_path / "model.safetensors", load_checkpoint(str(folder)))
    pipe = load_checkpoint(str(path), config=folder)
    changes = {"steps": 2, "learning_rate": 1e-2, "ema": 0.0, "out": str(tmp_path), "checkpoint": str(path)}
    with training(pipe, **changes) as trainee:
        saved = Loop(trainee, Source(), trainee.settings).run()
        trainee.attention.begin()
        expected = predicted(pipe)
    assert saved == tmp_path / "synchronizer.safetensors"
    assert largest_difference(predicted(pipe), expected) > 1e-4
    pipe.load_lora_weights(saved)
    assert_close(predicted(pipe), expected)


@torch.no_grad()
def predicted(pipe):
    prompt = encode_prompt(pipe, "a woman on a beach", "frame 1")
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    more = None
    if prompt.pooled is not None:
        more = {"text_embeds": prompt.pooled, "time_ids": torch.tensor([[16.0, 16, 0, 0, 16, 16]])}
    return pipe.unet(latent, 500, prompt.embeddings, added_cond_kwargs=more).sample


def test_half_precision_leaves_vae_and_maps_in_float32(two_grids):
    found = []
    for precision in ("no", "bf16"):
        with training(two_grids, precision=precision) as trainee:
            dtypes = set()
            hook = two_grids.vae.encoder.conv_in.register_forward_hook(lambda m, i, o, seen=dtypes: seen.add(o.dtype))
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                found.append(losses_of(trainee))
            hook.remove()
            assert dtypes == {torch.float32}
            assert {each.dtype for each in trainee.parameters() if each.requires_grad} == {torch.float32}
    assert found[1]["loss"].dtype == torch.float32
    assert found[1]["diffusion"].item() == pytest.approx(found[0]["diffusion"].item(), rel=0.02)
