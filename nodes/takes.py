"""Choose Takes."""

from collections.abc import Sequence
from typing import Any

import comfy.utils
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy_api.latest import io, ui
from comfy_execution.graph import ExecutionBlocker

from ..core.detectors.faces import Recogniser
from ..core.encoders import ImageTextEncoder
from ..core.identity import Identity
from ..core.layout import Layout
from ..core.quoting import quote
from ..core.scores.report import copies_above
from ..core.story import Frame
from ..core.take_measuring import Pictures, measure_takes, portrait_faces, usable_identities
from ..core.take_report import choices_text, written_choices
from ..core.takes import Choice, Take, check_written, choose_takes, takes_by_number
from .host.list_inputs import first
from .types import FaceRecogniserSocket, IdentitySocket, ImageTextEncoderSocket, LayoutSocket, StoryFrameSocket

BY_NUMBER, BY_LIKENESS = "number", "likeness"


class ChooseTakesNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        anything = io.MatchType.Template("also")
        return io.Schema(
            node_id="StoryIdentityChooseTakes",
            display_name="Choose Takes",
            category="StoryIdentity/story",
            description="Keeps one picture of each frame, where Each Frame drew several: by its number, or the one "
            "whose faces are most alike. The report says which and why.",
            search_aliases=["best of", "select image", "pick", "variations", "consistent character", "story"],
            inputs=[
                io.Image.Input("images", tooltip="All takes of all frames, from Collect Frames."),
                StoryFrameSocket.Input("frames", tooltip="From the same Collect Frames: which frame each picture is."),
                io.Combo.Input(
                    "by",
                    options=[BY_NUMBER, BY_LIKENESS],
                    default=BY_NUMBER,
                    tooltip='"number" keeps take 1 of every frame that takes below does not name. "likeness" compares '
                    "the faces of these frames; it needs a recogniser.",
                ),
                io.String.Input(
                    "takes",
                    default="",
                    tooltip='Which take to keep of which frame, such as "3: 2, 7: 1": take 2 of frame 3, take 1 of '
                    "frame 7. What is written here is kept in any case.",
                ),
                io.Float.Input(
                    "caption_floor",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.5,
                    tooltip="By likeness: leave out takes that agree less with their prompt, CLIP-T times 100, which "
                    "is usually 20 to 35. 0 leaves none out; more needs an encoder.",
                ),
                FaceRecogniserSocket.Input(
                    "recogniser", optional=True, tooltip="From Load Face Recogniser, or the Toy World Loader."
                ),
                IdentitySocket.Input(
                    "identities",
                    optional=True,
                    tooltip="Compares faces with the portraits that these identities carry. Without one, a character "
                    "is compared with the story's other frames.",
                ),
                LayoutSocket.Input(
                    "layouts",
                    optional=True,
                    tooltip="Who is where, one per picture, from the same Collect Frames. Frames of several people "
                    "need them.",
                ),
                ImageTextEncoderSocket.Input(
                    "encoder", optional=True, tooltip="From Load Caption Encoder, for caption_floor."
                ),
                io.MatchType.Input(
                    "also",
                    template=anything,
                    optional=True,
                    tooltip="More of the same takes, one per picture, such as templates: chosen alike.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images", is_output_list=True, tooltip="The pictures that are kept, one per frame."
                ),
                StoryFrameSocket.Output(
                    display_name="frames",
                    is_output_list=True,
                    tooltip="Their frames, for Save Frame, Story Sheet and Story Page.",
                ),
                LayoutSocket.Output(display_name="layouts", is_output_list=True, tooltip="Their layouts."),
                io.MatchType.Output(
                    template=anything, display_name="also", is_output_list=True, tooltip="Chosen from also, alike."
                ),
                io.String.Output(display_name="report", tooltip="Which take is kept of each frame, and why."),
                io.String.Output(
                    display_name="kept", tooltip='The choice as text, such as "1: 2, 2: 1"; paste it into takes.'
                ),
            ],
            is_input_list=True,
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(
        cls,
        by: list[str | None],
        takes: list[str | None],
        caption_floor: list[float | None],
        input_types: list[dict[str, str]] | None = None,
    ) -> bool | str:
        """Refuse, before anything is drawn, what no pictures could be chosen by. Values of None come through links."""
        connected = first(input_types) or {}
        try:
            takes_by_number(first(takes) or "")
        except ValueError as error:
            return str(error)
        return _lacking(first(by), first(caption_floor), "recogniser" in connected, "encoder" in connected) or True

    @classmethod
    def execute(
        cls,
        images: list[torch.Tensor],
        frames: list[Frame],
        by: list[str],
        takes: list[str],
        caption_floor: list[float],
        recogniser: list[Recogniser] | None = None,
        identities: list[Identity] | None = None,
        layouts: list[Layout] | None = None,
        encoder: list[ImageTextEncoder] | None = None,
        also: list[Any] | None = None,
    ) -> io.NodeOutput:
        pictures = [picture for batch in images for picture in batch]
        given = Pictures(frames, [picture[..., :3].cpu().float() for picture in pictures], layouts)
        floor = caption_floor[0] / 100
        if problem := _lacking(by[0], floor, recogniser is not None, encoder is not None):
            raise ValueError(problem)
        if also is not None and len(also) != len(pictures):
            raise ValueError(f"Choose Takes: also has {len(also)} values for {len(pictures)} pictures; give one each.")
        rows, written = given.by_frame(), takes_by_number(takes[0])
        numbers = [frames[row[0]].index + 1 for row in rows]
        check_written(written, dict(zip(numbers, map(len, rows), strict=True)))
        fixed = {row: written[number] - 1 for row, number in enumerate(numbers) if number in written}
        if by[0] == BY_LIKENESS and recogniser is not None:
            measures = recogniser[0], identities or [], encoder[0] if encoder else None, floor
            choices, report = _by_likeness(given, rows, numbers, fixed, *measures)
        else:
            choices = choose_takes([[Take({})] * len(row) for row in rows], fixed)
            report = choices_text(numbers, choices)
        kept = [row[choice.take] for row, choice in zip(rows, choices, strict=True)]
        return io.NodeOutput(
            [pictures[each].unsqueeze(0) for each in kept],
            [frames[each] for each in kept],
            _kept(layouts, kept, "layouts"),
            _kept(also, kept, "also"),
            report,
            written_choices(numbers, choices),
            ui=ui.PreviewText(report),
        )


def _lacking(by: str | None, floor: float | None, has_recogniser: bool, has_encoder: bool) -> str | None:
    """What is not connected and would be needed."""
    if by not in (None, BY_NUMBER, BY_LIKENESS):
        return f"Choose Takes: by is {quote(by)}; choose {BY_NUMBER} or {BY_LIKENESS}."
    if by == BY_LIKENESS and not has_recogniser:
        return "Choose Takes: to choose by likeness, connect recogniser: Load Face Recogniser, or the Toy World Loader."
    if by != BY_NUMBER and floor and not has_encoder:
        return (
            "Choose Takes: caption_floor needs an encoder that reads captions; connect Load Caption Encoder, or set "
            "caption_floor to 0."
        )
    return None


def _by_likeness(
    given: Pictures,
    rows: Sequence[Sequence[int]],
    numbers: Sequence[int],
    fixed: dict[int, int],
    recogniser: Recogniser,
    identities: Sequence[Identity],
    encoder: ImageTextEncoder | None,
    floor: float,
) -> tuple[list[Choice], str]:
    """Measure what is to be compared, choose, and say why."""
    given.check_recognisable()
    usable, left_out = usable_identities(identities, given.frames)
    references = portrait_faces(recogniser, usable)
    bar = comfy.utils.ProgressBar(len(given.pictures))

    def report(done: int) -> None:
        throw_exception_if_processing_interrupted()
        bar.update_absolute(done)

    takes = measure_takes(given, recogniser, encoder, report)
    ceiling, least = copies_above(recogniser.name), floor or None
    choices = choose_takes([[takes[each] for each in row] for row in rows], fixed, references, ceiling, least)
    lines = [*left_out, choices_text(numbers, choices, ceiling, least)]
    if ceiling is None:
        lines.append(
            f"How alike two pictures of one person are to {recogniser.name} is not known, so copies are not recognised."
        )
    return choices, "\n".join(lines)


def _kept(values: Sequence[Any] | None, kept: Sequence[int], name: str) -> Any:
    if values is None:
        return ExecutionBlocker(f"Choose Takes: nothing is connected to its input {name}.")
    return [values[each] for each in kept]
