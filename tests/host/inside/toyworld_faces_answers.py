"""A toy story with faces, in the host: `toyworld_faces_answers.py COMFYUI BASE_DIRECTORY QUESTIONS ANSWERS`.

As `toyworld_answers.py`: QUESTIONS has reference pictures and masks, and in its metadata the story, the ways to draw it
and the settings; ANSWERS has what was seen in the pictures and the latents of every way.
"""

import json
import sys
from pathlib import Path
from typing import Any

COMFYUI, BASE_DIRECTORY, QUESTIONS, ANSWERS = (Path(argument).absolute() for argument in sys.argv[1:5])
sys.argv[1:] = ["--cpu", "--base-directory", str(BASE_DIRECTORY)]  # for the host, which reads them when imported
sys.path.insert(1, str(COMFYUI))
import setting  # noqa: E402, F401 - prepares the host before anything of it is imported
import torch  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from story_identity.core.layout import Layout  # noqa: E402
from story_identity.core.story import Story  # noqa: E402
from story_identity.core.toyworld.sizes import TOY_WORLD  # noqa: E402
from story_identity.nodes.injector import FaceFeaturesNode, ShuffledIDInjectorNode  # noqa: E402
from story_identity.nodes.story import EncodeStoryNode  # noqa: E402
from story_identity.nodes.toyworld import ToyWorldLoaderNode  # noqa: E402

import nodes  # noqa: E402

MODEL, _, CLIP, _, _, _, CLIP_VISION, ADAPTER = range(8)
Tensors = dict[str, torch.Tensor]


def features(loaded: Any, asked: Tensors) -> Any:
    """FACE_FEATURES of everybody whose pictures were asked about."""
    faces = None
    for name in ("Mira", "Tom"):
        given = {"images": [asked[name]], "name": [name], "clip_vision": [loaded[CLIP_VISION]]}
        given |= {"face_models": ["toy world"], "crop": ["found face"]} | ({"faces": [faces]} if faces else {})
        (faces,) = FaceFeaturesNode.execute(**given).result
    return faces


def of_faces(asked: Tensors, told: Any, ways: dict[str, Any], settings: dict[str, Any]) -> Tensors:
    """What was seen in the references, and the latents of the story's frames, a batch with one seed, in every way."""
    loaded, story = ToyWorldLoaderNode.execute().result, Story.parse(told)
    faces = features(loaded, asked)
    said = {f"{name} {face.name}": value for face in faces for name, value in vars(face.features).items()}
    positive, negative, frames = EncodeStoryNode.execute(loaded[CLIP], story).result
    (empty,) = nodes.EmptyLatentImage().generate(*[TOY_WORLD.picture_side] * 2, frames)
    layouts = [layout_of(frame, asked["masks"]) for frame in story.frames]
    for way, chosen in ways.items():
        given = {"model": loaded[MODEL], "adapter": loaded[ADAPTER], "faces": faces, "story": story}
        given |= {"mode": chosen["mode"], "seed": settings["seed"], "weight": chosen["weight"]}
        given |= {"start_percent": 0.0, "end_percent": 1.0, "picture_weight": 1.0, "lora_strength": 1.0}
        lists = {name: [value] for name, value in given.items()} | ({"layout": layouts} if chosen["masked"] else {})
        ((model,),) = ShuffledIDInjectorNode.execute(**lists).result
        how = (settings["seed"], settings["steps"], chosen["cfg"], "euler", "simple", positive, negative, empty)
        said[way] = nodes.KSampler().sample(model, *how)[0]["samples"]
    return said


def layout_of(frame: Any, masks: torch.Tensor) -> Layout:
    return Layout(tuple(person.name for person in frame.cast), masks[: len(frame.cast)].bool(), frame.label)


if __name__ == "__main__":
    with safe_open(QUESTIONS, framework="pt") as file, torch.inference_mode():
        asked = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        texts = {name: json.loads(text) for name, text in file.metadata().items()}
        answers = of_faces(asked, **texts)
    save_file({name: tensor.contiguous() for name, tensor in answers.items()}, ANSWERS)
