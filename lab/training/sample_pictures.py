"""Pictures of a story while its model is being trained."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ...core.atomic_files import atomic_write
from ...core.attention_hooks import Hook, unchanged
from ...core.frame_sharing import Sharing
from ...core.quoting import printable, quote
from ...core.story import Story
from ...headless.reference_pictures import open_picture
from ...headless.sampling import SamplingPlan, decode, starting_noise
from ...headless.shared_frames import encode_together, new_sharing, positions_of, sample_together
from ...headless.toyworld_pipeline import PipelineVAE
from .settings import TrainingSettings

_PAPER = ("ddim", "ddim_uniform", 30, 7.0)  # Storynizor, section 5: sampler, scheduler, steps, guidance
_TOYWORLD = ("euler", "simple", 20, 4.0)


def plain_cross_attention(story: Story) -> Hook:
    """Cross-attention as it is."""
    return unchanged


def check_story(settings: TrainingSettings, references: bool) -> None:
    """Read the story that is to be drawn, if one is, and its reference pictures, if they are used.

    Raises:
        ValueError, FileNotFoundError: If one of the files is missing, or not what it should be.
    """
    if not (settings.draw_every and settings.story):
        return
    story = Story.load(Path(settings.story))
    for character in story.characters if references else ():
        for name in character.reference_images:
            path = Path(settings.story).parent / name
            who = f"The reference picture {quote(name)} of {quote(character.name)}"
            if not os.path.isfile(path):
                raise FileNotFoundError(f"{who} is not there: there is no file {printable(str(path))}.")
            try:
                open_picture(path)
            except ValueError as error:
                raise ValueError(f"{who} cannot be read: {printable(str(error))}.") from error


def story_drawer(
    pipe: Any, settings: TrainingSettings, cross_attention: Callable[[Story], Hook] = plain_cross_attention
) -> Callable[[Path], None] | None:
    """What draws the settings' story to a path, all frames side by side and from the same noise each time.

    Args:
        pipe: Draws, as it is at that moment.
        settings: Name the story; without one there is nothing to draw, and the result is None.
        cross_attention: Gives the hook of cross-attention; called at each drawing.

    Raises:
        ValueError, FileNotFoundError: If the story file is not what it should be.
    """
    if not (settings.draw_every and settings.story):
        return None
    story = Story.load(Path(settings.story))
    positions, prompts = positions_of(pipe, story), encode_together(pipe, story.frames)
    seeds = [settings.seed + frame.index for frame in story.frames]
    ratio, channels = pipe.vae_scale_factor, pipe.vae.config.latent_channels
    noise = starting_noise(seeds, channels, settings.height // ratio, settings.width // ratio)
    plan = SamplingPlan(pipe, *(_TOYWORLD if isinstance(pipe.vae, PipelineVAE) else _PAPER))

    def draw(path: Path) -> None:
        sharing = new_sharing(Sharing(), positions, len(story.frames))
        hook = cross_attention(story)
        pictures = decode(pipe, sample_together(plan, prompts, noise, settings.seed, sharing, hook))
        strip = torch.cat(list(pictures), dim=1).mul(255).round().byte().numpy()
        with atomic_write(path) as temporary:
            Image.fromarray(strip).save(temporary, format="PNG")

    return draw
