"""The toy world's diffusion transformer in the two passes: what `sampling` needs of a model of flow matching."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.frame_sharing import FrameSharing
from ..core.latent_cache import Recipe
from ..core.quoting import printable, quote
from ..core.region import Region
from ..core.shapes import Float
from ..core.state_dict import load_exactly
from ..core.toyworld.flux_layout import to_diffusers
from ..core.toyworld.sizes import TOY_WORLD
from ..core.toyworld.transformer import (
    TRANSFORMER,
    TRANSFORMER_WEIGHTS,
    to_model_scale,
    to_vae_scale,
    transformer_weights,
)
from .prompts import Prompt
from .sampling import CONDITIONAL, UNCONDITIONAL, OnStep, PredictEach, SamplingPlan, guided, sample
from .solvers import FlowSolver
from .toy_transformer import new_transformer, predict_velocity
from .toyworld_pipeline import load_text_encoder, load_tokenizer
from .transformer_attention import hooked_transformer

LEVELS = 1000


@dataclass(frozen=True)
class FlowPrompt(Prompt):
    """An encoded prompt with pictures to look at, `(1, c, h, w)` each, in the VAE's scale. It always has `pooled`."""

    references: tuple[Tensor, ...] = ()

    @classmethod
    def of_rows(cls, prompts: Sequence["FlowPrompt"]) -> "FlowPrompt":
        """All rows of several prompts, which have as many references of the same sizes."""
        plain, pictures = Prompt.joined(prompts), zip(*(prompt.references for prompt in prompts), strict=True)
        return cls(plain.embeddings, plain.pooled, tuple(torch.cat(rows) for rows in pictures))


@dataclass(frozen=True)
class TransformerPipeline:
    """The transformer with its tokenizer and text encoder; the VAE is the toy world's."""

    transformer: Any
    text_encoder: Any
    tokenizer: Any

    @torch.no_grad()
    def encode_prompt(self, text: str, references: Sequence[Tensor] = ()) -> FlowPrompt:
        """A prompt that the text encoder reads whole.

        Raises:
            ValueError: If it is too long.
        """
        most = TOY_WORLD.text_length
        ids = self.tokenizer(text, padding="max_length", max_length=most, return_tensors="pt").input_ids
        if ids.shape[1] > most:
            raise ValueError(
                f"The prompt has {ids.shape[1]} tokens, start and end among them, but the text encoder reads "
                f"{most}. Shorten it: {quote(text)}"
            )
        read = self.text_encoder(ids.to(self.text_encoder.device))
        return FlowPrompt(read.last_hidden_state, read.pooler_output, tuple(references))


def load_transformer_pipeline(folder: Path = TRANSFORMER_WEIGHTS) -> TransformerPipeline:
    """Build it from a folder of the transformer's weights, in float32 on the CPU.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file cannot be read, or does not fit the sizes in `core.toyworld`.
    """
    weights = to_diffusers(transformer_weights(folder), TRANSFORMER.layers())
    transformer = new_transformer()
    where = printable(str(folder / "transformer.safetensors"))
    load_exactly(transformer, weights, where, "the toy world's transformer")
    return TransformerPipeline(transformer.eval(), load_text_encoder(folder), load_tokenizer(folder))


