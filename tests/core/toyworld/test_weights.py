"""The weights that come with the package: each has its card, all stay small, and the synchronizers do something."""

import json

import pytest
import torch
from safetensors.torch import load_file
from story_identity.core.toyworld import models
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.headless.checkpoint import merge_lora
from story_identity.headless.toyworld_pipeline import load_toyworld
from story_identity.lab.toyworld.weight_files import LAB_WEIGHTS, weight_file

from tests.closeness import largest_difference

NAMES = {
    path: path.relative_to(folder).with_suffix("").as_posix()
    for folder in (models.WEIGHTS, LAB_WEIGHTS)
    for path in folder.rglob("*.safetensors")
}
FILES = sorted(NAMES, key=NAMES.__getitem__)
LARGEST, ALTOGETHER = 16 * 2**20, 32 * 2**20
"""Bytes of a file, and of all that belongs to the UNet; the transformer with its text encoder comes on top."""


def test_every_file_has_its_card_and_all_of_them_stay_small():
    cards = json.loads((models.WEIGHTS / "card.json").read_text(encoding="utf-8")).values()
    told = {name for card in cards for name in card["files"]}
    assert told == set(NAMES.values())
    assert all(card["command"] and "Apache-2.0" in card["licence"] for card in cards)
    sizes = {name: path.stat().st_size for path, name in NAMES.items()}
    assert max(sizes.values()) < LARGEST
    assert sum(size for name, size in sizes.items() if not name.startswith("transformer/")) < ALTOGETHER


@pytest.mark.parametrize("path", FILES, ids=NAMES.__getitem__)
def test_weights_are_finite_and_stored_in_half_precision(path):
    weights = load_file(path).values()
    assert {each.dtype for each in weights if each.is_floating_point()} == {torch.float16}
    assert all(each.isfinite().all() for each in weights)


@pytest.mark.parametrize("name", ["synchronizer", "synchronizer_without_mask_loss"])
@torch.no_grad()
def test_the_synchronizers_change_the_unet(name):
    pipe = load_toyworld()
    random = torch.Generator().manual_seed(1)
    latents = torch.randn(1, TOY_WORLD.latent_channels, 16, 16, generator=random)
    question = latents, 600, torch.randn(1, TOY_WORLD.text_length, TOY_WORLD.text_width, generator=random)
    before = pipe.unet(*question).sample
    merge_lora(pipe, weight_file(name), 1.0)
    after = pipe.unet(*question).sample
    assert largest_difference(after, before) > 1e-2
    assert torch.nn.functional.cosine_similarity(after.flatten(), before.flatten(), dim=0) > 0.5
