"""The two passes of IdentityStory under diffusers: one records all model calls, one replays and composites."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.guidance import OWN, SHARED
from ..core.latent_cache import CacheReplay, LatentRecorder, NoisyLatentCache, Recipe
from ..core.layout import Layout
from ..core.quoting import quote
from ..core.redenoise import ProgressiveMasks, composite, scaled_kernel, to_latent_grid
from ..core.region import Region, regions_around
from ..core.shapes import Float
from .prompts import Prompt
from .schedules import log_levels, nearest_timesteps, schedule, training_levels
from .solvers import Solver

Predict = Callable[[Tensor, float], Tensor]
PredictEach = Callable[[Tensor, float, Sequence[Prompt]], list[Tensor]]
"""The x0 prediction for each of several prompts, as `Predictor` makes it for a UNet."""

CONDITIONAL, UNCONDITIONAL = "conditional", "unconditional"
"""The kinds of prompt in a model call, as hooks receive them."""

OnStep = Callable[[int], None]


def starting_noise(seeds: Sequence[int], channels: int, height: int, width: int) -> Float[Tensor, "b {channels} h w"]:
    """One picture's noise per seed, drawn on the CPU as ComfyUI draws it; `height` and `width` are the latent's."""
    shape = (1, channels, height, width)
    return torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@dataclass(frozen=True)
class SamplingPlan:
    """How a pipeline samples: solver, schedule, guidance.

    Args:
        pipe: A StableDiffusionPipeline or StableDiffusionXLPipeline.
        sampler: One of `option_values.SAMPLERS`.
        scheduler: One of `option_values.SCHEDULES`.
        steps: 1 or more.
        cfg: Guidance scale; 1 evaluates no negative prompt.
    """

    pipe: Any
    sampler: str
    scheduler: str
    steps: int
    cfg: int | float

    def levels(self) -> Float[Tensor, " n"]:
        return training_levels(self.pipe.scheduler.config)

    def sigmas(self) -> Float[Tensor, " steps_plus_one"]:
        return schedule(self.scheduler, self.steps, self.pipe.scheduler.config)

    @property
    def device(self) -> torch.device:
        return self.pipe.unet.device

    def cells_per_step(self) -> int:
        """The latent cells by which a region begins and ends: those that the UNet's whole downsampling joins."""
        return 2 ** (len(self.pipe.unet.config.block_out_channels) - 1)

    def predictor(self, region: Region | None = None) -> PredictEach:
        return Predictor(self.pipe, region)

    def denoiser(self, positive: Prompt, negative: Prompt, region: Region | None = None) -> "Denoiser":
        return Denoiser(self.predictor(region), positive, negative, self.cfg)

    def solver(self, name: str, sigmas: Float[Tensor, " n"], seed: int) -> Solver:
        return Solver(name, sigmas, seed)

    def to_vae_scale(self, latent: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return from_model_scale(self.pipe, latent)

    def recipe(self, seed: int) -> Recipe:
        """What makes a template of this plan."""
        levels = self.levels()
        return Recipe(
            model_family=type(self.pipe).__name__,
            latent_space=type(self.pipe).__name__,
            noise_kind="diffusion",
            sigma_range=(float(levels[0]), float(levels[-1])),
            sampler_name=self.sampler,
            seed=seed,
            cfg=self.cfg,
            solver=self.sampler,
        )


class Predictor:
    """The x0 prediction of a UNet for each of several prompts, in one call; one UNet sample per prompt and picture.

    Args:
        pipe: Whose UNet and prediction type (epsilon or v) are used.
        region: Where in the picture its latents are, for SDXL; None: they are the picture.
    """

    def __init__(self, pipe: Any, region: Region | None = None) -> None:
        self._unet = pipe.unet
        self._device, self._dtype = pipe.unet.device, pipe.unet.dtype  # diffusers searches all layers for them
        self._logs = log_levels(pipe.scheduler.config)
        self._predicts = prediction_type(pipe.scheduler.config)
        self._pipe, self._region = pipe, region

    @torch.no_grad()
    def __call__(
        self, latent: Float[Tensor, "b c h w"], sigma: float, prompts: Sequence[Prompt]
    ) -> list[Float[Tensor, "b c h w"]]:
        """Predict x0 from a latent in variance-exploding scale, both float32; a prediction per prompt."""
        scale = (1 + sigma**2) ** -0.5
        model_input = torch.cat([latent * scale] * len(prompts)).to(self._dtype)
        summaries = [prompt.pooled for prompt in prompts if prompt.pooled is not None]
        pooled = self._repeated(summaries, len(latent)) if summaries else None
        output = self._unet(
            model_input,
            nearest_timesteps(torch.full((len(model_input),), sigma, device=latent.device), self._logs),
            encoder_hidden_states=self._repeated([prompt.embeddings for prompt in prompts], len(latent)),
            added_cond_kwargs=added_conditions(self._pipe, pooled, latent, self._region),
        ).sample.float()
        return [self._denoised(latent, part, sigma) for part in output.chunk(len(prompts))]

    def _denoised(self, latent: Tensor, output: Tensor, sigma: float) -> Tensor:
        if self._predicts == "epsilon":
            return latent - output * sigma
        return latent / (sigma**2 + 1) - output * sigma / (sigma**2 + 1) ** 0.5

    def _repeated(self, rows: Sequence[Tensor], count: int) -> Tensor:
        """One row per prompt and picture, all pictures of a prompt together."""
        return torch.cat([row.expand(count, *row.shape[1:]) for row in rows]).to(self._device, self._dtype)


def guided(unconditional: Tensor, conditional: Tensor, cfg: int | float) -> Tensor:
    """Classifier-free guidance."""
    return unconditional + (conditional - unconditional) * cfg


class Denoiser:
    """The guided x0 prediction for one pair of prompts.

    Args:
        predict: Such as a `Predictor`.
        positive: What to show.
        negative: What to keep out; not evaluated where `cfg` is 1.
        cfg: Guidance scale.
    """

    def __init__(self, predict: PredictEach, positive: Prompt, negative: Prompt, cfg: int | float) -> None:
        self._predict = predict
        self._prompts = (positive,) if math.isclose(cfg, 1.0) else (negative, positive)
        self._cfg = cfg

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts of a model call, in the order of its rows."""
        return (CONDITIONAL,) if len(self._prompts) == 1 else (UNCONDITIONAL, CONDITIONAL)

    def __call__(self, latent: Float[Tensor, "b c h w"], sigma: float) -> Float[Tensor, "b c h w"]:
        """Predict x0 from a latent in variance-exploding scale, both float32."""
        return self.with_unconditional(latent, sigma)[0]

    def with_unconditional(self, latent: Tensor, sigma: float) -> tuple[Tensor, Tensor | None]:
        """The guided prediction and the unconditional one, which is None where there is no guidance."""
        parts = self._predict(latent, sigma, self._prompts)
        return (parts[0], None) if len(parts) == 1 else (guided(parts[0], parts[1], self._cfg), parts[0])


class RegionDenoiser:
    """The guided x0 predictions of several characters in one and the same region.

    Args:
        plan: The identity generator and its guidance scale.
        prompts: Positive and negative prompt of each character; unless `guidance` is `OWN`, their negatives are one.
        guidance: One of `core.guidance.GUIDANCE`.
        region: What the identity generator sees.
    """

    def __init__(
        self, plan: SamplingPlan, prompts: Sequence[tuple[Prompt, Prompt]], guidance: str, region: Region
    ) -> None:
        self._predict, self._cfg = plan.predictor(region), plan.cfg
        own = guidance == OWN or math.isclose(plan.cfg, 1)
        self._own = [plan.denoiser(*pair, region) for pair in prompts] if own else []
        self._shares = guidance == SHARED
        self._rows = [*([prompts[0][1]] if self._shares else []), *(positive for positive, _ in prompts)]

    def __call__(
        self, latent: Float[Tensor, "b c h w"], sigma: float, unconditional: Float[Tensor, "b c h w"] | None
    ) -> Float[Tensor, "s b c h w"]:
        """Predict all characters on the region of a latent.

        `unconditional` is the template's prediction in the region, which `TEMPLATES` reads.
        """
        if self._own:
            return torch.stack([denoiser(latent, sigma) for denoiser in self._own])
        parts = self._predict(latent, sigma, self._rows)
        if self._shares:
            unconditional, *parts = parts
        if unconditional is None:
            raise ValueError("The template was sampled without guidance, so that it has no unconditional to give.")
        return torch.stack([guided(unconditional, part, self._cfg) for part in parts])


class CharacterDenoiser:
    """The guided x0 predictions of several characters, each in a region of their own.

    Args:
        plan, prompts, guidance: As `RegionDenoiser` takes them.
        regions: What the identity generator sees for each character.
    """

    def __init__(
        self, plan: SamplingPlan, prompts: Sequence[tuple[Prompt, Prompt]], guidance: str, regions: Sequence[Region]
    ) -> None:
        self._rows = {region: [row for row, each in enumerate(regions) if each == region] for region in regions}
        self._denoisers = {
            region: RegionDenoiser(plan, [prompts[row] for row in rows], guidance, region)
            for region, rows in self._rows.items()
        }

    def __call__(
        self,
        latent: Float[Tensor, "b c h w"],
        sigma: float,
        background: Float[Tensor, "b c h w"],
        unconditional: Float[Tensor, "b c h w"] | None,
    ) -> Float[Tensor, "s b c h w"]:
        """Predict all characters, with the template's prediction around their regions."""
        found: dict[int, Tensor] = {}
        for region, denoiser in self._denoisers.items():
            seen = None if unconditional is None else region.crop(unconditional)
            parts = denoiser(region.crop(latent), sigma, seen)
            found |= {row: region.paste(part, background) for row, part in zip(self._rows[region], parts, strict=True)}
        return torch.stack([found[row] for row in sorted(found)])


def added_conditions(
    pipe: Any,
    pooled: Float[Tensor, "n e"] | None,
    latent: Float[Tensor, "_ c h w"],
    region: Region | None = None,
) -> Mapping[str, Tensor] | None:
    """SDXL's further inputs: the pooled prompts, and the picture's original size, where it was cropped, to what size.

    Without a region the latent is the whole picture.
    """
    if pooled is None:
        return None
    shown = region or Region.everything(latent.shape[-2], latent.shape[-1])
    sizes = shown.sizes(pipe.vae_scale_factor)
    order = ("height", "width", "crop_h", "crop_w", "target_height", "target_width")
    time_ids = torch.tensor([[sizes[name] for name in order]], dtype=torch.float32)
    return {"text_embeds": pooled, "time_ids": time_ids.expand(len(pooled), -1).to(pooled)}


def prediction_type(config: Any) -> str:
    """Whether a checkpoint predicts "epsilon" or "v_prediction".

    Raises:
        ValueError: If it predicts anything else.
    """
    if config.prediction_type not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"The checkpoint predicts {quote(config.prediction_type)}; only epsilon and v_prediction are supported."
        )
    return config.prediction_type


