"""The ground under the other checks: the tiny models are the host's own, and the host samples with them."""

import logging

import comfy.lora
import comfy.model_base
import comfy.samplers
import comfy.sd
import comfy.utils
import folder_paths
import setting
import torch

import nodes


def sample(model, sampler_name="euler", seed=3, cfg=4.0, batch=1):
    positive, negative = setting.conditioning(model, 1), setting.conditioning(model, 2)
    latent = setting.empty_latent(8, 8, batch)
    (out,) = nodes.KSampler().sample(model, seed, 3, cfg, sampler_name, "normal", positive, negative, latent)
    return out["samples"]


def check_tiny_models_are_of_the_families_they_claim():
    assert isinstance(setting.tiny_sdxl().model, comfy.model_base.SDXL)
    assert type(setting.tiny_sd15().model) is comfy.model_base.BaseModel
    blocks = {
        (name.split(".")[0], int(name.split(".")[1]) if "middle" not in name else 0)
        for name, _ in setting.tiny_sdxl().model.diffusion_model.named_modules()
        if name.endswith("attn2")
    }
    inputs, outputs = (4, 5, 7, 8), range(6)
    assert blocks == {
        *(("input_blocks", i) for i in inputs),
        ("middle_block", 0),
        *(("output_blocks", i) for i in outputs),
    }


def check_the_stock_sampler_runs():
    for model in (setting.tiny_sd15(), setting.tiny_sdxl()):
        for sampler_name in ("euler", "dpmpp_2m"):
            out = sample(model, sampler_name)
            assert out.shape == (1, 4, 8, 8)
            assert out.isfinite().all()
            assert 0.1 < out.std() < 100


def check_every_sampler_stays_finite():
    model = setting.tiny_sd15()
    for sampler_name in comfy.samplers.KSampler.SAMPLERS:
        out = sample(model, sampler_name)
        assert out.isfinite().all(), sampler_name
        assert out.std() < 1000, (sampler_name, out.std())


def check_sampling_again_gives_the_same_and_a_prompt_matters():
    model = setting.tiny_sdxl()
    assert torch.equal(sample(model), sample(model))
    assert torch.equal(sample(model), sample(setting.tiny_sdxl()))
    assert (sample(model, cfg=1.0) - sample(model)).abs().mean() > 0.01
    assert (sample(model, seed=4) - sample(model)).abs().mean() > 0.1


def check_evaluations_are_counted_in_rows():
    model = setting.tiny_sd15()
    with setting.counted(model) as count:
        sample(model, batch=2)
    assert (count.calls, count.samples) == (3, 12)  # three steps, prompt and negative prompt, two images
    sample(model)
    assert count.calls == 3


def check_the_stand_in_checkpoint_loads_and_encodes():
    model, clip, _ = setting.stand_in_sdxl()
    assert isinstance(model.model, comfy.model_base.SDXL)
    cond, pooled = clip.encode_from_tokens(clip.tokenize("a red fox"), return_pooled=True)
    other, _ = clip.encode_from_tokens(clip.tokenize("a blue fox"), return_pooled=True)
    assert cond.shape == (1, 77, 2048)
    assert pooled.shape == (1, 1280)
    assert cond.isfinite().all()
    assert torch.equal(cond[:, :2], other[:, :2])
    assert (cond - other)[:, 2:].abs().mean() > 0.01


def check_every_key_of_the_photomaker_lora_finds_its_weight():
    model, _, _ = setting.stand_in_sdxl()
    path = folder_paths.get_full_path_or_raise("photomaker", "photomaker-v1.bin")
    lora = comfy.utils.load_torch_file(path, safe_load=True)["lora_weights"]
    complaints = []
    handler = logging.Handler()
    handler.emit = complaints.append
    logging.getLogger().addHandler(handler)
    try:
        with_lora, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)
    finally:
        logging.getLogger().removeHandler(handler)
    assert [record.getMessage() for record in complaints if record.levelno >= logging.WARNING] == []
    attention = [name for name in model.model_state_dict() if ".attn" in name and name.endswith(".weight")]
    assert sorted(with_lora.patches) == sorted(attention)
    assert len(lora) == 2 * len(attention)