class FlowPlan(SamplingPlan):
    """A `SamplingPlan` whose `pipe` is a `TransformerPipeline`: sampler euler, scheduler simple."""

    def levels(self) -> Float[Tensor, " n"]:
        """Evenly spaced, as ComfyUI has them for a model of the Flux.1 family that was not distilled."""
        return torch.arange(1, LEVELS + 1) / LEVELS

    def sigmas(self) -> Float[Tensor, " steps_plus_one"]:
        if self.scheduler != "simple":
            raise ValueError(f"There is no schedule {quote(self.scheduler)} for flow matching; there is simple.")
        levels = self.levels()
        chosen = levels[[LEVELS - 1 - int(step * (LEVELS / self.steps)) for step in range(self.steps)]]
        return torch.cat([chosen, torch.zeros(1)])

    @property
    def device(self) -> torch.device:
        return self.pipe.transformer.device

    def cells_per_step(self) -> int:
        raise ValueError("The toy world's transformer sees whole pictures only; leave region mode out.")

    def predictor(self, region: Region | None = None) -> PredictEach:
        return FlowPredictor(self.pipe)

    def solver(self, name: str, sigmas: Float[Tensor, " n"], seed: int) -> FlowSolver:
        return FlowSolver(name, sigmas, seed)

    def to_vae_scale(self, latent: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return to_vae_scale(latent)

    def recipe(self, seed: int) -> Recipe:
        name = type(self.pipe).__name__
        return Recipe(name, name, "flow matching", None, self.sampler, seed, self.cfg, self.sampler)


class FlowPredictor:
    """The x0 prediction for each of several prompts, a call for each, as their references differ in number."""

    def __init__(self, pipe: TransformerPipeline) -> None:
        self._transformer, self._dtype = pipe.transformer, pipe.transformer.dtype  # diffusers searches for the dtype

    @torch.no_grad()
    def __call__(
        self, latent: Float[Tensor, "b c h w"], sigma: float, prompts: Sequence[Prompt]
    ) -> list[Float[Tensor, "b c h w"]]:
        """Predict x0 from `(1 - sigma) x0 + sigma noise`, float32 in the model's scale; a prediction per prompt."""
        return [latent - sigma * self._velocity(latent, sigma, prompt) for prompt in prompts]

    def _velocity(self, latent: Tensor, sigma: float, prompt: Prompt) -> Tensor:
        assert isinstance(prompt, FlowPrompt)
        assert prompt.pooled is not None
        count = len(latent)
        text, pooled, *references = (
            each.to(latent.device, self._dtype).expand(count, *each.shape[1:])
            for each in (prompt.embeddings, prompt.pooled, *map(to_model_scale, prompt.references))
        )
        times = torch.full((count,), sigma, device=latent.device)
        return predict_velocity(self._transformer, latent.to(self._dtype), times, text, pooled, references).float()


def sample_frames_together(
    plan: FlowPlan,
    prompts: tuple[FlowPrompt, FlowPrompt],
    noise: Float[Tensor, "n c h w"],
    seed: int,
    sharing: FrameSharing,
    on_step: OnStep = lambda step: None,
) -> Float[Tensor, "n c h w"]:
    """Sample all frames of a story as one batch, with auto-mask self-attention (Storynizor, equations 4 to 6).

    Args:
        plan: The sampler, its schedule and the guidance.
        prompts: Positive and negative, a row per frame.
        noise: A row per frame.
        seed: Seed of the noise that a sampler draws on its way.
        sharing: How the frames see each other, made for this sampling.
        on_step: Called with the number of steps done.

    Returns:
        Latents in the VAE's scale, on the CPU.
    """
    predictor, (positive, negative) = plan.predictor(), prompts
    kinds = {CONDITIONAL: positive} if math.isclose(plan.cfg, 1) else {UNCONDITIONAL: negative, CONDITIONAL: positive}
    grid = noise.shape[-2] // TRANSFORMER.patch, noise.shape[-1] // TRANSFORMER.patch

    def predict(latent: Tensor, sigma: float) -> Tensor:
        parts = []
        for kind, prompt in kinds.items():
            sharing.begin_call((kind,), sigma, plan.device)
            parts += predictor(latent, sigma, [prompt])
            sharing.end_call()
        return parts[0] if len(parts) == 1 else guided(parts[0], parts[1], plan.cfg)

    text = positive.embeddings.shape[1]
    with hooked_transformer(plan.pipe.transformer, grid, text, sharing.reader, sharing.share):
        latents = sample(
            plan.solver(plan.sampler, plan.sigmas(), seed), predict, noise.to(plan.device), plan.levels(), on_step
        )
    return plan.to_vae_scale(latents).cpu()
