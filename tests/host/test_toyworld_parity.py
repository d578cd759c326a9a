"""The toy world is one world: ComfyUI's classes and diffusers' say and draw the same, from networks to whole frames."""

import itertools
import json
import shutil
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from story_identity.core.frame_sharing import Sharing
from story_identity.core.layout import Layout
from story_identity.core.story import Story
from story_identity.core.subject_bank import SubjectBank
from story_identity.core.toyworld import models
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.headless import sampling
from story_identity.headless.identity_generator import identity_generator, load_photomaker
from story_identity.headless.joint_drawing import open_drawing
from story_identity.headless.prompts import encode_prompt, word_position
from story_identity.headless.run_settings import toyworld_settings
from story_identity.headless.shared_frames import encode_together, new_sharing, positions_of, sample_together
from story_identity.headless.toyworld_pipeline import load_toyworld
from story_identity.lab.training.train_synchronizer import Synchronizer, SynchronizerSettings
from torch import Tensor

from tests.closeness import largest_difference

from .server import environment

INSIDE = Path(__file__).parent / "inside"
PROMPTS = ["", "a woman with red hair and a boy with black hair waving on a beach", "a robot, unheard-of, in the snow."]
WAYS = list(itertools.product(("euler", "ddim"), ("simple", "ddim_uniform")))
SETTINGS = {"seed": 11, "steps": 10, "cfg": 4.0, "start": 3, "max_kernel": 50}
STORY = {
    "characters": [
        {"name": "Mira", "word": "woman", "description": "a woman with red hair"},
        {"name": "Tom", "word": "boy", "description": "a boy with black hair"},
    ],
    "frames": ["Mira waving and Tom on a beach with a ball"],
}
LONG_STORY = {
    "characters": STORY["characters"],
    "frames": [*STORY["frames"], "Tom in the snow", "a city at night", "Mira sitting in a kitchen"],
}
TOGETHER = {
    "together": {"anchors": 0, "start_percent": 0.0, "end_percent": 1.0},
    "anchors": {"anchors": 2, "start_percent": 0.2, "end_percent": 0.8},
}
SYNCHRONIZER = "synchronizer.safetensors"
CLOSE = 1e-4
"""Largest difference allowed, as a share of the largest value."""


@pytest.fixture(scope="module")
def questions() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(7)
    masks = torch.zeros(2, TOY_WORLD.picture_side, TOY_WORLD.picture_side)
    masks[0, 14:60, 6:26] = 1
    masks[1, 20:60, 36:56] = 1
    return {
        "latents": torch.randn(3, TOY_WORLD.latent_channels, 16, 16, generator=random),
        "timesteps": torch.tensor([0.0, 431.0, 999.0]),
        "context": torch.randn(3, TOY_WORLD.text_length, TOY_WORLD.text_width, generator=random),
        "pictures": torch.rand(2, TOY_WORLD.picture_side, TOY_WORLD.picture_side, 3, generator=random),
        "identities": torch.randn(2, TOY_WORLD.text_width, generator=random),
        "masks": masks,
    }


@pytest.fixture(scope="module")
def synchronizer(questions, tmp_path_factory) -> tuple[Path, Tensor]:
    """A LoRA as the trainer writes it, of random numbers, and what the UNet predicts with it in place."""
    folder, told = tmp_path_factory.mktemp("synchronizer"), {"checkpoint": "toyworld", "data": "toyworld", "steps": 1}
    settings = SynchronizerSettings(**told, out=str(folder), rank=4, device="cpu")
    random = torch.Generator().manual_seed(3)
    with closing(Synchronizer(load_toyworld(), settings)) as trainee, torch.no_grad():
        for name, weight in trainee.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=random))
        predicted = trainee.unet(questions["latents"], questions["timesteps"], questions["context"]).sample
        return trainee.save(folder), predicted


