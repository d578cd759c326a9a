"""What the demo shows: a finished run, read from its folder, and how alike its faces are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..core.guidance import redenoising_evaluations
from ..core.identity import Identity
from ..core.layout import Layout
from ..core.redenoise import first_step
from ..core.scores.cosines import Likeness, likeness
from ..core.shapes import Bool, Float
from ..core.story import Frame, Story
from .run_files import opened, read_masks
from .run_folder import RunFolder
from .run_settings import RunSettings

ReadFace = Callable[[Tensor, Tensor], Tensor | None]
"""A picture (h w 3) and a person's mask (h w) to the unit vector of their face, or None where there is none."""


@dataclass(frozen=True)
class Page:
    """One frame of the finished story.

    Args:
        frame: What the story says of it.
        sentence: What stands under the picture.
        template: As the base model drew it.
        layout: Who is where in the template.
        picture: With the identities put in.
    """

    frame: Frame
    sentence: str
    template: Float[Tensor, "h w 3"]
    layout: Layout
    picture: Float[Tensor, "h w 3"]

    @property
    def found(self) -> list[str]:
        """Who was found in the template, in the order in which the prompt names them."""
        return [name for name, mask in zip(self.layout.names, self.layout.masks, strict=True) if mask.any()]

    def mask_of(self, name: str) -> Bool[Tensor, "h w"] | None:
        """The mask of a character; None if they are not in the frame, or were not found in it."""
        return self.layout.masks[list(self.layout.names).index(name)] if name in self.found else None


@dataclass(frozen=True)
class Portraits:
    """All portraits of one character, and which of them the identity is made of.

    Args:
        pictures: All of one size.
        kept: Their positions, rising.
    """

    name: str
    description: str
    pictures: Sequence[Float[Tensor, "h w 3"]]
    kept: tuple[int, ...]


@dataclass(frozen=True)
class FaceSim:
    """One character's likeness over the frames, as the base model drew them and in the finished pictures."""

    name: str
    before: Likeness
    after: Likeness


@dataclass(frozen=True)
class Album:
    """Everything that goes on the sheet and the page."""

    title: str
    pages: tuple[Page, ...]
    portraits: tuple[Portraits, ...]
    settings: RunSettings


def open_album(folder: RunFolder, story: Story, settings: RunSettings) -> Album:
    """Read a finished run.

    Args:
        folder: The folder that `run_story` made.
        story: Its metadata has a `title`, and `told`: one sentence per frame.
        settings: The settings of the run.
    """
    sentences = story.metadata["told"]
    pages = tuple(_open_page(folder, frame, text) for frame, text in zip(story.frames, sentences, strict=True))
    portraits = tuple(
        _open_portraits(folder, name, folder.portrait_count(name, settings.portraits))
        for name in (character.name for character in story.characters)
    )
    return Album(story.metadata["title"], pages, portraits, settings)


def _open_page(folder: RunFolder, frame: Frame, sentence: str) -> Page:
    picture = _read_picture(folder.frame(frame.index))
    height, width, _ = picture.shape
    layout = read_masks(folder.masks(frame.index), frame, height, width)
    return Page(frame, sentence, _read_picture(folder.template(frame.index)), layout, picture)


def _open_portraits(folder: RunFolder, name: str, count: int) -> Portraits:
    numbers = range(1, count + 1)
    kept = tuple(number - 1 for number in numbers if folder.portrait(name, number, kept=True).is_file())
    pictures = [_read_picture(folder.portrait(name, number, kept=number - 1 in kept)) for number in numbers]
    identity = Identity.load(folder.identity(name))
    return Portraits(name, identity.description, pictures, kept)


def _read_picture(path: Path) -> Float[Tensor, "h w 3"]:
    with opened(path) as picture:
        return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255)


def measure(album: Album, read_face: ReadFace) -> list[FaceSim]:
    """Face-Sim of every character: a face is looked for where the template's mask is, in both pictures."""
    return [
        FaceSim(
            portraits.name,
            _likeness(album, portraits.name, lambda page: page.template, read_face),
            _likeness(album, portraits.name, lambda page: page.picture, read_face),
        )
        for portraits in album.portraits
    ]


def _likeness(album: Album, name: str, picture_of: Callable[[Page], Tensor], read_face: ReadFace) -> Likeness:
    masks = [page.mask_of(name) for page in album.pages]
    return likeness(
        [
            None if mask is None else read_face(picture_of(page), mask)
            for page, mask in zip(album.pages, masks, strict=True)
        ]
    )


@dataclass(frozen=True)
class Evaluations:
    """Samples that went through the UNet; with guidance every picture costs two per step."""

    portraits: int
    templates: int
    redenoising: int

    @property
    def total(self) -> int:
        return self.portraits + self.templates + self.redenoising


def count_evaluations(album: Album) -> Evaluations:
    """What the run cost: 2T per template and what `core.guidance` says of re-denoising, for CFG above 1."""
    settings = album.settings
    each, of_a_portrait = (1 if cfg == 1 else 2 for cfg in (settings.cfg, settings.portrait_cfg))
    redenoised = settings.steps - first_step(settings.start, settings.steps)
    drawn = sum(len(portraits.pictures) for portraits in album.portraits)
    return Evaluations(
        portraits=of_a_portrait * settings.portrait_steps * drawn,
        templates=each * settings.steps * len(album.pages),
        redenoising=sum(
            redenoising_evaluations(len(page.found), redenoised, settings.guidance, settings.cfg)
            for page in album.pages
        ),
    )
