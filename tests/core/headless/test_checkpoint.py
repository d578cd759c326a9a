"""Checkpoints of every form give the same model, and what is missing is named with the way to give it."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from story_identity.core.headless.checkpoint import load_checkpoint
from story_identity.core.headless.prompts import encode_prompt
from story_identity.core.headless.sampling import SamplingPlan, sample_template, starting_noise

from tests.stand_ins.diffusers_models import write_lora, write_single_file


def end_of(pipe):
    """A short sampling, which passes through every part but the VAE's encoder."""
    prompts = [encode_prompt(pipe, text, "frame 1") for text in ("a woman on a beach", "")]
    return sample_template(SamplingPlan(pipe, "euler", "normal", 2, 3.0), *prompts, starting_noise([1], 4, 8, 8), 1)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_single_file_is_its_folder(request, tmp_path, family, suffix):
    pipe, folder = request.getfixturevalue(family), request.getfixturevalue(f"{family}_folder")
    path = write_single_file(tmp_path / f"model{suffix}", pipe)
    loaded = load_checkpoint(str(path), config=folder)
    assert type(loaded) is type(pipe)
    expected = end_of(pipe).final
    assert torch.allclose(end_of(loaded).final, expected, atol=1e-5 * float(expected.abs().max()))


def test_size_conditioning_and_pooled_prompt_matter_to_sdxl(sdxl):
    one = end_of(sdxl).final
    prompts = [encode_prompt(sdxl, text, "frame 1") for text in ("a woman on a beach", "")]
    plan = SamplingPlan(sdxl, "euler", "normal", 2, 3.0)
    other = [type(prompt)(prompt.embeddings, -prompt.pooled) for prompt in prompts]
    assert not torch.allclose(one, sample_template(plan, *other, starting_noise([1], 4, 8, 8), 1).final, atol=1e-4)
    seen = []
    hook = sdxl.unet.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["added_cond_kwargs"]["time_ids"]), with_kwargs=True
    )
    sample_template(plan, *prompts, starting_noise([1], 4, 6, 10), 1)
    hook.remove()
    ratio = sdxl.vae_scale_factor
    assert seen[0].tolist() == [[6 * ratio, 10 * ratio, 0, 0, 6 * ratio, 10 * ratio]] * 2


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_a_lora_is_merged_at_its_strength(sd15, sd15_folder, tmp_path, strength):
    path = write_lora(tmp_path / "style.safetensors", sd15.unet)
    merged = load_checkpoint(str(sd15_folder), loras=[(path, strength)]).unet.state_dict()
    lora = load_file(path)
    assert merged.keys() == sd15.unet.state_dict().keys()
    for name, weight in sd15.unet.state_dict().items():
        stem = f"unet.{name.removesuffix('.weight')}"
        change = 0
        if f"{stem}.lora_A.weight" in lora:
            change = strength * lora[f"{stem}.lora_B.weight"] @ lora[f"{stem}.lora_A.weight"]
        assert torch.allclose(merged[name], weight + change, atol=1e-5), name


def test_half_precision_leaves_the_vae_alone(sd15_folder):
    pipe = load_checkpoint(str(sd15_folder), dtype=torch.bfloat16)
    assert (pipe.unet.dtype, pipe.text_encoder.dtype, pipe.vae.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    assert end_of(pipe).final.dtype == torch.float32


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint.*none.safetensors"):
        load_checkpoint(str(tmp_path / "none.safetensors"))
    with pytest.raises(FileNotFoundError, match="no model_index.json"):
        load_checkpoint(str(tmp_path))


def test_a_single_file_without_configurations_says_how_to_give_them(sd15, sd15_folder, sdxl_folder, tmp_path):
    path = write_single_file(tmp_path / "model.safetensors", sd15)
    with pytest.raises(FileNotFoundError, match="holds no tokenizer.*--config DIR"):
        load_checkpoint(str(path))
    partial = tmp_path / "partial"
    shutil.copytree(sd15_folder, partial)
    shutil.rmtree(partial / "tokenizer")
    with pytest.raises(FileNotFoundError, match="--config DIR.*partial lacks tokenizer"):
        load_checkpoint(str(path), config=partial)
    with pytest.raises(ValueError, match="another family.*XL"):
        load_checkpoint(str(path), config=sdxl_folder)


def test_what_is_no_checkpoint_is_said_to_be_none(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"some.other.weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="neither an SD1.5 nor an SDXL.*some.other"):
        load_checkpoint(str(path))
    path.write_bytes(b"no weights")
    with pytest.raises(ValueError, match="cannot be read"):
        load_checkpoint(str(path))
    ending = tmp_path / "model.zip"
    ending.write_bytes(b"")
    with pytest.raises(ValueError, match="model.zip is no checkpoint"):
        load_checkpoint(str(ending))


def test_a_lora_of_another_family_is_refused(sdxl, sd15_folder, tmp_path):
    with pytest.raises(ValueError, match="style.safetensors"):
        load_checkpoint(str(sd15_folder), loras=[(write_lora(tmp_path / "style.safetensors", sdxl.unet), 1.0)])
    unrelated = tmp_path / "unrelated.safetensors"
    save_file({"nothing.lora_A.weight": torch.zeros(2, 2)}, unrelated)
    with pytest.raises(ValueError, match="unrelated.safetensors"):
        load_checkpoint(str(sd15_folder), loras=[(unrelated, 1.0)])