def sample(
    solver: Solver,
    predict: Predict,
    noise: Float[Tensor, "b c h w"],
    levels: Float[Tensor, " n"],
    on_step: OnStep = lambda step: None,
) -> Float[Tensor, "b c h w"]:
    """Run a solver from pure noise to the clean latent; `on_step` is called with the number of steps done."""
    latent = solver.first_latent(noise, levels)
    for index, sigma in enumerate(solver.sigmas[:-1].tolist()):
        latent = solver.step(index, latent, predict(latent, sigma))
        on_step(index + 1)
    return latent


def sample_template(
    plan: SamplingPlan,
    positive: Prompt,
    negative: Prompt,
    noise: Float[Tensor, "1 c h w"],
    seed: int,
    on_step: OnStep = lambda step: None,
    keep_unconditional: bool = False,
) -> NoisyLatentCache:
    """Sample one frame with the base model and keep every model call (IdentityStory, equations 3 and 4).

    With `keep_unconditional` also each call's unconditional prediction, for a second pass with `TEMPLATES`.
    """
    sigmas, levels = plan.sigmas(), plan.levels()
    denoiser, recorder = plan.denoiser(positive, negative), LatentRecorder()

    def predict(latent: Tensor, sigma: float) -> Tensor:
        prediction, unconditional = denoiser.with_unconditional(latent, sigma)
        recorder.add(sigma, latent, prediction, unconditional if keep_unconditional else None)
        recorder.begin_step(len(recorder.calls) - 1)  # these solvers call the model once per step
        return prediction

    solver = plan.solver(plan.sampler, sigmas, seed)
    final = sample(solver, predict, noise.to(plan.device), levels, on_step)
    return NoisyLatentCache(
        calls=recorder.calls_of(sigmas),
        sigmas=sigmas,
        noise=noise,
        initial=torch.zeros_like(noise),
        final=plan.to_vae_scale(final).cpu(),
        noise_mask=None,
        recipe=plan.recipe(seed),
    )


