"""The frames of a story drawn together: as one batch, or in groups that see the anchor frames (Storynizor)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import torch
from torch import Tensor

from ..core.attention import Attend
from ..core.attention_hooks import Hook, Layer, unchanged
from ..core.frame_sharing import FrameSharing, Sharing
from ..core.injector import Injector, ReferenceFeatures
from ..core.layout import Layout
from ..core.map_reader import Positions
from ..core.quoting import quote
from ..core.shapes import Float
from ..core.story import Frame, Story
from ..core.subject_bank import SubjectBank
from ..core.toyworld.models import WEIGHTS
from .checkpoint import Pipeline
from .option_values import TOYWORLD
from .prompts import check_prompts
from .reference_faces import load_reader
from .reference_injection import inject_story, load_injector
from .reference_pictures import read_references
from .run_settings import RunSettings
from .sampling import SamplingPlan, decode
from .schedules import level_at
from .shared_frames import encode_together, new_sharing, positions_of, sample_together
from .studio import Report, check_finite, open_pipeline

Levels = tuple[float, float]
"""The noise levels from which and to which something acts, the larger one first."""


@dataclass(frozen=True)
class Faces:
    """An adapter, and what it sees in the reference pictures of each character."""

    injector: Injector
    features: Mapping[str, ReferenceFeatures]


@dataclass(frozen=True)
class JointDrawing:
    """The loaded models, and the frames of a story as they are drawn together.

    Args:
        settings: How.
        story: What to draw.
        pipe: The checkpoint.
        faces: Whose faces are injected; None for nobody's.
        positions: Where the prompts name the characters.
    """

    settings: RunSettings
    story: Story
    pipe: Pipeline
    faces: Faces | None
    positions: Positions

    def groups(self) -> list[slice]:
        """The frames that are one batch: all of them, or as many at a time as there are anchors."""
        count = len(self.story.frames)
        size = self.settings.anchors or max(count, 1)
        return [slice(first, min(first + size, count)) for first in range(0, count, size)]

    def draw(
        self, rows: slice, bank: SubjectBank, faces: Faces | None, layouts: Sequence[Layout], report: Report, what: str
    ) -> Float[Tensor, "n c h w"]:
        """Draw one group of frames, as ComfyUI's nodes do.

        Args:
            rows: Which frames.
            bank: What the anchor frames, which are the first group, looked like to every layer; they fill it.
            faces: Whose faces to inject; None for nobody's.
            layouts: Where each face acts, one layout per frame of the group; none: everywhere.
            report: Receives every step.
            what: What is drawn, for `report` and messages.
        """
        settings, frames = self.settings, self.story.frames[rows]
        plan = SamplingPlan(self.pipe, settings.sampler, settings.scheduler, settings.steps, settings.cfg)
        sharing = self._sharing(rows, bank)
        hook = self._cross_attention(frames, sharing, faces, layouts)
        latents = sample_together(
            plan,
            encode_together(self.pipe, frames),
            self._noise()[rows],
            (settings.seed + rows.start) % 2**64,  # a sampler's own noise differs from group to group
            sharing,
            hook,
            lambda step: report(what, step, settings.steps),
        )
        check_finite(latents, what, settings)
        return latents

    def pictures(self, latents: Float[Tensor, "n c h w"]) -> Iterator[Float[Tensor, "H W 3"]]:
        """Decoded one by one, which takes no more memory than one."""
        return (decode(self.pipe, latent.unsqueeze(0))[0] for latent in latents)

    def _noise(self) -> Float[Tensor, "n c h w"]:
        """The noise of all frames, drawn at once from the run's seed, as ComfyUI draws a batch."""
        settings, ratio = self.settings, self.pipe.vae_scale_factor
        shape = (self.pipe.vae.config.latent_channels, settings.height // ratio, settings.width // ratio)
        generator = torch.Generator().manual_seed(settings.seed)
        return torch.randn((len(self.story.frames), *shape), generator=generator)

    def _sharing(self, rows: slice, bank: SubjectBank) -> FrameSharing:
        settings = self.settings
        positions = [places[rows] for places in self.positions]
        frames = len(self.story.frames[rows])
        sharing = Sharing(
            settings.strength, settings.threshold or "otsu", settings.decay, settings.same_character, settings.layers
        )
        levels = self._levels(settings.start_percent, settings.end_percent)
        grouped = len(self.groups()) > 1
        record, see = (bank if grouped and rows.start == 0 else None), (bank if rows.start else None)
        return new_sharing(sharing, positions, frames, levels, record, see)

    def _cross_attention(
        self, frames: Sequence[Frame], sharing: FrameSharing, faces: Faces | None, layouts: Sequence[Layout]
    ) -> Hook:
        settings = self.settings
        if faces is None or not settings.weight:
            return unchanged
        hook = inject_story(
            faces.injector,
            self.story,
            faces.features,
            settings.mode,
            settings.shuffle_seed,
            settings.weight,
            layouts,
            frames=frames,
            picture_weight=settings.picture_weight,
        )
        levels = self._levels(settings.inject_start_percent, settings.inject_end_percent)
        return within(hook, levels, lambda: sharing.reader.level)

    def _levels(self, start: float | int, end: float | int) -> Levels:
        config = self.pipe.scheduler.config
        return level_at(start, config), level_at(end, config)


def within(hook: Hook, levels: Levels, level: Callable[[], float | int | None]) -> Hook:
    """A hook that acts only while the noise level of the call is between two levels."""

    def limited(q: Tensor, k: Tensor, v: Tensor, heads: int, layer: Layer, attend: Attend) -> Tensor:
        now = level()
        acts = now is not None and levels[1] <= now <= levels[0]
        return hook(q, k, v, heads, layer, attend) if acts else attend(q, k, v, heads)

    return hook if levels == (inf, 0.0) else limited


def open_drawing(story: Story, settings: RunSettings, device: str) -> JointDrawing:
    """Load the checkpoint and, where there is an adapter, look at the reference pictures.

    Raises:
        ValueError, FileNotFoundError: For everything about the story, the files and the pictures that can be known
            before the first UNet call.
    """
    pictures = read_references(settings.references)
    pipe = open_pipeline(settings, device)
    check_prompts(pipe, story)
    positions = positions_of(pipe, story)
    faces = open_faces(settings, pipe, pictures) if settings.adapter else None
    drawing = JointDrawing(settings, story, pipe, faces, positions)
    if faces is not None:
        inject_story(faces.injector, story, faces.features, settings.mode)  # says what does not suit the adapter
    return drawing


def open_faces(
    settings: RunSettings, pipe: Pipeline, pictures: Mapping[str, Sequence[Float[Tensor, "_ _ 3"]]]
) -> Faces:
    """Load the adapter and what reads its pictures, and read them.

    Raises:
        ValueError, FileNotFoundError: If a file is missing or another than it should be, if the adapter reads face
            embeddings and no face_models are given, or if there is no face in a picture.
    """
    path = WEIGHTS / "injector.safetensors" if settings.adapter == TOYWORLD else Path(settings.adapter)
    injector = load_injector(path, pipe)
    reads_faces = injector.config.face_width is not None
    if reads_faces and not settings.face_models:
        raise ValueError(
            f"{quote(path.name)} is a {injector.config.kind} adapter, which reads face embeddings: give face_models."
        )
    weights = next(injector.parameters())
    models = settings.face_models if reads_faces else ""
    reader = load_reader(settings.image_encoder, models, weights.device, weights.dtype)
    features = {}
    for name, own in pictures.items():
        features[name], found = reader.read(own, [None] * len(own))
        if not all(found):
            raise ValueError(
                f"There is no face in reference picture {found.index(False) + 1} of {len(own)} of {quote(name)} that "
                "the face models can find. Take another picture, or a plus-face adapter, which needs no face models."
            )
    return Faces(injector, features)
