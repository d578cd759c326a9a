"""Who is where: Load Grounded-SAM, Grounded-SAM Layout, Layout from Masks, Preview Layout."""

import torch
from comfy_api.latest import io, ui

from ..core.layout import Layout, chessboard_distance, subtract_smaller_first
from ..core.pass_reports import describe_layout
from ..core.quoting import quote_all
from ..core.sheet import draw_layout
from ..core.story import Frame
from .host.detector import Detector, find_layout, load_detector
from .host.folders import check_present, check_tokenizer, names
from .host.node_text import report
from .types import DetectorSocket, LayoutSocket, StoryFrameSocket


class GroundedSAMLoaderNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityGroundedSAMLoader",
            display_name="Load Grounded-SAM",
            category="StoryIdentity/layout",
            description="Loads Grounding DINO (words to boxes) and Segment Anything (boxes to masks), original files.",
            search_aliases=["grounding dino", "segment anything", "sam", "IdentityStory"],
            inputs=[
                io.Combo.Input(
                    "grounding_dino_name",
                    options=names("grounding-dino", "groundingdino_swinb_cogcoor.pth"),
                    tooltip="A file in models/grounding-dino. The paper uses Swin-B.",
                ),
                io.Combo.Input(
                    "sam_name",
                    options=names("sams", "sam_vit_h_4b8939.pth"),
                    tooltip="A file in models/sams. The paper uses ViT-H; ViT-B is small and quick.",
                ),
                io.Combo.Input(
                    "engine",
                    options=["transformers", "original"],
                    default="transformers",
                    tooltip="transformers needs nothing more; original needs groundingdino-py and segment-anything.",
                ),
            ],
            outputs=[DetectorSocket.Output(display_name="detector", tooltip="For Grounded-SAM Layout.")],
        )

    @classmethod
    def validate_inputs(cls, grounding_dino_name: str | None, sam_name: str | None) -> bool | str:
        answers = (
            check_present("grounding-dino", grounding_dino_name),
            check_present("sams", sam_name),
            check_tokenizer(),
        )
        return "\n".join(answer for answer in answers if isinstance(answer, str)) or True

    @classmethod
    def execute(cls, grounding_dino_name: str, sam_name: str, engine: str) -> io.NodeOutput:
        return io.NodeOutput(load_detector(grounding_dino_name, sam_name, engine))


class GroundedSAMLayoutNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityGroundedSAMLayout",
            display_name="Grounded-SAM Layout",
            category="StoryIdentity/layout",
            description="Finds the frame's characters in the template picture and makes their masks exclusive.",
            search_aliases=["segment", "mask from text", "grounding dino", "sam", "IdentityStory"],
            inputs=[
                io.Image.Input("image", tooltip="The decoded template: one picture."),
                DetectorSocket.Input("detector", tooltip="From Load Grounded-SAM or the Toy World Loader."),
                StoryFrameSocket.Input(
                    "frame",
                    optional=True,
                    tooltip="Whom to look for: the frame's cast, by class word. With a frame, words is ignored.",
                ),
                io.String.Input(
                    "words",
                    default="",
                    optional=True,
                    tooltip="Where there is no frame: class words, comma between them, such as: woman, man. The "
                    "identities in the cast must then be called just that (Load Identity, rename).",
                ),
                io.Float.Input(
                    "box_threshold", default=0.30, min=0.0, max=1.0, step=0.01, tooltip="Least score of a box."
                ),
                io.Float.Input(
                    "text_threshold",
                    default=0.25,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Least score of the word itself.",
                ),
                io.Int.Input("dilate_px", default=10, min=0, max=512, tooltip="Grow each mask by this many pixels."),
                io.Combo.Input(
                    "on_missing",
                    options=["error", "skip"],
                    default="error",
                    tooltip="A character that is not found: stop and say so, or leave them as the template drew them.",
                ),
            ],
            outputs=[
                LayoutSocket.Output(
                    display_name="layout",
                    tooltip="Where each character is, for Progressive-Mask Re-denoise and Preview Layout.",
                ),
                io.Mask.Output(
                    display_name="masks",
                    tooltip="One per character, in the order in which the prompt names them. None for a frame without "
                    "characters.",
                ),
                io.Image.Output(
                    display_name="preview",
                    tooltip="The picture with tinted, named masks. Who was not found is listed at the bottom.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        detector: Detector,
        box_threshold: float,
        text_threshold: float,
        dilate_px: int,
        on_missing: str,
        frame: Frame | None = None,
        words: str = "",
    ) -> io.NodeOutput:
        picture = one_picture(image)
        wanted, label = wanted_characters(frame, words)
        layout = find_layout(
            detector,
            picture,
            wanted,
            label,
            box_threshold=box_threshold,
            text_threshold=text_threshold,
            dilate_px=dilate_px,
            skip_missing=on_missing == "skip",
        )
        shown = draw_layout(picture, layout).unsqueeze(0)
        return io.NodeOutput(layout, layout.masks.float(), shown, ui=report(describe_layout(layout)))


class LayoutFromMasksNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityLayoutFromMasks",
            display_name="Layout from Masks",
            category="StoryIdentity/layout",
            description="A layout from masks of any other node or painted by hand: one mask per character.",
            search_aliases=["masks", "manual mask", "sam3", "IdentityStory"],
            inputs=[
                io.Mask.Input(
                    "masks",
                    tooltip="A batch with one mask per character, at the picture's size; a frame that shows nobody "
                    "takes none.",
                ),
                StoryFrameSocket.Input(
                    "frame",
                    optional=True,
                    tooltip="The characters, in the order in which the prompt names them. With a frame, names is "
                    "ignored.",
                ),
                io.String.Input(
                    "names",
                    default="",
                    optional=True,
                    tooltip="Where there is no frame: the names of the identities, comma between, in the order of the "
                    "masks.",
                ),
                io.Int.Input("dilate_px", default=0, min=0, max=512, tooltip="Grow each mask by this many pixels."),
            ],
            outputs=[
                LayoutSocket.Output(
                    display_name="layout",
                    tooltip="Where each character is, for Progressive-Mask Re-denoise and Preview Layout.",
                ),
                io.Mask.Output(display_name="background", tooltip="Everything that belongs to no character."),
            ],
        )

    @classmethod
    def execute(cls, masks: torch.Tensor, dilate_px: int, frame: Frame | None = None, names: str = "") -> io.NodeOutput:
        masks = masks.reshape(-1, *masks.shape[-2:])
        if frame is not None:
            people, label = tuple(character.name for character in frame.cast), frame.label
        else:
            people, label = tuple(split_words(names)), "Layout from Masks"
        if frame is not None and not people:
            masks = masks[:0]  # a frame that shows nobody needs no masks
        if len(people) != len(masks):
            raise ValueError(
                f"{label}: masks given: {len(masks)}, characters: {len(people)} "
                f"({quote_all(people) or 'nobody'}). Give one mask per character, in this order; an empty mask leaves "
                "one as drawn."
            )
        grown = torch.zeros(masks.shape, dtype=torch.bool)
        for row, mask in enumerate(masks.cpu() > 0.5):
            grown[row] = chessboard_distance(mask) <= dilate_px
        layout = Layout(people, subtract_smaller_first(grown), label)
        return io.NodeOutput(layout, layout.background.unsqueeze(0).float())


class PreviewLayoutNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityPreviewLayout",
            display_name="Preview Layout",
            category="StoryIdentity/layout",
            description="Shows the picture with each character's mask tinted and named.",
            search_aliases=["mask overlay", "preview mask", "IdentityStory"],
            inputs=[
                LayoutSocket.Input("layout", tooltip="Any layout."),
                io.Image.Input("image", tooltip="The picture it was made for: one, of the same size."),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The tinted picture, also shown on the node.")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, layout: Layout, image: torch.Tensor) -> io.NodeOutput:
        picture = draw_layout(one_picture(image), layout).unsqueeze(0)
        return io.NodeOutput(picture, ui=ui.PreviewImage(picture, cls=cls))


def one_picture(image: torch.Tensor) -> torch.Tensor:
    """The picture `(h, w, 3)` of an IMAGE that holds just one."""
    if len(image) != 1:
        raise ValueError(
            f"The IMAGE holds {len(image)} pictures; a layout is of one. The lists of Story Frames run this node once "
            "per frame; a batch can be split with Rebatch Images."
        )
    return image[0, ..., :3].cpu().float()


def split_words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def wanted_characters(frame: Frame | None, words: str) -> tuple[list[tuple[str, str]], str]:
    """(name, class word) of whom to find, in the order of the prompt, and what messages call the frame."""
    if frame is not None:
        return [(character.name, character.word) for character in frame.cast], frame.label
    listed = split_words(words)
    if not listed:
        raise ValueError("Grounded-SAM Layout: connect a frame, or write the words to look for.")
    names = [w if listed.count(w) == 1 else f"{w} {listed[: i + 1].count(w)}" for i, w in enumerate(listed)]
    return list(zip(names, listed, strict=True)), "Grounded-SAM Layout"