@pytest.fixture(scope="module")
def comfy(comfyui, questions, synchronizer, tmp_path_factory) -> dict[str, Tensor]:
    """What ComfyUI says."""
    base = tmp_path_factory.mktemp("toyworld")
    asked, answered = base / "questions.safetensors", base / "answers.safetensors"
    loras = base / "models" / "loras"
    loras.mkdir(parents=True)
    shutil.copy(synchronizer[0], loras / SYNCHRONIZER)
    texts = {
        "prompts": PROMPTS,
        "story": STORY,
        "long_story": LONG_STORY,
        "ways": WAYS,
        "settings": SETTINGS | {"together": TOGETHER},
    }
    texts["synchronizer"] = SYNCHRONIZER
    save_file(questions, asked, metadata={name: json.dumps(text) for name, text in texts.items()})
    command = [comfyui.python, INSIDE / "toyworld_answers.py", comfyui.root, base, asked, answered]
    done = subprocess.run(command, cwd=base, env=environment(base), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return load_file(answered)


@pytest.fixture(scope="module")
def pipe() -> Any:
    return load_toyworld()


@pytest.fixture(scope="module")
def photomaker(pipe) -> Any:
    return load_photomaker(models.WEIGHTS / "photomaker.safetensors", pipe)


@torch.no_grad()
def test_the_unet_predicts_the_same(comfy, questions, pipe):
    ours = pipe.unet(questions["latents"], questions["timesteps"], questions["context"]).sample
    assert largest_difference(comfy["prediction"], ours) < CLOSE


def test_a_synchronizer_changes_the_unet_the_same_through_the_stock_lora_loader(comfy, synchronizer, questions, pipe):
    """The host's script fails if the loader leaves a key of the file unused."""
    path, predicted = synchronizer
    assert largest_difference(comfy["synchronized"], predicted) < CLOSE
    assert largest_difference(predicted, comfy["prediction"]) > 100 * CLOSE
    assert int(comfy["patches"]) == len(load_file(path)) // 3  # down, up and alpha of each layer


@torch.no_grad()
def test_the_vae_decodes_and_encodes_the_same(comfy, questions, pipe):
    latents = pipe.vae.network.encode(2 * questions["pictures"].movedim(-1, 1) - 1)
    assert largest_difference(comfy["pictures"], sampling.decode(pipe, questions["latents"])) < CLOSE
    assert largest_difference(comfy["encoded"], latents) < CLOSE


def test_the_text_encoder_reads_the_same(comfy, pipe):
    ours = torch.cat([encode_prompt(pipe, prompt, "frame 1").embeddings for prompt in PROMPTS])
    assert largest_difference(comfy["text"], ours) < CLOSE


def test_the_identity_encoder_sees_the_same(comfy, questions, photomaker):
    assert largest_difference(comfy["embedded"], photomaker.embed(questions["pictures"])) < CLOSE


def test_the_noise_levels_are_the_same(comfy):
    assert largest_difference(comfy["sigmas"], models.noise_levels()) < 1e-6


@pytest.mark.parametrize(("sampler", "scheduler"), WAYS)
def test_a_frame_comes_out_the_same_from_the_same_noise(comfy, questions, pipe, photomaker, sampler, scheduler):
    (frame,) = Story.parse(STORY).frames
    plan = sampling.SamplingPlan(pipe, sampler, scheduler, SETTINGS["steps"], SETTINGS["cfg"])
    positive, negative = (encode_prompt(pipe, text, frame.label) for text in (frame.prompt, frame.negative))
    noise = sampling.starting_noise([SETTINGS["seed"]], TOY_WORLD.latent_channels, 16, 16)
    cache = sampling.sample_template(plan, positive, negative, noise, SETTINGS["seed"])
    assert largest_difference(comfy[f"template {sampler} {scheduler}"], cache.final) < CLOSE
    layout = Layout(tuple(person.name for person in frame.cast), questions["masks"].bool(), frame.label)
    prompts = {}
    for person, span, identity in zip(
        frame.cast, [each.class_word for each in frame.appearances], questions["identities"], strict=True
    ):
        position = word_position(pipe, frame.prompt, span, frame.label)
        prompts[person.name] = photomaker.fuse(positive, position, identity), negative
    passes = {key: SETTINGS[key] for key in ("start", "max_kernel")}
    with identity_generator(pipe, photomaker):
        again = sampling.redenoise(plan, cache, layout, prompts, **passes)
    assert largest_difference(comfy[f"frame {sampler} {scheduler}"], again) < CLOSE
    assert largest_difference(again, cache.final) > 100 * CLOSE
    assert largest_difference(comfy[f"picture {sampler} {scheduler}"], sampling.decode(pipe, again)) < CLOSE


def test_frames_drawn_together_come_out_the_same_from_the_same_noise(comfy, pipe):
    story, seed = Story.parse(LONG_STORY), SETTINGS["seed"]
    plan = sampling.SamplingPlan(pipe, "euler", "simple", SETTINGS["steps"], SETTINGS["cfg"])
    shape = (len(story.frames), TOY_WORLD.latent_channels, 16, 16)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))  # the host draws a batch as one
    prompts, positions = encode_together(pipe, story.frames), positions_of(pipe, story)
    for name, strength in (("apart", 0.0), ("together", 1.0)):
        shared = new_sharing(Sharing(strength=strength), positions, len(story.frames))
        ours = sample_together(plan, prompts, noise, seed, shared)
        assert largest_difference(comfy[name], ours) < CLOSE
    assert largest_difference(comfy["apart"], comfy["together"]) > 100 * CLOSE


@pytest.mark.parametrize("way", TOGETHER)
def test_a_run_with_together_draws_what_the_nodes_draw(comfy, way):
    """At once and in groups; each group has the seed of its first frame, and sharing begins and ends on its way."""
    chosen = toyworld_settings(together=True, seed=SETTINGS["seed"], steps=SETTINGS["steps"], **TOGETHER[way])
    drawing, bank = open_drawing(Story.parse(LONG_STORY), chosen, "cpu"), SubjectBank()
    drawn = [drawing.draw(rows, bank, None, (), lambda *step: None, "frames") for rows in drawing.groups()]
    assert len(drawn) == {"together": 1, "anchors": 2}[way]
    assert largest_difference(comfy[way], torch.cat(drawn)) < CLOSE
    assert largest_difference(comfy["anchors"], comfy["together"]) > 100 * CLOSE
