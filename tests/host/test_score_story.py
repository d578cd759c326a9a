"""Score Story at the end of an SDXL workflow with stand-in weights, in a real ComfyUI."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from story_identity.core.scores.plot import colour_of_cosine

from tests.closeness import assert_close
from tests.stand_ins.folder import write_all
from tests.stand_ins.image_text import write_image_text

from .comfyui import REPOSITORY
from .server import PACK, SHRINK, Host
from .stand_in_recogniser import embed
from .test_workflows_run import nodes_of, saved, workflow

pytestmark = pytest.mark.slow

RECOGNISER = "stand_in_recogniser"
CLIP, VISION = "tiny", "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"
ROUNDING = 2e-2
"""The cosines are of pictures before they are rounded to 8 bits; those of noise are small."""


@pytest.fixture(scope="module")
def scored(comfyui, tmp_path_factory):
    """The frames of the story of two characters, and what Score Story says of them by two sets of encoders."""
    folder = Path(__file__).parent
    packs = {PACK: REPOSITORY, **{name: folder / name for name in (SHRINK, RECOGNISER)}}
    with Host(comfyui, tmp_path_factory.mktemp("scores"), packs) as host:
        write_all(host.models_dir)
        write_image_text(host.models_dir / "image_text" / CLIP)
        graph = workflow("identitystory_sdxl_two_characters")
        (collect,), (story,) = nodes_of(graph, "StoryIdentityCollectFrames"), nodes_of(graph, "StoryIdentityStory")
        given = {"images": [collect, 1], "story": [story, 0], "layouts": [collect, 3], "recogniser": ["faces", 0]}
        graph |= {
            "faces": {"class_type": "StandInRecogniser", "inputs": {}},
            "clip": {"class_type": "StoryIdentityLoadCaptionEncoder", "inputs": {"caption_encoder": CLIP}},
            "vision": {"class_type": "CLIPVisionLoader", "inputs": {"clip_name": VISION}},
            "by clip": {"class_type": "StoryIdentityScoreStory", "inputs": {**given, "encoder": ["clip", 0]}},
            "by vision": {"class_type": "StoryIdentityScoreStory", "inputs": {**given, "clip_vision": ["vision", 0]}},
        }
        for way in ("clip", "vision"):
            for place, what in ((0, "report"), (2, "numbers")):
                shown = {"source": [f"by {way}", place]}
                graph[f"{way} {what}"] = {"class_type": "PreviewAny", "inputs": shown}
        frames = saved(host, graph)["frames"]
        outputs = host.run(graph)
        yield frames, outputs, {way: host.files(outputs[f"by {way}"]) for way in ("clip", "vision")}


def numbers(scored, way):
    return json.loads(scored[1][f"{way} numbers"]["text"][0])


def pixels(path):
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).float() / 255


def test_every_score_of_both_papers_is_measured(scored):
    by_clip, by_vision = numbers(scored, "clip")["scores"], numbers(scored, "vision")["scores"]
    assert set(by_clip) == {"clip_t", "clip_t_c", "clip_i", "clip_i_frames", "face_sim"}
    assert set(by_vision) == {"clip_i", "clip_i_frames", "face_sim"}
    assert by_clip["face_sim"] == by_vision["face_sim"]
    assert by_clip["clip_i"] != by_vision["clip_i"]
    for found in (*by_clip.values(), *by_vision.values()):
        assert found["low"] <= found["mean"] <= found["high"]


def test_face_sim_is_that_of_the_frames_that_were_saved(scored):
    frames, _, _ = scored
    vectors = torch.stack([embed(pixels(path)) for path in frames])
    expected = vectors @ vectors.T
    people = numbers(scored, "clip")["characters"]
    assert [person["name"] for person in people] == ["Ada", "Otto"]
    for person in people:
        matrix = torch.tensor([[torch.nan if x is None else x for x in row] for row in person["face_cosines"]])
        known = ~matrix.isnan()
        shown = torch.zeros(len(frames), dtype=torch.bool)
        shown[[frame - 1 for frame in person["frames"]]] = True
        assert known.diagonal().sum() == person["found"]["face_sim"] > 1
        assert not (known.diagonal() & ~shown).any()
        assert_close(matrix[known], expected[known], ROUNDING)


def test_the_report_and_the_plot_say_the_same(scored):
    _, outputs, plots = scored
    (report,) = outputs["clip report"]["text"]
    (plot,) = plots["clip"]
    with Image.open(plot.path) as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(2**20)}
    for person in numbers(scored, "clip")["characters"]:
        wanted, found = len(person["frames"]), person["found"]["face_sim"]
        assert f"{person['name']}: found {found} of {wanted} figures, {found} of {wanted} faces" in report
        assert f"{person['name']}: the face of frame {person['least_alike_frame']} is least like the others" in report
        rows = [[value for value in row if value is not None] for row in person["face_cosines"]]
        assert {colour_of_cosine(value) for row in rows for value in row} <= colours
