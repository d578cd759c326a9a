"""Template and identity by two different models: what must agree is the VAE and the kind of noise, nothing else."""

import asyncio

import torch
from comfy_extras.nodes_model_advanced import ModelSamplingAuraFlow, ModelSamplingFlux, ModelSamplingSD3
from families import FAMILIES, cascade_latent, one_moment
from setting import counted, refused
from story_identity.nodes.extension import StoryIdentityExtension
from story_identity.nodes.host.photomaker import _layers, apply_lora
from story_identity.nodes.sampling import NoisyLatentCacheNode, RedenoiseNode
from two_passes import STEPS, cells, everything, layout, left, member, redenoise, stock_from, template

from tests.closeness import assert_close, largest_difference

PAIRS = (
    ("Z-Image", "Flux.1"),
    ("Chroma", "Z-Image"),
    ("Flux.1", "LongCat-Image"),
    ("Krea 2", "Qwen-Image-Edit"),
    ("Anima", "Qwen-Image"),
    ("Flux.2", "Flux.2 klein"),
    ("Flux.2 klein", "Ernie-Image"),
    ("SDXL", "SSD-1B"),
)
STRANGERS = (
    ("SDXL", "Flux.1"),
    ("Flux.1", "SDXL"),
    ("SD1.5", "SDXL"),
    ("Qwen-Image", "Flux.1"),
    ("Flux.1", "Flux.2"),
    ("SD3.5", "Flux.1"),
    ("Qwen-Image", "Cosmos-Predict2"),  # one VAE, two kinds of noise
    ("AuraFlow", "SDXL"),
)


def check_families_that_share_a_vae_and_a_kind_of_noise_share_a_picture():
    for first, second in PAIRS:
        base, editor = FAMILIES[first], FAMILIES[second]
        model, generator = base.make(1), editor.make(2)
        latent, cache = template(model, base)
        final, _ = redenoise(generator, cache, layout(left(base)), (member(editor),))
        inside = cells(left(base), latent)
        assert torch.equal(final[..., ~inside], latent[..., ~inside]), (first, second)
        assert largest_difference(final, latent) > 1e-3, (first, second)
        full, _ = redenoise(generator, cache, layout(everything(base)), (member(editor),))
        assert_close(full, stock_from(generator, editor, cache, 1, "euler"))


def check_a_shift_does_not_change_what_a_level_of_flow_matching_means():
    shifts = {
        "Flux.1": lambda model: ModelSamplingFlux().patch(model, 1.6, 0.5, 1024, 1024),
        "Qwen-Image": lambda model: ModelSamplingFlux().patch(model, 3.1, 0.5, 1024, 1024),
        "Z-Image": lambda model: ModelSamplingAuraFlow().patch_aura(model, 6.0),
        "SD3.5": lambda model: ModelSamplingSD3().patch(model, 5.0),
    }
    for name, shift in shifts.items():
        family = FAMILIES[name]
        model, generator = family.make(1), family.make(2)
        (patched,) = shift(generator)
        levels = [each.get_model_object("model_sampling").sigma_min for each in (generator, patched)]
        assert largest_difference(float(levels[0]), float(levels[1])) > 0.1
        _, cache = template(model, family)
        usual, _ = redenoise(generator, cache, layout(left(family)), (member(family),))
        shifted, _ = redenoise(patched, cache, layout(left(family)), (member(family),))
        assert_close(shifted, usual)


def check_strangers_are_refused_in_one_sentence():
    for first, second in STRANGERS:
        base, other = FAMILIES[first], FAMILIES[second]
        model, stranger = base.make(1), other.make(2)
        _, cache = template(model, base)
        names = [type(each.model.model_config).__name__ for each in (model, stranger)]
        with counted(stranger) as count:
            refused(
                lambda stranger=stranger, other=other, base=base, cache=cache: redenoise(
                    stranger, cache, layout(left(base)), (member(other),)
                ),
                *names,
                "Progressive-Mask Re-denoise",
                "use two models with the same VAE and the same kind of noise.",
            )
        assert count.samples == 0


