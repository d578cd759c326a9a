"""The frames of a story drawn together under diffusers: auto-mask self-attention (Storynizor, equations 4 to 6)."""

from collections.abc import Sequence
from math import inf
from typing import Any

from torch import Tensor

from ..core.attention_hooks import Hook, chained, unchanged
from ..core.frame_sharing import FrameSharing, Sharing
from ..core.map_reader import MapReader, Positions
from ..core.shapes import Float
from ..core.story import Frame, Story
from ..core.subject_bank import SubjectBank
from .prompts import Prompt, encode_prompt, word_positions
from .sampling import CONDITIONAL, OnStep, SamplingPlan, from_model_scale, sample
from .solvers import Solver
from .unet_attention import hooked_attention


def new_reader(positions: Positions, frames: int, decay: float | int) -> MapReader:
    """A reader of the conditional rows of n frames, for one sampling; it reads nothing where nobody is named."""
    return MapReader(frames, {CONDITIONAL: lambda tokens: positions} if positions else {}, decay)


def new_sharing(
    sharing: Sharing,
    positions: Positions,
    frames: int,
    levels: tuple[float, float] = (inf, 0.0),
    record: SubjectBank | None = None,
    see: SubjectBank | None = None,
) -> FrameSharing:
    """How n frames share, for one sampling; the further arguments are those of `FrameSharing`."""
    reader = new_reader(positions, frames, sharing.decay)
    return FrameSharing(sharing, reader, levels, record=record, see=see)


def encode_together(pipe: Any, frames: Sequence[Frame]) -> tuple[Prompt, Prompt]:
    """The prompts and the negative prompts of frames, a row per frame."""
    positive = [encode_prompt(pipe, frame.prompt, frame.label) for frame in frames]
    negative = [encode_prompt(pipe, frame.negative, frame.label) for frame in frames]
    return Prompt.joined(positive), Prompt.joined(negative)


def positions_of(pipe: Any, story: Story) -> Positions:
    """Where the prompts of a story's frames name its characters, by the checkpoint's own tokenizer."""
    return [[_places(pipe, frame, character.name) for frame in story.frames] for character in story.characters]


def _places(pipe: Any, frame: Frame, name: str) -> list[int]:
    appearance = frame.appearance_of(name)
    spans = () if appearance is None else appearance.identifying_words
    return sorted({place for span in spans for place in word_positions(pipe, frame.prompt, span, frame.label)})


def sample_together(
    plan: SamplingPlan,
    prompts: tuple[Prompt, Prompt],
    noise: Float[Tensor, "n c h w"],
    seed: int,
    sharing: FrameSharing,
    cross_attention: Hook = unchanged,
    on_step: OnStep = lambda step: None,
) -> Float[Tensor, "n c h w"]:
    """Sample all frames of a story as one batch.

    Args:
        plan: The sampler, its schedule and the guidance.
        prompts: Positive and negative, a row per frame.
        noise: A row per frame.
        seed: Seed of the noise that a sampler draws on its way.
        sharing: How the frames see each other, made for this sampling.
        cross_attention: What cross-attention is, such as the ID injector's; the maps are read before it.
        on_step: Called with the number of steps done.

    Returns:
        Latents in the VAE's scale, on the CPU.
    """
    denoiser, device = plan.denoiser(*prompts), plan.pipe.unet.device

    def predict(latent: Tensor, sigma: float) -> Tensor:
        sharing.begin_call(denoiser.prompts, sigma, device)
        predicted = denoiser(latent, sigma)
        sharing.end_call()
        return predicted

    solver = Solver(plan.sampler, plan.sigmas(), seed)
    with hooked_attention(plan.pipe.unet, sharing.share, chained(sharing.reader.read, cross_attention)):
        latents = sample(solver, predict, noise.to(device), plan.levels(), on_step)
    return from_model_scale(plan.pipe, latents).cpu()