def redenoise(
    plan: SamplingPlan,
    cache: NoisyLatentCache,
    layout: Layout,
    prompts: Mapping[str, tuple[Prompt, Prompt]],
    *,
    start: int | float,
    max_kernel: int | float,
    soft_edge: bool = False,
    guidance: str = OWN,
    region_margin: int | float | None = None,
    on_step: OnStep = lambda step: None,
) -> Float[Tensor, "1 c h w"]:
    """Run the schedule again with the characters' identities (IdentityStory, equations 6 to 8).

    Calls before `start` are answered from the cache; from there on every character whose mask is not empty costs one
    guided evaluation per call, and the base model none. Where no mask is, the result follows the cached trajectory bit
    for bit.

    Args:
        plan: The identity generator; its `cfg` may differ from the template's, solver and schedule are the cache's.
        cache: From `sample_template`.
        layout: The layout of the picture that the cache decodes to.
        prompts: Positive and negative prompt of each character who has a mask, by name.
        start: The first step that re-denoises, 0-based, counted up, or a share of the steps below 1.
        max_kernel: How far masks have grown at the last step, in pixels of a 1024-pixel picture.
        soft_edge: Blend mask edges by coverage in place of selecting whole latent cells.
        guidance: One of `core.guidance.GUIDANCE`: whose unconditional prediction guides the characters. For all but
            `OWN` the negative prompts are one; `TEMPLATES` needs a cache with unconditional predictions.
        region_margin: Let the identity generator see a region around each mask with this margin (`core.region`), in
            pixels of a 1024-pixel picture; None: the whole picture.
        on_step: Called with the number of steps done.

    Returns:
        The latent as `cache.final` is; that very one where all masks are empty.
    """
    rows = [row for row, mask in enumerate(layout.masks) if mask.any()]
    masks = ProgressiveMasks(layout.masks[rows], cache.steps, start, scaled_kernel(max_kernel, *layout.size))
    if not rows:
        return cache.final
    grid = int(cache.noise.shape[-2]), int(cache.noise.shape[-1])
    if region_margin is None:
        regions = [Region.everything(*grid)] * len(rows)
    else:
        regions = regions_around(masks, grid, plan.cells_per_step(), region_margin)
    denoiser = CharacterDenoiser(plan, [prompts[layout.names[row]] for row in rows], guidance, regions)
    replay = CacheReplay(cache.calls, cache.recipe.sampler_name)

    def predict(latent: Tensor, sigma: float) -> Tensor:
        call = replay.answer(sigma)
        step = cache.step_of_call(call)
        background = call.prediction.to(latent.device, latent.dtype)
        if step < masks.start:
            return background
        unconditional = None if call.unconditional is None else call.unconditional.to(latent.device, latent.dtype)
        characters = denoiser(latent, sigma, background, unconditional)
        grid = to_latent_grid(masks.at(step), latent.shape[-2], latent.shape[-1], soft_edge)
        return composite(background, characters, grid.unsqueeze(1).to(latent.device))

    solver = plan.solver(cache.recipe.sampler_name, cache.sigmas, cache.recipe.seed)
    noise = cache.noise.to(plan.device)
    return plan.to_vae_scale(sample(solver, predict, noise, plan.levels(), on_step)).cpu()


def from_model_scale(pipe: Any, latent: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """From the scale the UNet works in to the VAE's."""
    return latent / pipe.vae.config.scaling_factor


@torch.no_grad()
def decode(pipe: Any, latent: Float[Tensor, "b c h w"]) -> Float[Tensor, "b H W 3"]:
    """Pictures in [0, 1], float32 on the CPU, of latents in the VAE's scale."""
    pixels = pipe.vae.decode(latent.to(pipe.vae.device, pipe.vae.dtype)).sample
    return (pixels.float() / 2 + 0.5).clamp(0, 1).movedim(1, -1).cpu()
