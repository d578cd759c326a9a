"""Faces from pictures: Load ID Adapter, Face Features, Shuffled ID Injector."""

import logging
from pathlib import Path
from typing import Any

import comfy.utils
import torch
from comfy_api.latest import io

from ..core.frame_text import frame_as_text
from ..core.layout import Layout
from ..core.quoting import printable, quote
from ..core.shuffle import MODES
from ..core.story import Frame, Story
from .host.adapters import IDAdapter, assigned_references, load_adapter
from .host.checkpoint_parts import require_parts
from .host.folders import (
    NO_FACE_MODELS,
    check_face_models,
    check_present,
    face_models,
    files_in,
    full_path,
    names,
)
from .host.id_injection import IDInjection
from .host.reference_faces import CENTRE_SQUARE, CROPS, FOUND_FACE, load_named_recogniser, reference_features
from .types import (
    FaceFeatures,
    FaceFeaturesSocket,
    Faces,
    IDAdapterSocket,
    LayoutSocket,
    StoryFrameSocket,
    StorySocket,
)


class LoadIDAdapterNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityLoadIDAdapter",
            display_name="Load ID Adapter",
            category="StoryIdentity/identity",
            description="Loads an IP-Adapter file of the kind plus-face, FaceID or FaceID-Plus, as published. FaceID "
            "files are for non-commercial research only; plus-face is Apache-2.0 and needs no face recogniser.",
            search_aliases=["ipadapter", "ip-adapter", "faceid", "plus face", "Storynizor"],
            inputs=[
                io.Combo.Input(
                    "adapter_name",
                    options=names("ipadapter", "ip-adapter-plus-face_sd15.safetensors"),
                    tooltip="A file in models/ipadapter, made for the same family of models as your checkpoint.",
                )
            ],
            outputs=[IDAdapterSocket.Output(display_name="adapter", tooltip="For Shuffled ID Injector.")],
        )

    @classmethod
    def validate_inputs(cls, adapter_name: str | None) -> bool | str:
        return check_present("ipadapter", adapter_name)

    @classmethod
    def execute(cls, adapter_name: str) -> io.NodeOutput:
        return io.NodeOutput(load_adapter(full_path("ipadapter", adapter_name)))


class FaceFeaturesNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityFaceFeatures",
            display_name="Face Features",
            category="StoryIdentity/identity",
            description="What an image encoder, and on request a face recogniser, sees in the pictures of one "
            "character. insightface's models are for non-commercial research only, and used only if you choose them.",
            search_aliases=["face embedding", "insightface", "clip vision", "reference image", "Storynizor"],
            inputs=[
                io.Image.Input("images", tooltip="Pictures of one character: a batch, or a list of any sizes."),
                io.String.Input(
                    "name",
                    default="",
                    tooltip="The character's name, as in the story. It may stay empty if the story has only one.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="CLIP ViT-H, from Load CLIP Vision. For plus-face and FaceID-Plus. The Toy World Loader "
                    "has its own.",
                ),
                io.Combo.Input(
                    "face_models",
                    options=face_models(),
                    default=NO_FACE_MODELS,
                    tooltip="For FaceID and FaceID-Plus: a folder in models/insightface/models. It needs the package "
                    "insightface and is for non-commercial research only. toy world: for the Toy World Loader's "
                    "adapter.",
                ),
                io.Combo.Input(
                    "crop",
                    options=list(CROPS),
                    default=CENTRE_SQUARE,
                    tooltip="What the image encoder sees. Give plus-face a close-up, about square. FaceID-Plus was "
                    "trained with the found face, which needs face models.",
                ),
                FaceFeaturesSocket.Input(
                    "faces",
                    optional=True,
                    tooltip="The Face Features of another character, which come first in the output.",
                ),
            ],
            outputs=[
                FaceFeaturesSocket.Output(
                    display_name="faces", tooltip="This character's features, after those of the input faces."
                )
            ],
            is_input_list=True,
        )

    @classmethod
    def weight_files(cls) -> list[Path]:
        """The files of all face models, for keys of results that are kept."""
        return files_in("insightface")

    @classmethod
    def validate_inputs(cls, face_models: list[str | None]) -> bool | str:
        return check_face_models(face_models[0])

    @classmethod
    def execute(
        cls,
        images: list[torch.Tensor],
        name: list[str],
        face_models: list[str],
        crop: list[str],
        clip_vision: list[Any] | None = None,
        faces: list[Faces] | None = None,
    ) -> io.NodeOutput:
        who, known = name[0].strip(), faces[0] if faces else ()
        if any(each.name == who for each in known):
            raise ValueError(
                f"Face Features: {quote(who)} has a face already; put all of their pictures into one node."
            )
        if clip_vision:
            require_parts("Face Features", clip_vision=clip_vision[0])
        wanted = face_models[0] != NO_FACE_MODELS
        if not clip_vision and not wanted:
            raise ValueError(
                "Face Features: connect a CLIP_VISION (for plus-face), or choose face models (for FaceID), or both."
            )
        if crop[0] == FOUND_FACE and not wanted:
            raise ValueError(
                'Face Features: crop is "found face", but no face models are chosen. Choose some, or crop the picture '
                "yourself and take another crop."
            )
        recogniser = load_named_recogniser(face_models[0], "Face Features") if wanted else None
        pictures = [picture[..., :3] for batch in images for picture in batch]
        advance = comfy.utils.ProgressBar(len(pictures)).update
        seen = reference_features(pictures, clip_vision[0] if clip_vision else None, recogniser, crop[0], advance)
        return io.NodeOutput((*known, FaceFeatures(who, seen)))


class ShuffledIDInjectorNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityShuffledIDInjector",
            display_name="Shuffled ID Injector",
            category="StoryIdentity/sampling",
            description="Gives each frame's characters the faces of their reference pictures, a different picture in "
            "each frame, so that the face stays and the pose does not (Storynizor, section 3.2).",
            search_aliases=["ipadapter", "faceid", "face swap", "consistent face", "reference image", "Storynizor"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="SD1.5 or SDXL, the same family as the adapter; other patches stay in force."
                ),
                IDAdapterSocket.Input("adapter", tooltip="From Load ID Adapter, or the Toy World Loader."),
                FaceFeaturesSocket.Input(
                    "faces", tooltip="From Face Features: one or several characters of the story."
                ),
                StorySocket.Input("story", tooltip="Says who is in which frame."),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default="shuffled",
                    tooltip="shuffled: each frame sees another picture, in random order. aligned: frame 1 the first, "
                    "frame 2 the second... average: the mean of all. stacked: all at once; poses come out stiffer.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="The seed of the shuffling. Sampling has its own.",
                ),
                io.Float.Input(
                    "weight",
                    default=1.0,
                    min=0.0,
                    max=3.0,
                    step=0.05,
                    tooltip="1 is the strength of training; lower values follow the prompt more; 0 leaves the MODEL "
                    "unchanged.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Inject from this share of sampling on.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Inject until this share of sampling.",
                ),
                io.Float.Input(
                    "picture_weight",
                    default=1.0,
                    min=0.0,
                    max=5.0,
                    step=0.05,
                    advanced=True,
                    tooltip="FaceID-Plus v2 only: how much of the picture is added to the face.",
                ),
                io.Float.Input(
                    "lora_strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    advanced=True,
                    tooltip="FaceID only: strength of the LoRA in the file. 0 if you load the separate _lora file.",
                ),
                StoryFrameSocket.Input(
                    "frame",
                    optional=True,
                    tooltip="From Story Frames, to sample one frame at a time. Without it, all frames are one batch.",
                ),
                LayoutSocket.Input(
                    "layout",
                    optional=True,
                    tooltip="Where each character is, one layout per frame: each face acts only where its character "
                    "is. Without layouts all faces of a frame act everywhere in it.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    is_output_list=True,
                    tooltip="For a sampler node. With frame, there is one MODEL for every frame.",
                )
            ],
            is_input_list=True,
        )

    @classmethod
    def execute(
        cls,
        model: list[Any],
        adapter: list[IDAdapter],
        faces: list[Faces],
        story: list[Story],
        mode: list[str],
        seed: list[int],
        weight: list[float],
        start_percent: list[float],
        end_percent: list[float],
        picture_weight: list[float],
        lora_strength: list[float],
        frame: list[Frame] | None = None,
        layout: list[Layout] | None = None,
    ) -> io.NodeOutput:
        for each in model:
            require_parts("Shuffled ID Injector", model=each)
        characters = assigned_references(adapter[0], faces[0], story[0], mode[0], seed[0], picture_weight[0])
        for each in characters:
            seen = (f"{index + 1}: {', '.join(str(i + 1) for i in chosen)}" for index, chosen in each.by_frame.items())
            shown = "; ".join(seen) or "none"
            logging.info("Shuffled ID Injector: pictures of %s by frame: %s", quote(each.name), printable(shown))
        settings = {
            "adapter": adapter[0],
            "characters": characters,
            "mode": mode[0],
            "weight": weight[0],
            "start": start_percent[0],
            "end": end_percent[0],
            "lora_strength": lora_strength[0],
        }
        samplings = enumerate(_samplings(story[0], frame or [], layout or []))
        return io.NodeOutput(
            [
                IDInjection(frames=frames, layouts=layouts, **settings).added_to(model[min(number, len(model) - 1)])
                for number, (frames, layouts) in samplings
            ]
        )


def _samplings(
    story: Story, frames: list[Frame], layouts: list[Layout]
) -> list[tuple[tuple[Frame, ...], tuple[Layout, ...]]]:
    """What is sampled together: the whole story, or each of the frames that are connected."""
    if not frames:
        return [(story.frames, tuple(layouts))]
    if layouts and len(layouts) != len(frames):
        raise ValueError(
            f"Shuffled ID Injector: there are {len(layouts)} layouts for {len(frames)} frames. Connect both from the "
            "same Story Frames."
        )
    numbered = [_frame_of(story, frame) for frame in frames]
    return [((frame,), tuple(layouts[number : number + 1])) for number, frame in enumerate(numbered)]


def _frame_of(story: Story, frame: Frame) -> Frame:
    """The story's own frame; one that travels by itself, as between Each Frame and Collect Frames, has no number."""
    if frame.index < 0:
        own = next((each for each in story.frames if frame_as_text(each) == frame_as_text(frame)), None)
    else:
        own = next((each for each in story.frames[frame.index :][:1] if each == frame), None)
    if own is None:
        raise ValueError(
            f"Shuffled ID Injector: {frame.label}, {quote(frame.caption)}, is not of this story. Connect the same "
            "STORY to Story Frames and to this node."
        )
    return own