def check_latents_that_are_no_picture_of_the_model_are_refused():
    flux, qwen, wan, cascade = (FAMILIES[name] for name in ("Flux.1", "Qwen-Image", "Wan 2.1", "Stable Cascade"))
    model, video = flux.make(), wan.make()
    moments = {"samples": torch.zeros(1, 16, 3, 16, 16)}
    with counted(model) as count, counted(video) as of_video:
        refused(lambda: template(model, flux, latent_image=flux.latent(batch=2)), "2 pictures", "batch_size")
        refused(lambda: template(video, wan, latent_image=moments), "3 moments", "set length to 1")
        refused(lambda: template(model, flux, latent_image=moments), "3 moments")
        refused(lambda: template(model, flux, latent_image=one_moment(128, 128, 1)), "a video's", "Flux draws pictures")
        drawn = {"samples": torch.ones(1, 4, 16, 16)}
        refused(lambda: template(model, flux, latent_image=drawn), "4 channels", "Flux draws 16", "own VAE")
        refused(lambda: template(model, flux, latent_image={"samples": torch.zeros(1, 64, 100)}), "not a picture's")
        _, cache = template(model, flux, negative=[], cfg=1.0)
        refused(lambda: template(model, flux, negative=[]), "Noisy Latent Cache", "no negative prompt", "3", "cfg to 1")
        refused(
            lambda: redenoise(model, cache, layout(left(flux)), (member(flux, negative=[]),), cfg=2.0), '"Mira"', "2"
        )
        refused(
            lambda: template(model, flux, negative=[], cfg=1.0, sampler_name="euler_cfg_pp"), "euler_cfg_pp", "negative"
        )
    assert count.samples == STEPS
    assert of_video.samples == 0
    assert template(qwen.make(), qwen, latent_image={"samples": torch.zeros(1, 16, 1, 16, 16)})[0].shape[2] == 1
    # A cell of Stable Cascade is 42 pixels, so that a picture of 350 has as many whole ones as a picture of 336.
    network = cascade.make()
    _, cache = template(network, cascade, latent_image=cascade_latent(350, 350, 1))
    wide, wider = torch.ones(350, 350, dtype=torch.bool), torch.ones(400, 400, dtype=torch.bool)
    redenoise(network, cache, layout(wide), (member(cascade),))
    refused(lambda: redenoise(network, cache, layout(wider), (member(cascade),)), "400x400", "336x336")


def check_photomaker_says_which_models_it_is_not_made_for():
    sdxl, small, flux = (FAMILIES[name].make() for name in ("SDXL", "SSD-1B", "Flux.1"))
    lora = {}
    for layer, shape in _layers(sdxl.model).items():
        if shape and ".attn" in layer:
            lora[f"unet.{layer}.lora.down.weight"] = torch.ones(1, shape[1])
            lora[f"unet.{layer}.lora.up.weight"] = torch.ones(shape[0], 1)
    assert len(apply_lora(sdxl, lora, 1.0, "photomaker-v1.bin", 2048).patches) == len(lora) // 2
    message = f"SSD1B has {len(lora) // 2 - 8} of the {len(lora) // 2} layers"
    refused(lambda: apply_lora(small, lora, 1.0, "photomaker-v1.bin", 2048), message, "load an SDXL checkpoint")
    refused(lambda: apply_lora(flux, lora, 1.0, "photomaker-v1.bin", 2048), "this Flux model has no such UNet", "SDXL")


def check_the_defaults_of_newly_made_nodes_suit_every_number_of_steps():
    family = FAMILIES["Flux.1"]
    model = family.make()
    defaults = {}
    for node in asyncio.run(StoryIdentityExtension().get_node_list()):
        if node in (NoisyLatentCacheNode, RedenoiseNode):
            for part in node.INPUT_TYPES().values():
                defaults |= {
                    name: kind[1]["default"] for name, kind in part.items() if "default" in (kind[1:] or [{}])[0]
                }
    assert (defaults["start"], defaults["keep_from_step"]) == (0.2, 0.2)
    for steps, first in ((1, 0), (2, 0), (4, 1), (8, 2), (20, 4)):
        _, cache = template(model, family, steps=steps, keep_from_step=defaults["keep_from_step"])
        assert [call.latent is not None for call in cache.calls] == [number >= first for number in range(steps)]
        by_share, _ = redenoise(model, cache, layout(left(family)), (member(family),), start=defaults["start"])
        by_step, _ = redenoise(model, cache, layout(left(family)), (member(family),), start=first)
        assert torch.equal(by_share, by_step)


def check_what_is_neither_a_step_nor_a_share_is_refused_under_the_node():
    assert RedenoiseNode.validate_inputs(None) is True
    assert all(RedenoiseNode.validate_inputs(start) is True for start in (0, 0.2, 0.999, 1, 10, 10.0, 999))
    assert "start is 1.5" in RedenoiseNode.validate_inputs(1.5)
    assert "start is -1" in RedenoiseNode.validate_inputs(-1)
    assert NoisyLatentCacheNode.validate_inputs("euler", 10) is True
    assert "keep_from_step is 2.5" in NoisyLatentCacheNode.validate_inputs("euler", 2.5)
    linked = {"cache": "NOISY_LATENT_CACHE", "model": "MODEL"}
    for kind in ("INT", "FLOAT", "*"):  # it was INT in version 0.1
        assert RedenoiseNode.validate_inputs(None, {**linked, "start": kind}) is True
        assert NoisyLatentCacheNode.validate_inputs("euler", None, {"keep_from_step": kind, "seed": "INT"}) is True
    assert "start takes FLOAT" in RedenoiseNode.validate_inputs(None, {"start": "STRING"})
    assert "max_kernel takes INT" in RedenoiseNode.validate_inputs(None, {"max_kernel": "FLOAT"})
    assert "cfg takes FLOAT" in RedenoiseNode.validate_inputs(None, {"cfg": "INT"})
    assert "cache takes NOISY_LATENT_CACHE" in RedenoiseNode.validate_inputs(None, {"cache": "LATENT"})
    assert "dpm_adaptive" in NoisyLatentCacheNode.validate_inputs("dpm_adaptive", 0.2)
