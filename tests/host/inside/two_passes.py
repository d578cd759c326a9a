"""The two passes on any family of models: what the checks of several files do with them."""

from collections.abc import Callable

import comfy.samplers
import torch
from families import FAMILIES, Family
from story_identity.core.identity import Identity
from story_identity.core.layout import Layout
from story_identity.core.redenoise import ProgressiveMasks, to_latent_grid
from story_identity.nodes.host import passes
from story_identity.nodes.host.guiders import RedenoiseGuider
from story_identity.nodes.sampling import NoisyLatentCacheNode, RedenoiseNode
from story_identity.nodes.types import CastMember

STEPS, START = 3, 1
ALL_SAMPLERS = [name for name in comfy.samplers.KSampler.SAMPLERS if name not in passes.UNREPLAYABLE_SAMPLERS]


def every_family(law: Callable[[Family], None], names: list[str] | None = None) -> None:
    """Run a law on each family, and say of all that break it which they are and how."""
    broken = {}
    for name in names or FAMILIES:
        try:
            law(FAMILIES[name])
        except Exception as error:  # all of them are reported together
            broken[name] = f"{type(error).__name__}: {error}"
    assert not broken, "\n".join(f"{name}: {problem}" for name, problem in broken.items())


def template(model, family, *, sampler_name="euler", steps=STEPS, cfg=3.0, keep_from_step=0, **more):
    """The template's latent and its cache, by the node."""
    settings = {
        "latent_image": family.latent(),
        "scheduler": "simple",
        "denoise": 1.0,
        "seed": 3,
        "precision": "float32",
        "positive": family.conditioning(1),
        "negative": family.conditioning(2),
        **more,
    }
    latent, cache = NoisyLatentCacheNode.execute(
        model, steps=steps, cfg=cfg, sampler_name=sampler_name, keep_from_step=keep_from_step, **settings
    ).result
    return latent["samples"], cache


def member(family, name="Mira", seed=11, model=None, **replaced):
    prompts = {"positive": family.conditioning(seed), "negative": family.conditioning(2), **replaced}
    return CastMember(Identity(name, "", "photomaker-v1", torch.ones(4)), model=model, **prompts)


def box(family, top, left, bottom, right):
    """A mask from eighths of a picture's side."""
    mask = torch.zeros(family.side, family.side, dtype=torch.bool)
    eighth = family.side // 8
    mask[top * eighth : bottom * eighth, left * eighth : right * eighth] = True
    return mask


def left(family):
    return box(family, 2, 1, 6, 4)


def right(family):
    return box(family, 2, 5, 6, 7)


def everything(family):
    return torch.ones(family.side, family.side, dtype=torch.bool)


def layout(*masks, names=("Mira", "Ben")):
    return Layout(tuple(names[: len(masks)]), torch.stack(masks))


def redenoise(model, cache, where, cast, *, start=START, max_kernel=0, cfg=3.0, mask_edge="hard", **more):
    """The finished latent and the cache of the pass, by the node."""
    latent, done = RedenoiseNode.execute(model, cast, cache, where, start, max_kernel, cfg, mask_edge, **more).result
    return latent["samples"], done


def cells(mask, latent, soft=False):
    """Where a mask is on the grid of a latent."""
    return to_latent_grid(mask[None], latent.shape[-2], latent.shape[-1], soft)[0, 0] > 0


class Watching(RedenoiseGuider):
    """The guider under test, which also keeps the latents it was called with."""

    def outer_predict_noise(self, x, timestep, model_options=None, seed=None):
        self.latents.append(x.clone())
        return super().outer_predict_noise(x, timestep, model_options, seed)


def watched(model, cache, masks, cast, *, start=START, max_kernel_px=0.0, soft=False, cfg=3.0):
    """The latents of every call, the finished latent, and the cells that no mask ever covers."""
    schedule = ProgressiveMasks(masks, cache.steps, start, max_kernel_px)
    guider = Watching(model, cache, schedule, cast, soft)
    guider.latents = []
    guider.set_cfg(cfg)
    recipe, levels = cache.recipe, cache.sigmas.clone()
    final = passes._sample(
        guider, model, cache.noise, cache.initial, recipe.solver, levels, cache.noise_mask, recipe.seed
    )
    grid = to_latent_grid(schedule.at(cache.steps - 1), final.shape[-2], final.shape[-1], soft)
    return guider.latents, final, ~(grid > 0).any(dim=0)[0]


def stock_from(model, family, cache, step, sampler_name, seed=11, cfg=3.0):
    """What the stock sampler draws with a MODEL from the cached latent of a step on."""
    noisy = next(call.latent for call in cache.calls if cache.step_of_call(call) == step)
    sampling, level = model.get_model_object("model_sampling"), cache.sigmas[step].reshape(1)
    none, one = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    share = float(sampling.noise_scaling(level, none, one))  # of the picture at that level: 1, or 1 - sigma
    picture = model.model.process_latent_out(noisy / share)
    return comfy.samplers.sample(
        model,
        torch.zeros_like(picture),
        family.conditioning(seed),
        family.conditioning(2),
        cfg,
        model.load_device,
        comfy.samplers.sampler_object(sampler_name),
        cache.sigmas[step:],
        model.model_options,
        latent_image=picture,
        seed=3,
        disable_pbar=True,
    )
