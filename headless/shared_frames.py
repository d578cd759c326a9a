"""The frames of a story drawn together under diffusers: auto-mask self-attention (Storynizor, equations 4 to 6)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.attention import SubjectPositions, attend_across_frames, plain_attention
from ..core.automask import TokenMaps, token_maps
from ..core.shapes import Float
from ..core.story import Frame, Story
from .prompts import Prompt, encode_prompt, word_positions
from .sampling import OnStep, SamplingPlan, from_model_scale, sample
from .solvers import Solver
from .unet_attention import Hook, Layer, hooked_attention
from .unet_attention import plain as plain_hook

Positions = Sequence[Sequence[Sequence[int]]]
"""Per character and frame, the tokens of the words that say who it is; none where the character is not."""


@dataclass(frozen=True)
class Sharing:
    """How frames see each other; the defaults are those of the node AMSA Model Patch.

    Args:
        strength: 0 (plain attention) to 1.
        threshold: "otsu", or the height at which normalised maps are cut.
        decay: Weight of the maps of earlier steps, 0 to under 1.
        same_character: Let a character's places see that character only.
    """

    strength: float | int = 1.0
    threshold: str | float = "otsu"
    decay: float | int = 0.5
    same_character: bool = True


class SharedFrames:
    """Attention of one sampling in which n frames are a batch, as `Denoiser` lays it out: unconditional rows first.

    The masks of a step come from the maps of the steps before; the first step is plain.

    Args:
        sharing: How frames see each other.
        positions: Where the prompts name the characters.
        frames: n.
        beside: What cross-attention does to its result; the maps are read beside it.
    """

    def __init__(self, sharing: Sharing, positions: Positions, frames: int, beside: Hook = plain_hook) -> None:
        self.sharing, self.positions, self.frames, self.beside = sharing, positions, frames, beside
        self.maps: TokenMaps | None = None
        self._grids: set[tuple[int, int]] = set()
        self._subjects: dict[tuple[int, int], SubjectPositions] = {}

    def begin_step(self) -> None:
        """A model call begins: masks are made of what was read so far, for every grid that has self-attention."""
        self._subjects = {}
        if self.maps is None:
            return
        self.maps.next_step()
        for grid in self._grids if self.sharing.strength else ():
            labels = self.maps.labels(grid, self.sharing.threshold)
            assert labels is not None
            labels = labels.flatten(1)
            characters = labels if self.sharing.same_character else None
            self._subjects[grid] = SubjectPositions.of(labels >= 0, characters)

    def share(self, q: Tensor, k: Tensor, v: Tensor, heads: int, layer: Layer) -> Tensor:
        """The self-attention hook."""
        self._grids.add(layer.grid)
        subjects = self._subjects.get(layer.grid)
        return plain_attention(q, k, v, heads) if subjects is None else self._attend(q, k, v, heads, subjects)

    def read(self, q: Tensor, k: Tensor, v: Tensor, heads: int, layer: Layer) -> Tensor:
        """The cross-attention hook."""
        if self.positions:
            if self.maps is None:
                self.maps = TokenMaps(layer.grid, self.sharing.decay)  # a UNet's first layers are its finest
            conditional = slice(len(q) - self.frames, None)
            self.maps.add(token_maps(q[conditional], k[conditional], self.positions, heads), layer.grid)
        return self.beside(q, k, v, heads, layer)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, heads: int, subjects: SubjectPositions) -> Tensor:
        rows = zip(*(each.split(self.frames) for each in (q, k, v)), strict=True)
        strength = self.sharing.strength
        return torch.cat([
            attend_across_frames(q_row, k_row, v_row, heads, subjects, subjects.gather(k_row, v_row), strength)
            for q_row, k_row, v_row in rows
        ])  # fmt: skip


def encode_together(pipe: Any, frames: Sequence[Frame]) -> tuple[Prompt, Prompt]:
    """The prompts and the negative prompts of frames, a row per frame."""
    positive = [encode_prompt(pipe, frame.prompt, frame.label) for frame in frames]
    negative = [encode_prompt(pipe, frame.negative, frame.label) for frame in frames]
    return Prompt.joined(positive), Prompt.joined(negative)


def positions_of(pipe: Any, story: Story) -> Positions:
    """Where the prompts of a story's frames name its characters, by the checkpoint's own tokenizer."""
    return [[_places(pipe, frame, character.name) for frame in story.frames] for character in story.characters]


def _places(pipe: Any, frame: Frame, name: str) -> list[int]:
    spans = dict(zip((character.name for character in frame.cast), frame.telling_words, strict=True)).get(name, ())
    return sorted({place for span in spans for place in word_positions(pipe, frame.prompt, span, frame.label)})


def sample_together(
    plan: SamplingPlan,
    prompts: tuple[Prompt, Prompt],
    noise: Float[Tensor, "n c h w"],
    seed: int,
    together: SharedFrames,
    on_step: OnStep = lambda step: None,
) -> Float[Tensor, "n c h w"]:
    """Sample all frames of a story as one batch.

    Args:
        plan: How.
        prompts: Positive and negative, a row per frame.
        noise: A row per frame.
        seed: Of the noise that a sampler draws on its way.
        together: The frames' attention, made for this sampling.
        on_step: Hears how many steps are done.

    Returns:
        Latents in the VAE's scale, on the CPU.
    """
    denoiser = plan.denoiser(*prompts)

    def predict(latent: Tensor, sigma: float) -> Tensor:
        together.begin_step()
        return denoiser(latent, sigma)

    solver = Solver(plan.sampler, plan.sigmas(), seed)
    with hooked_attention(plan.pipe.unet, together.share, together.read):
        latents = sample(solver, predict, noise.to(plan.pipe.unet.device), plan.levels(), on_step)
    return from_model_scale(plan.pipe, latents).cpu()
