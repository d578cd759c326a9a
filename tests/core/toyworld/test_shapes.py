"""The UNet's tensors against diffusers' own network, and the package's weights against all networks."""

import random
import re

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from story_identity.core.adapter_file import adapter_of
from story_identity.core.lora_file import check_lora
from story_identity.core.photomaker import split_file
from story_identity.core.toyworld import models
from story_identity.core.toyworld.detector import load_detector
from story_identity.core.toyworld.identity_encoder import load_identity_encoder
from story_identity.core.toyworld.shapes import unet_shapes
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.core.toyworld.vae import load_vae
from story_identity.headless.components import layer_shapes
from story_identity.headless.toyworld_pipeline import load_toyworld
from story_identity.lab.toyworld.ldm_keys import unet_to_ldm
from story_identity.lab.toyworld.probe import load_probe
from story_identity.lab.toyworld.weight_files import weight_file

LOADERS = {
    "unet": models.unet_weights,
    "text_encoder": models.text_encoder_weights,
    "vae": load_vae,
    "detector": load_detector,
    "identity_encoder": load_identity_encoder,
    "probe": load_probe,
    "photomaker": lambda folder: load_photomaker_parts(folder),
    "injector": lambda folder: adapter_of(models.load_weights("injector", folder), "injector.safetensors"),
}


def load_photomaker_parts(folder):
    with torch.device("meta"):
        layers = layer_shapes(UNet2DConditionModel(**TOY_WORLD.unet))
    _, lora = split_file(models.load_weights("photomaker", folder), "photomaker.safetensors")
    check_lora(lora, layers, "photomaker.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layers_per_block": 2},
        {
            "block_out_channels": (32, 64, 64),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
        },
    ],
)
def test_the_unets_tensors_are_diffusers(changes):
    config = {**TOY_WORLD.unet, **changes}
    with torch.device("meta"):
        expected = unet_to_ldm(UNet2DConditionModel(**config).state_dict())
    assert unet_shapes(config) == {key: tuple(value.shape) for key, value in expected.items()}


@pytest.mark.parametrize("name", LOADERS)
def test_every_tensor_that_is_misnamed_missing_or_of_another_kind_is_refused_by_name(name, tmp_path):
    whole = load_file(weight_file(name))
    path = tmp_path / f"{name}.safetensors"
    save_file(whole, path)
    LOADERS[name](tmp_path)
    for number, key in enumerate(random.Random(name).sample(sorted(whole), 24)):
        value = whole[key]
        rest = {each: other for each, other in whole.items() if each != key}
        changed = (
            {**rest, f"{key}x": value},
            rest,
            {**rest, key: value[:-1].contiguous()},
            {**rest, key: value.to(torch.int16)},
        )[number % 4]
        save_file(changed, path)
        with pytest.raises(ValueError, match=rf"{name}\.safetensors") as caught:
            LOADERS[name](tmp_path)
        part = key.removeprefix("id_encoder.").removeprefix("lora_weights.unet.").partition(".lora_")[0]
        if number % 4 != 2:  # where sizes are read from the tensor, the others are the odd ones out
            assert part in str(caught.value)


def test_a_tensor_too_many_is_refused(tmp_path):
    for name in LOADERS:
        save_file(
            load_file(weight_file(name)) | {"besides": torch.ones(1)},
            tmp_path / f"{name}.safetensors",
        )
        with pytest.raises(ValueError, match=rf'{name}\.safetensors"? .*"besides"'):
            LOADERS[name](tmp_path)


@pytest.mark.parametrize(
    ("file", "content"), [("tokenizer.json", "{"), ("tokenizer.json", "[" * 100_000), ("tokenizer_config.json", "[1]")]
)
def test_a_damaged_tokenizer_is_named(tmp_path, file, content):
    for path in models.WEIGHTS.rglob("*"):
        if path.is_file() and re.match("unet|vae|text_enc|tokenizer", path.name):
            copy = tmp_path / path.relative_to(models.WEIGHTS)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(path.read_bytes())
    load_toyworld(tmp_path)
    (tmp_path / "tokenizer" / file).write_text(content)
    with pytest.raises(ValueError, match="tokenizer cannot be loaded as the toy world's tokenizer"):
        load_toyworld(tmp_path)
    (tmp_path / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no .*tokenizer\.json"):
        load_toyworld(tmp_path)
