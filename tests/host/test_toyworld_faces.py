"""The toy world's injector is one injector: ComfyUI's nodes and diffusers see and draw the same faces."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from story_identity.core.frame_sharing import Sharing
from story_identity.core.layout import Layout
from story_identity.core.story import Story
from story_identity.core.subject_bank import SubjectBank
from story_identity.core.toyworld.models import WEIGHTS
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.headless.joint_drawing import open_drawing
from story_identity.headless.reference_faces import load_reader
from story_identity.headless.reference_injection import inject_story, load_injector
from story_identity.headless.run_settings import toyworld_settings
from story_identity.headless.sampling import SamplingPlan
from story_identity.headless.shared_frames import encode_together, new_sharing, sample_together
from story_identity.headless.toyworld_pipeline import load_toyworld
from story_identity.lab.toyworld.people import sample_person
from story_identity.lab.toyworld.world import draw, portrait_plan
from torch import Tensor

from tests.closeness import largest_difference

from .server import environment
from .test_toyworld_parity import CLOSE, INSIDE, LONG_STORY

SETTINGS = {"seed": 11, "steps": 6}
WAYS: dict[str, dict[str, Any]] = {
    "plain": {"mode": "shuffled", "cfg": 4.0, "weight": 0.0, "masked": False},
    "shuffled": {"mode": "shuffled", "cfg": 4.0, "weight": 1.0, "masked": False},
    "average": {"mode": "average", "cfg": 4.0, "weight": 0.6, "masked": True},
    "stacked": {"mode": "stacked", "cfg": 1.0, "weight": 1.0, "masked": True},
}


@pytest.fixture(scope="module")
def questions() -> dict[str, Tensor]:
    random = np.random.default_rng(3)
    asked = {}
    for name, word, count in (("Mira", "woman", 3), ("Tom", "boy", 2)):
        plan = portrait_plan(sample_person(random, word=word))
        asked[name] = torch.stack([torch.tensor(draw(plan, random).image).float() / 255 for _ in range(count)])
    masks = torch.zeros(2, TOY_WORLD.picture_side, TOY_WORLD.picture_side)
    masks[0, 14:60, 6:26], masks[1, 20:60, 36:56] = 1, 1
    return {**asked, "masks": masks}


@pytest.fixture(scope="module")
def comfy(comfyui, questions, tmp_path_factory) -> dict[str, Tensor]:
    """What ComfyUI says."""
    base = tmp_path_factory.mktemp("faces")
    asked, answered = base / "questions.safetensors", base / "answers.safetensors"
    texts = {"told": LONG_STORY, "ways": WAYS, "settings": SETTINGS}
    save_file(questions, asked, metadata={name: json.dumps(text) for name, text in texts.items()})
    command = [comfyui.python, Path(INSIDE) / "toyworld_faces_answers.py", comfyui.root, base, asked, answered]
    done = subprocess.run(command, cwd=base, env=environment(base), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return load_file(answered)


@pytest.fixture(scope="module")
def features(questions) -> dict[str, Any]:
    reader, seen = load_reader("toyworld", "toyworld"), {}
    for name in ("Mira", "Tom"):
        seen[name], found = reader.read(list(questions[name]), [None] * len(questions[name]))
        assert all(found)
    return seen


def layouts_of(questions, story) -> list[Layout]:
    return [
        Layout(tuple(each.name for each in frame.cast), questions["masks"][: len(frame.cast)].bool(), frame.label)
        for frame in story.frames
    ]


SEEN_CLOSE = 10 * CLOSE
"""What pictures lead to: a crop's pixel that is halfway between two 8-bit levels may go to either."""


def test_the_references_are_seen_the_same(comfy, features):
    for name, seen in features.items():
        for kind, value in vars(seen).items():
            assert largest_difference(comfy[f"{kind} {name}"], value) < SEEN_CLOSE, (kind, name)


def test_a_story_with_faces_comes_out_the_same_from_the_same_noise_and_features(comfy, questions, features):
    pipe, story, seed = load_toyworld(), Story.parse(LONG_STORY), SETTINGS["seed"]
    injector = load_injector(WEIGHTS / "injector.safetensors", pipe)
    prompts, count = encode_together(pipe, story.frames), len(story.frames)
    noise = torch.randn(count, TOY_WORLD.latent_channels, 16, 16, generator=torch.Generator().manual_seed(seed))
    layouts = layouts_of(questions, story)
    features = {
        name: replace(seen, **{kind: comfy[f"{kind} {name}"] for kind in vars(seen)}) for name, seen in features.items()
    }
    for way, chosen in WAYS.items():
        masks = layouts if chosen["masked"] else ()
        injection = inject_story(injector, story, features, chosen["mode"], seed, chosen["weight"], masks)
        plan = SamplingPlan(pipe, "euler", "simple", SETTINGS["steps"], chosen["cfg"])
        alone = new_sharing(Sharing(strength=0.0), (), count)
        assert largest_difference(comfy[way], sample_together(plan, prompts, noise, seed, alone, injection)) < CLOSE, (
            way
        )
    assert largest_difference(comfy["plain"], comfy["shuffled"]) > 100 * CLOSE


@pytest.mark.parametrize("way", ["shuffled", "average"])
def test_a_run_with_an_adapter_draws_what_the_nodes_draw(comfy, questions, way, tmp_path):
    """From picture files to latents; everywhere, and where layouts say."""
    chosen, references = WAYS[way], []
    for name in ("Mira", "Tom"):
        for number, picture in enumerate(questions[name]):
            references.append((name, str(tmp_path / f"{name}{number}.png")))
            Image.fromarray((picture * 255).round().byte().numpy()).save(references[-1][1])
    settings = toyworld_settings(
        together=True, strength=0, adapter="toyworld", references=tuple(references), detector="none", **SETTINGS,
        mode=chosen["mode"], weight=chosen["weight"], cfg=chosen["cfg"], shuffle_seed=SETTINGS["seed"],
    )  # fmt: skip
    drawing = open_drawing(Story.parse(LONG_STORY), settings, "cpu")
    (rows,) = drawing.groups()
    masks = layouts_of(questions, drawing.story) if chosen["masked"] else ()
    drawn = drawing.draw(rows, SubjectBank(), drawing.faces, masks, lambda *step: None, "frames")
    assert largest_difference(comfy[way], drawn) < SEEN_CLOSE
