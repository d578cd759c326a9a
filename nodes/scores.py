"""Load Face Recogniser, Load Caption Encoder, Score Story."""

import json
import logging
from pathlib import Path
from typing import Any

import comfy.utils
import torch
from comfy_api.latest import io, ui

from ..core.detectors.faces import NOTICE, Recogniser
from ..core.encoders import ImageTextEncoder
from ..core.encoders.clip import load_clip
from ..core.layout import Layout
from ..core.recognisers import ENGINES, load_recogniser
from ..core.scores.measuring import story_features
from ..core.scores.plot import draw_scores
from ..core.scores.report import as_mapping, as_text
from ..core.scores.story_scores import score_story
from ..core.story import Story
from .host.folders import (
    caption_encoder_folder,
    caption_encoders,
    check_caption_encoder,
    check_face_models,
    check_present,
    face_models_folder,
    files_in,
    full_path,
)
from .host.image_encoders import encoders_of
from .types import FaceRecogniserSocket, ImageTextEncoderSocket, LayoutSocket, StorySocket

_INSIGHTFACE, _BUFFALO = "insightface", "buffalo_l"


class LoadFaceRecogniserNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityLoadFaceRecogniser",
            display_name="Load Face Recogniser",
            category="StoryIdentity/scores",
            description="Finds the faces of photographs and measures how alike they are, on the CPU. dlib brings its "
            "weights along in a package; insightface's are for non-commercial research only.",
            search_aliases=["face analysis", "face similarity", "dlib", "insightface", "sface", "auraface"],
            inputs=[
                io.Combo.Input(
                    "engine",
                    options=list(ENGINES),
                    default="dlib",
                    tooltip="dlib needs two packages and no file. sface and auraface read files of "
                    "models/face_recognition, insightface those of models/insightface/models/buffalo_l.",
                ),
            ],
            outputs=[
                FaceRecogniserSocket.Output(
                    display_name="recogniser",
                    tooltip="For Score Story, Choose Takes, Identity Discovery and, of insightface, PhotoMaker Loader.",
                )
            ],
        )

    @classmethod
    def weight_files(cls) -> list[Path]:
        """The files of all engines that are there, for keys of results that are kept."""
        names = {file for engine in ENGINES.values() for file in engine.files}
        own = [path for path in files_in("face_recognition") if path.name in names]
        return own + files_in("insightface")

    @classmethod
    def validate_inputs(cls, engine: str | None) -> bool | str:
        if engine == _INSIGHTFACE:
            return check_face_models(_BUFFALO)
        for file in ENGINES[engine].files if engine is not None and engine in ENGINES else ():
            present = check_present("face_recognition", file)
            if present is not True:
                return present
        return True

    @classmethod
    def execute(cls, engine: str) -> io.NodeOutput:
        recogniser = load_recogniser(engine, _folder_of(engine))
        if not ENGINES[engine].commercial:
            logging.warning("Load Face Recogniser: %s", NOTICE)
        return io.NodeOutput(recogniser)


class LoadCaptionEncoderNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityLoadCaptionEncoder",
            display_name="Load Caption Encoder",
            category="StoryIdentity/scores",
            description="CLIP with both its sides, which measures how well a picture agrees with its caption (CLIP-T). "
            "It runs on the CPU.",
            search_aliases=["CLIP score", "CLIP-T", "prompt agreement", "text alignment"],
            inputs=[
                io.Combo.Input(
                    "caption_encoder",
                    options=caption_encoders(),
                    tooltip="A folder of models/image_text with CLIP as transformers keeps it, such as "
                    "clip-vit-large-patch14, which both papers use.",
                ),
            ],
            outputs=[
                ImageTextEncoderSocket.Output(display_name="encoder", tooltip="For Choose Takes and Score Story.")
            ],
        )

    @classmethod
    def weight_files(cls) -> list[Path]:
        """The files of all caption encoders, for keys of results that are kept."""
        return files_in("image_text")

    @classmethod
    def validate_inputs(cls, caption_encoder: str | None) -> bool | str:
        return check_caption_encoder(caption_encoder)

    @classmethod
    def execute(cls, caption_encoder: str) -> io.NodeOutput:
        return io.NodeOutput(load_clip(caption_encoder_folder(caption_encoder)))


class ScoreStoryNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityScoreStory",
            display_name="Score Story",
            category="StoryIdentity/scores",
            description="How alike the characters' faces and figures are over the frames of a story, in the measures "
            "of both papers: Face-Sim, CLIP-I and DINO-I, with the frame that is least like the others.",
            search_aliases=["face similarity", "consistency", "likeness", "evaluation", "metric", "IdentityStory"],
            inputs=[
                io.Image.Input("images", tooltip="The finished frames, one per frame of the story, in its order."),
                StorySocket.Input("story", tooltip="Says who is in which frame."),
                FaceRecogniserSocket.Input(
                    "recogniser",
                    optional=True,
                    tooltip="For Face-Sim: from Load Face Recogniser, or the Toy World Loader.",
                ),
                LayoutSocket.Input(
                    "layouts",
                    optional=True,
                    tooltip="Who is where, one layout per frame. Frames of several people need them, and so do CLIP-I "
                    "and DINO-I of characters.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="From Load CLIP Vision: CLIP for CLIP-I, or DINOv2 or DINOv3 for DINO-I.",
                ),
                ImageTextEncoderSocket.Input(
                    "encoder",
                    optional=True,
                    tooltip="From Load Caption Encoder, for CLIP-T, and with layouts CLIP-T-C and CLIP-I.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="The scores times 100, and what stands out."),
                io.Image.Output(
                    display_name="plot",
                    tooltip="The likeness of every two faces of each character, and a bar per frame; the worst is red.",
                ),
                io.String.Output(display_name="numbers", tooltip="Everything as JSON."),
            ],
            hidden=[io.Hidden.unique_id],
            is_input_list=True,
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        images: list[torch.Tensor],
        story: list[Story],
        recogniser: list[Recogniser] | None = None,
        layouts: list[Layout] | None = None,
        clip_vision: list[Any] | None = None,
        encoder: list[ImageTextEncoder] | None = None,
    ) -> io.NodeOutput:
        pictures = [picture[..., :3].cpu().float() for batch in images for picture in batch]
        used = recogniser[0] if recogniser else None
        if layouts is not None and len(layouts) != len(story[0].frames):
            raise ValueError(
                f"Score Story: there are {len(layouts)} layouts and the story has {len(story[0].frames)} frames. "
                "Connect the layouts of all frames, from the same Story Frames."
            )
        bar = comfy.utils.ProgressBar(1 + len(story[0].characters))
        encoders = encoders_of(clip_vision or [], used, encoder[0] if encoder else None)
        features = story_features(
            story[0], pictures, layouts, encoders, report=lambda what, done, total: bar.update_absolute(done, total)
        )
        scores = score_story(features)
        threshold = getattr(used, "threshold", None)
        name = used.name if used else ""
        plot = draw_scores(scores, threshold).unsqueeze(0)
        numbers = json.dumps(as_mapping(scores, {"recogniser": name, "threshold": threshold}), ensure_ascii=False)
        report = as_text(scores, name, threshold)
        return io.NodeOutput(report, plot, numbers, ui=ui.PreviewImage(plot, cls=cls))


def _folder_of(engine: str) -> Path | None:
    """Where an engine's files are; None where they come with its packages."""
    if engine == _INSIGHTFACE:
        return face_models_folder(_BUFFALO)
    folders = {full_path("face_recognition", file).parent for file in ENGINES[engine].files}
    if len(folders) > 1:
        raise ValueError(
            f"Load Face Recogniser: the files of {engine} lie in different folders; put them into one folder of "
            "models/face_recognition."
        )
    return next(iter(folders), None)
