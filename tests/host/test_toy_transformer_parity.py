"""The toy world's transformer is one in both hosts: ComfyUI's class and diffusers' say and draw the same."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from story_identity.core.frame_sharing import Sharing
from story_identity.core.layout import Layout
from story_identity.core.story import Story
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.headless import sampling
from story_identity.headless.flow_sampling import (
    FlowPlan,
    FlowPrompt,
    load_transformer_pipeline,
    sample_frames_together,
)
from story_identity.headless.shared_frames import new_sharing, positions_of
from story_identity.headless.toy_transformer import predict_velocity

from tests.closeness import largest_difference
from tests.stand_ins.toy_transformer import make_random_transformer

from .server import environment

INSIDE = Path(__file__).parent / "inside"
TOLD = {
    "prompt": "a woman with red hair, the woman in image 1, and a boy with black hair on a beach",
    "prompts": ["", "the woman in image 1 waves", "a robot, unheard-of, in images 1 to 3."],
    "names": ["Mira", "Tom"],
    "story": {
        "characters": [
            {"name": "Mira", "word": "woman", "description": "a woman with red hair"},
            {"name": "Tom", "word": "boy", "description": "a boy with black hair"},
        ],
        "frames": ["Mira and Tom on a beach", "Tom waving in the snow", "a city at night", "Mira in a forest"],
    },
    "seed": 11,
    "steps": 10,
    "cfg": 3.0,
    "start": 3,
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return make_random_transformer(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def asked():
    random = torch.Generator().manual_seed(7)
    shapes = {
        "latents": (3, 16, 16, 16),
        "context": (3, TOY_WORLD.text_length, TOY_WORLD.text_width),
        "pooled": (3, TOY_WORLD.text_width),
        "wide reference": (3, 16, 12, 18),
        "high reference": (3, 16, 24, 12),
    }
    masks = torch.zeros(2, 128, 128)
    masks[0, 28:120, 12:52], masks[1, 40:120, 72:112] = 1, 1
    drawn = {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}
    return drawn | {"times": torch.tensor([0.001, 0.43, 1.0]), "masks": masks}


@pytest.fixture(scope="module")
def comfy(comfyui, weights, asked, tmp_path_factory):
    """What ComfyUI says."""
    base = tmp_path_factory.mktemp("toy_transformer")
    questions, answers = base / "questions.safetensors", base / "answers.safetensors"
    save_file(asked, questions, metadata={"told": json.dumps(TOLD)})
    command = [comfyui.python, INSIDE / "toy_transformer_answers.py", comfyui.root, base, weights, questions, answers]
    done = subprocess.run(command, cwd=base, env=environment(base), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return load_file(answers)


@pytest.fixture(scope="module")
def pipe(weights):
    return load_transformer_pipeline(weights)


@pytest.mark.parametrize("count", [0, 1, 2])
@torch.no_grad()
def test_it_predicts_the_same_with_any_number_of_references(comfy, asked, pipe, count):
    """The norms of queries and keys differ by 1e-6 of their square in the two hosts."""
    given = [asked[key] for key in ("latents", "times", "context", "pooled")]
    references = [asked["wide reference"], asked["high reference"]]
    ours = predict_velocity(pipe.transformer, *given, references[:count])
    assert largest_difference(comfy[f"prediction {count}"], ours) < 1e-5
    assert count == 0 or largest_difference(comfy["prediction 0"], ours) > 1e-3


def test_the_text_encoder_reads_the_same(comfy, pipe):
    prompts = [pipe.encode_prompt(text) for text in TOLD["prompts"]]
    assert largest_difference(comfy["text"], torch.cat([each.embeddings for each in prompts])) < 1e-5
    assert largest_difference(comfy["pooled"], torch.cat([each.pooled for each in prompts])) < 1e-5


def test_a_prompt_that_is_not_read_whole_is_refused(pipe):
    with pytest.raises(ValueError, match="reads 40. Shorten it"):
        pipe.encode_prompt("a woman and " * 14)


def test_the_noise_levels_are_the_same(comfy, pipe):
    assert largest_difference(comfy["sigmas"], FlowPlan(pipe, "euler", "simple", 10, 3.0).levels()) < 1e-6


def test_a_frame_comes_out_the_same_from_the_same_noise(comfy, asked, pipe):
    plan = FlowPlan(pipe, "euler", "simple", TOLD["steps"], TOLD["cfg"])
    positive, negative = pipe.encode_prompt(TOLD["prompt"]), pipe.encode_prompt("")
    noise = sampling.starting_noise([TOLD["seed"]], 16, 16, 16)
    cached = sampling.sample_template(plan, positive, negative, noise, TOLD["seed"])
    assert largest_difference(comfy["template"], cached.final) < 1e-4
    references = [asked[name][:1] for name in ("wide reference", "high reference")]
    prompts = {
        name: (pipe.encode_prompt(TOLD["prompt"], [reference]), negative)
        for name, reference in zip(TOLD["names"], references, strict=True)
    }
    layout = Layout(tuple(TOLD["names"]), asked["masks"].bool(), "frame 1")
    again = sampling.redenoise(plan, cached, layout, prompts, start=TOLD["start"], max_kernel=50)
    assert largest_difference(comfy["frame"], again) < 1e-4
    assert largest_difference(again, cached.final) > 1e-2


def test_frames_drawn_together_come_out_the_same_from_the_same_noise(comfy, pipe):
    story, plan = Story.parse(TOLD["story"]), FlowPlan(pipe, "euler", "simple", TOLD["steps"], TOLD["cfg"])
    noise = torch.randn(4, 16, 16, 16, generator=torch.Generator().manual_seed(TOLD["seed"]))
    texts = zip(*((frame.prompt, frame.negative) for frame in story.frames), strict=True)
    positive, negative = (FlowPrompt.of_rows([pipe.encode_prompt(text) for text in each]) for each in texts)
    for name, strength in (("apart", 0.0), ("together", 1.0)):
        shared = new_sharing(Sharing(strength=strength), positions_of(pipe, story), len(story.frames))
        ours = sample_frames_together(plan, (positive, negative), noise, TOLD["seed"], shared)
        assert largest_difference(comfy[name], ours) < 1e-4
    changes = [largest_difference(*pair) for pair in zip(comfy["apart"], comfy["together"], strict=True)]
    assert [change > 1e-2 for change in changes] == [True, True, False, True]


@pytest.mark.parametrize(("sampler", "scheduler"), [("ddim", "simple"), ("euler", "karras")])
def test_other_samplers_and_schedules_are_refused(pipe, sampler, scheduler):
    plan = FlowPlan(pipe, sampler, scheduler, 4, 1.0)
    prompt = pipe.encode_prompt("a woman")
    with pytest.raises(ValueError, match="for flow matching; there is"):
        sampling.sample_template(plan, prompt, prompt, torch.zeros(1, 16, 16, 16), 0)
