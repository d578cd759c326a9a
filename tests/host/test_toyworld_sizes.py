"""Weights of the toy world, of random numbers, give the same in ComfyUI and in diffusers."""

import subprocess
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.headless.prompts import encode_prompt
from story_identity.headless.sampling import decode
from story_identity.headless.toyworld_pipeline import load_toyworld

from tests.closeness import largest_difference
from tests.stand_ins.toyworld import make_random_toyworld

from .server import environment

INSIDE = Path(__file__).parent / "inside"
CLOSE = 1e-5
"""Largest difference allowed, as a share of the largest value."""


@torch.no_grad()
def test_both_hosts_load_a_world(comfyui, tmp_path):
    random, folder = torch.Generator().manual_seed(7), make_random_toyworld(tmp_path / "weights", 3)
    asked = {
        "latents": torch.randn(2, TOY_WORLD.latent_channels, 16, 16, generator=random),
        "timesteps": torch.tensor([40.0, 999.0]),
        "context": torch.randn(2, TOY_WORLD.text_length, TOY_WORLD.text_width, generator=random),
        "pictures": torch.rand(2, TOY_WORLD.picture_side, TOY_WORLD.picture_side, 3, generator=random),
    }
    said = answers_of(comfyui, folder, asked, tmp_path)
    pipe = load_toyworld(folder)
    predicted = pipe.unet(asked["latents"], asked["timesteps"], asked["context"]).sample
    encoded = pipe.vae.network.encode(2 * asked["pictures"].movedim(-1, 1) - 1)
    text = encode_prompt(pipe, "a woman with red hair on a beach", "frame 1").embeddings
    assert largest_difference(said["prediction"], predicted) < CLOSE
    assert largest_difference(said["pictures"], decode(pipe, asked["latents"])) < CLOSE
    assert largest_difference(said["encoded"], encoded) < CLOSE
    assert largest_difference(said["text"], text) < CLOSE
    assert said["width"].tolist() == [TOY_WORLD.latent_ratio, TOY_WORLD.latent_channels]
    assert bytes(said["encoder"].tolist()).decode() == TOY_WORLD.name
    assert said["sampled"].shape == (1, TOY_WORLD.latent_channels, 16, 16)
    assert said["sampled"].isfinite().all()


def answers_of(comfyui, folder, asked, base):
    """What ComfyUI says of the weights in a folder."""
    questions, answers = base / "questions.safetensors", base / "answers.safetensors"
    save_file(asked, questions)
    command = [comfyui.python, INSIDE / "toyworld_sizes_answers.py", comfyui.root, base, folder, questions, answers]
    done = subprocess.run(command, cwd=base, env=environment(base), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return load_file(answers)
