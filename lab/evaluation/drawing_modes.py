"""The drawing modes, in which all frames of a story are drawn together from the same starting noise, to be compared."""

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor

from ...core.attention_hooks import Hook, unchanged
from ...core.frame_sharing import Sharing
from ...core.shapes import Float
from ...core.story import Story
from ...headless.sampling import SamplingPlan, decode, starting_noise
from ...headless.shared_frames import encode_together, new_sharing, positions_of, sample_together
from ...headless.studio import Studio

OFF, ON, MIXED, HALF = "off", "on", "mixed", "half"


@dataclass(frozen=True)
class DrawingMode:
    """How all frames of a story are drawn together.

    Args:
        name: Its key in the rows.
        sharing: How frames see each other.
        lora: Which one the UNet has; none if empty.
        references: How pictures of the people are assigned to the frames (`shuffle.MODES`); none are shown if empty.
    """

    name: str
    sharing: Sharing
    lora: str = ""
    references: str = ""


DRAWING_MODES = (
    DrawingMode(OFF, Sharing(strength=0.0)),
    DrawingMode(ON, Sharing()),
    DrawingMode(MIXED, Sharing(same_character=False)),
    DrawingMode(HALF, Sharing(strength=0.5)),
)


@dataclass(frozen=True)
class DrawnStory:
    """A story's frames, drawn.

    Args:
        pictures: One per frame.
        maps: The running token maps of characters in frames, on the attention's own grid, by the steps done.
    """

    pictures: list[Float[Tensor, "h w 3"]]
    maps: dict[int, Float[Tensor, "n s gh gw"]]


def plan_of(studio: Studio, cfg: int | float | None = None) -> SamplingPlan:
    """How the studio samples frames; `cfg` replaces its own."""
    settings = studio.settings
    cfg = settings.cfg if cfg is None else cfg
    return SamplingPlan(studio.pipe, settings.sampler, settings.scheduler, settings.steps, cfg)


def frames_noise(studio: Studio, story: Story, first_seed: int) -> Float[Tensor, "n c lh lw"]:
    """A row per frame: the noise of `first_seed` and of the seeds after it."""
    settings, ratio = studio.settings, studio.pipe.vae_scale_factor
    seeds = [first_seed + frame.index for frame in story.frames]
    channels = studio.pipe.vae.config.latent_channels
    return starting_noise(seeds, channels, settings.height // ratio, settings.width // ratio)


def draw_story(
    studio: Studio,
    story: Story,
    mode: DrawingMode,
    first_seed: int,
    keep: Collection[int] = (),
    cross_attention: Hook = unchanged,
) -> DrawnStory:
    """Draw all frames as one batch.

    Args:
        studio: Its settings say how; with the mode's LoRA.
        story: What to show.
        mode: How frames see each other.
        first_seed: The seed of the first frame's noise; each later frame has the next seed.
        keep: After how many steps to keep the maps.
        cross_attention: What cross-attention is: the ID injector's, for a mode with references.
    """
    sharing = new_sharing(mode.sharing, positions_of(studio.pipe, story), len(story.frames))
    maps = {}

    def note(step: int) -> None:
        read = sharing.reader.maps
        if step in keep and read is not None and (now := read.maps(read.grid)) is not None:
            maps[step] = now

    prompts, noise = encode_together(studio.pipe, story.frames), frames_noise(studio, story, first_seed)
    latents = sample_together(plan_of(studio), prompts, noise, first_seed, sharing, cross_attention, note)
    return DrawnStory(list(decode(studio.pipe, latents)), maps)
