"""A run whose frames are drawn together: what its folder gets, group after group."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core.layout import Layout
from ..core.quoting import quote_all
from ..core.shapes import Float
from ..core.sheet import draw_layout
from ..core.story import Frame, Story
from ..core.subject_bank import SubjectBank
from .detection import Detector, find_characters
from .joint_drawing import JointDrawing
from .run_files import frame_file, read_masks, write_masks, write_picture
from .run_folder import Extent, RunFolder, describe_frame
from .run_settings import RunSettings
from .studio import Report


@dataclass(frozen=True)
class JointProduction:
    """The work on a run of frames drawn together.

    A group of which a file is missing is drawn again whole; so are the anchor frames, for what later groups see of
    them. Files that are there and whole are left alone.
    """

    drawing: JointDrawing
    detector: Detector | None
    folder: RunFolder
    record: Mapping[str, Any]
    report: Report

    def make_lost(self) -> None:
        """Make everything that the folder lacks."""
        groups = self.drawing.groups()
        lost = [number for number, rows in enumerate(groups) if any(map(self._lost, self._frames(rows)))]
        banks = SubjectBank(), SubjectBank()
        for number in sorted({0, *lost}) if lost else ():
            self._make_group(groups[number], *banks)

    def _make_group(self, rows: slice, plain_bank: SubjectBank, bank: SubjectBank) -> None:
        """Draw a group; the banks are of the anchor frames, drawn without faces and with them."""
        drawing, settings, frames = self.drawing, self.drawing.settings, self._frames(rows)
        what = _named(frames)
        layouts: list[Layout] = []
        if settings.finds_layouts:
            latents = drawing.draw(rows, plain_bank, None, (), self.report, f"{what}, template")
            for frame, picture in zip(frames, drawing.pictures(latents), strict=True):
                layouts.append(find_characters(settings, self.detector, frame, picture, None))
                self._write_layout(frame, picture, layouts[-1])
        elif drawing.faces is not None and settings.masks:
            size = settings.height, settings.width
            layouts = [read_masks(Path(settings.masks) / frame_file(frame.index), frame, *size) for frame in frames]
        latents = drawing.draw(rows, bank, drawing.faces, layouts, self.report, what)
        for place, (frame, picture) in enumerate(zip(frames, drawing.pictures(latents), strict=True)):
            found = zip(layouts[place].names, layouts[place].masks, strict=True) if layouts else ()
            missing = [name for name, mask in found if not mask.any()]
            if self.folder.frame(frame.index) in self._lost(frame):
                write_picture(self.folder.frame(frame.index), picture, {**self._about(frame), "not_found": missing})

    def _write_layout(self, frame: Frame, template: Float[Tensor, "h w 3"], layout: Layout) -> None:
        folder, index, lost = self.folder, frame.index, self._lost(frame)
        if folder.template(index) in lost:
            write_picture(folder.template(index), template, self._about(frame))
        if folder.masks(index) in lost:
            write_masks(folder.masks(index), layout)
        if folder.layout(index) in lost:
            write_picture(folder.layout(index), draw_layout(template, layout), self._about(frame))

    def _about(self, frame: Frame) -> dict[str, Any]:
        """What a picture of a frame says of itself."""
        seed = {"seed": self.drawing.settings.seed}
        return {"frame": frame.index + 1, **describe_frame(frame), **seed, "settings": self.record}

    def _frames(self, rows: slice) -> tuple[Frame, ...]:
        return self.drawing.story.frames[rows]

    def _lost(self, frame: Frame) -> list[Path]:
        return self.folder.lost_of_frame(frame.index, Extent.of(self.drawing.story, self.drawing.settings).files)


def notes_on(story: Story, settings: RunSettings) -> Iterator[str]:
    """What somebody who draws frames together should know before it is done; nothing for other runs."""
    if not settings.together:
        return
    if settings.steps == 1:
        yield "The first step is plain, and there is no other, so frames share nothing."
    seeded = [str(frame.index + 1) for frame in story.frames if frame.seed is not None]
    if seeded:
        yield (
            f"Frames drawn together start from the run's seed, {settings.seed}. The seeds that the story gives to "
            f"frames are not used ({', '.join(seeded[:10])})."
        )
    frames = story.frames
    early = {person.name for frame in frames[: settings.anchors or None] for person in frame.cast}
    late = dict.fromkeys(person.name for frame in frames for person in frame.cast if person.name not in early)
    if late:
        yield (
            f"The first {settings.anchors} frames do not show {quote_all(late)}, who will be alike only within each "
            "group of frames. Raise --anchors, or show them earlier."
        )
    if settings.adapter and not settings.masks and not settings.finds_layouts:
        yield from _mixed(frames, {name for name, _ in settings.references})


def _mixed(frames: Sequence[Frame], names: Collection[str]) -> Iterator[str]:
    """In which frames faces act on somebody else too, since nothing says where each is."""
    for frame in frames:
        faces = [each.name for each in frame.cast if each.name in names]
        if faces and len(frame.cast) > 1:
            cast = quote_all((each.name for each in frame.cast), 5)
            yield (
                f"{frame.label} shows {cast} and nothing says where they are: the face of {quote_all(faces, 5)} acts "
                "on all of them. Choose a --detector, or give --masks."
            )


def _named(frames: Sequence[Frame]) -> str:
    return frames[0].label if len(frames) == 1 else f"frames {frames[0].index + 1} to {frames[-1].index + 1}"
