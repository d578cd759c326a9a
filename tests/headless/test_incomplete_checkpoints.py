"""A checkpoint that is not whole is refused by file and tensor; diffusers would fill its gaps with random numbers."""

import json
import random
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from story_identity.headless.checkpoint import load_checkpoint, merge_lora
from story_identity.headless.components import load_network
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from tests.closeness import assert_close
from tests.stand_ins.diffusers_models import write_lora, write_single_file

PARTS = {"sd15": ("unet", "vae", "text_encoder"), "sdxl": ("unet", "vae", "text_encoder", "text_encoder_2")}
COMPONENTS = [(family, part) for family, parts in PARTS.items() for part in parts]
CHANGES = {
    "missing": lambda tensors, key: tensors.pop(key),
    "misnamed": lambda tensors, key: tensors.update({f"{key}x": tensors.pop(key)}),
    "too many": lambda tensors, key: tensors.update({f"{key}x": tensors[key].clone()}),
    "another shape": lambda tensors, key: tensors.update({key: tensors[key][:-1].contiguous()}),
    "whole numbers": lambda tensors, key: tensors.update({key: tensors[key].to(torch.int32)}),
}


@pytest.fixture
def copy(request, tmp_path):
    """A copy of a family's folder that a test may damage."""

    def make(family):
        shutil.copytree(request.getfixturevalue(f"{family}_folder"), tmp_path / "copy")
        return tmp_path / "copy"

    return make


def weights_of(folder):
    (path,) = folder.glob("*.safetensors")
    return path, load_file(path)


def keys_of(tensors, count, seed):
    return random.Random(seed).sample(sorted(tensors), count)


@pytest.mark.parametrize(("family", "part"), COMPONENTS)
def test_a_folder_with_a_part_that_is_not_whole_is_refused(copy, family, part):
    folder = copy(family)
    path, whole = weights_of(folder / part)
    for (name, change), key in zip(CHANGES.items(), keys_of(whole, len(CHANGES), part), strict=True):
        tensors = dict(whole)
        change(tensors, key)
        save_file(tensors, path, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=f"copy/{part}") as caught:
            load_checkpoint(str(folder))
        assert key.removeprefix("text_model.") in str(caught.value), name
        if name != "another shape":  # which diffusers itself refuses, without the file
            assert path.name in str(caught.value), name
    save_file(whole, path, metadata={"format": "pt"})
    load_checkpoint(str(folder))


def test_position_ids_of_old_text_encoders_are_left_out(copy, sd15):
    folder = copy("sd15")
    path, tensors = weights_of(folder / "text_encoder")
    save_file({**tensors, "text_model.embeddings.position_ids": torch.arange(77)[None]}, path, {"format": "pt"})
    loaded = load_checkpoint(str(folder)).text_encoder.state_dict()
    expected = sd15.text_encoder.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.items())


def test_a_part_in_several_files_or_in_a_pickle_is_read_and_checked(copy, sd15):
    folder = copy("sd15")
    path, tensors = weights_of(folder / "unet")
    keys = sorted(tensors)
    shards = {"one.safetensors": keys[::2], "two.safetensors": keys[1::2]}
    for name, held in shards.items():
        save_file({key: tensors[key] for key in held}, path.parent / name, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {key: name for name, held in shards.items() for key in held}}
    (path.parent / f"{path.name}.index.json").write_text(json.dumps(index))
    path.unlink()
    text, encoder = weights_of(folder / "text_encoder")
    torch.save(encoder, text.parent / "pytorch_model.bin")
    text.unlink()
    loaded = load_checkpoint(str(folder))
    for part in ("unet", "text_encoder"):
        expected = getattr(sd15, part).state_dict()
        assert all(torch.equal(each, expected[key]) for key, each in getattr(loaded, part).state_dict().items())
    lost = sorted(encoder)[5]
    torch.save({key: value for key, value in encoder.items() if key != lost}, text.parent / "pytorch_model.bin")
    with pytest.raises(ValueError, match=rf"text_encoder \(pytorch_model.bin\) .*{lost.removeprefix('text_model.')}"):
        load_checkpoint(str(folder))
    del tensors[keys[0]]
    save_file({key: tensors[key] for key in keys[2::2]}, path.parent / "one.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"unet/one.safetensors does not fit the index.* Missing: .{keys[0]}"):
        load_checkpoint(str(folder))


DAMAGED = {
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "a Git LFS pointer"),
    "empty": (b"", "it is empty"),
    "web page": (b"<!DOCTYPE html><html>404</html>", "it is a web page"),
    "text": (b"not found", "it is text"),
    "PyTorch": (b"PK\x03\x04 and so on", "it is a PyTorch file under another ending"),
    "noise": (bytes(range(256)), "its beginning is damaged"),
    "cut": (None, "it is cut off"),
}


@pytest.mark.parametrize(("content", "found"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_of_a_part_is_named_with_what_it_is(copy, content, found):
    folder = copy("sd15")
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(ValueError, match=rf"vae/{path.name} cannot be read as weights.*{found}"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model_index.json", "{", "model_index.json is not JSON"),
        ("model_index.json", "[" * 100_000, "model_index.json is not JSON"),
        ("model_index.json", "[1]", "model_index.json holds \\[1\\]"),
        ("model_index.json", '{"_class_name": ["x"]}', "supported are StableDiffusionPipeline"),
        ("model_index.json", '{"_class_name": "StableDiffusionPipeline"}', "says that the unet is None"),
        (
            "model_index.json",
            '{"_class_name": "StableDiffusionPipeline", "unet": ["os", "system"]}',
            'says that the unet is .*"?os',
        ),
        (
            "model_index.json",
            '{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "logging"]}',
            "says that the unet is",
        ),
        ("unet/config.json", "{", "copy/unet"),
        ("unet/config.json", '{"block_out_channels": "x"}', "copy/unet"),
        ("unet/config.json", None, "no unet/config.json"),
        ("text_encoder/config.json", '{"hidden_size": -3}', "copy/text_encoder"),
        ("vae/diffusion_pytorch_model.safetensors", None, "copy/vae"),
        ("tokenizer/tokenizer.json", "{", "copy"),
        ("tokenizer/tokenizer_config.json", "[1]", "copy"),
        ("scheduler/scheduler_config.json", "[1]", "copy"),
        ("scheduler/scheduler_config.json", None, "copy"),
    ],
)
def test_other_damaged_files_of_a_folder_are_named(copy, file, content, message):
    folder = copy("sd15")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_checkpoint(str(folder))


@pytest.mark.slow
@pytest.mark.parametrize("family", PARTS)
def test_a_single_file_that_is_not_whole_is_refused(request, tmp_path, family):
    pipe, folder = request.getfixturevalue(family), request.getfixturevalue(f"{family}_folder")
    path = write_single_file(tmp_path / "model.safetensors", pipe)
    whole = load_file(path)
    prefixes = ["model.diffusion_model.", "first_stage_model."]
    prefixes += ["cond_stage_model."] if family == "sd15" else ["conditioner.embedders.0.", "conditioner.embedders.1."]
    for prefix in prefixes:
        held = sorted(key for key in whole if key.startswith(prefix))
        for (name, change), key in zip(CHANGES.items(), keys_of(held, len(CHANGES), prefix), strict=True):
            tensors = dict(whole)
            change(tensors, key)
            save_file(tensors, path)
            with pytest.raises(ValueError, match=r"model\.safetensors does not fit the \w+ of the config"):
                load_checkpoint(str(path), config=folder)
            if name == "too many":
                with pytest.raises(ValueError, match="Not part of it"):
                    load_checkpoint(str(path), config=folder)


@pytest.mark.parametrize("family", PARTS)
def test_what_trainers_leave_in_a_single_file_does_not_matter(request, tmp_path, family):
    pipe, folder = request.getfixturevalue(family), request.getfixturevalue(f"{family}_folder")
    path = write_single_file(tmp_path / "model.safetensors", pipe)
    root = "cond_stage_model" if family == "sd15" else "conditioner.embedders.0"
    besides = {
        f"{root}.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
        "conditioner.embedders.1.model.logit_scale": torch.ones(()),
        "model_ema.decay": torch.ones(()),
        "first_stage_model.loss.logvar": torch.ones(()),
        "alphas_cumprod": torch.ones(1000),
        "denoiser.sigmas": torch.ones(1000),
    }
    if family == "sd15":
        del besides["conditioner.embedders.1.model.logit_scale"]
    save_file(load_file(path) | besides, path)
    loaded = load_checkpoint(str(path), config=folder)
    for part in PARTS[family]:
        expected = getattr(pipe, part).state_dict()
        found = getattr(loaded, part).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(value, expected[key]) for key, value in found.items()), part


def test_pickles_that_are_no_checkpoint_are_refused(tmp_path, sd15_folder):
    turning: dict = {"a": torch.ones(1)}
    turning["state_dict"] = turning
    for content, message in (
        ([1, 2], "it holds a list, not tensors by name"),
        ({"state_dict": [1]}, "it holds a list, not tensors by name"),
        ({3: torch.ones(1)}, "3 is no name of a tensor"),
        ({}, "neither an SD1.5 nor an SDXL checkpoint: it has no tensors"),
        (turning, "neither an SD1.5 nor an SDXL checkpoint"),
        ({"cond_stage_model.transformer.x": 3}, "does not fit the unet"),
    ):
        torch.save(content, tmp_path / "model.ckpt")
        with pytest.raises(ValueError, match=f"model.ckpt .*{message}"):
            load_checkpoint(str(tmp_path / "model.ckpt"), config=sd15_folder)


def test_what_is_no_tensor_in_a_single_file_counts_as_missing(tmp_path, sd15, sd15_folder):
    path = write_single_file(tmp_path / "model.ckpt", sd15)
    whole = torch.load(path, weights_only=True)["state_dict"]
    for key in ("model.diffusion_model.out.0.bias", "cond_stage_model.transformer.text_model.final_layer_norm.bias"):
        torch.save({"state_dict": {**whole, key: (1, 2)}}, path)
        with pytest.raises(ValueError, match=r"model\.ckpt does not fit .*Missing: .*norm"):
            load_checkpoint(str(path), config=sd15_folder)


# --- LoRAs


def kohya(lora):
    """The same LoRA under the names of kohya's trainer."""
    renamed = {}
    for key, value in lora.items():
        layer, _, half = key.removesuffix(".weight").rpartition(".lora_")
        stem = f"lora_unet_{layer.removeprefix('unet.').replace('.', '_')}"
        renamed[f"{stem}.lora_{ {'A': 'down', 'B': 'up'}[half] }.weight"] = value
        renamed[f"{stem}.alpha"] = torch.tensor(2.0)
    return renamed


@pytest.mark.slow
@pytest.mark.parametrize("form", ["peft", "kohya"])
@pytest.mark.parametrize("half", [0, 1])
def test_a_lora_that_lacks_a_matrix_or_has_it_elsewhere_is_refused(tmp_path, sd15_folder, sd15, form, half):
    path = write_lora(tmp_path / "style.safetensors", sd15.unet)
    whole = load_file(path) if form == "peft" else kohya(load_file(path))
    key = sorted(key for key in whole if key.endswith(".weight"))[2 + half]
    pipe = load_checkpoint(str(sd15_folder))
    merge_lora(pipe, save(whole, path), 0.5)
    for name, change in CHANGES.items():
        changed = dict(whole)
        change(changed, key)
        pipe = load_checkpoint(str(sd15_folder))
        with pytest.raises(ValueError, match=r"style\.safetensors"):
            merge_lora(pipe, save(changed, path), 0.5)
        assert not any("lora" in each for each in pipe.unet.state_dict()), name


def save(tensors, path):
    save_file(tensors, path)
    return path


def test_a_lora_for_a_layer_or_part_that_is_not_there_is_refused(tmp_path, sd15_folder, sd15):
    path = write_lora(tmp_path / "style.safetensors", sd15.unet)
    whole, pipe = load_file(path), load_checkpoint(str(sd15_folder))
    for stem in (
        "unet.down_blocks.9.attentions.0.transformer_blocks.0.attn1.to_q",
        "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj",
        "text_encoder.text_model.encoder.layers.9.self_attn.q_proj",
    ):
        besides = {f"{stem}.lora_A.weight": torch.ones(2, 32), f"{stem}.lora_B.weight": torch.ones(32, 2)}
        with pytest.raises(ValueError, match=r"style\.safetensors"):
            merge_lora(pipe, save(whole | besides, path), 1.0)
        pipe = load_checkpoint(str(sd15_folder))


def test_a_lora_with_a_text_encoder_part_is_merged_into_both(tmp_path, sd15_folder, sd15):
    path = write_lora(tmp_path / "style.safetensors", sd15.unet)
    stem = "text_encoder.text_model.encoder.layers.1.self_attn.q_proj"
    down, up = torch.randn(2, 32), torch.randn(32, 2)
    pipe = load_checkpoint(str(sd15_folder))
    merge_lora(pipe, save(load_file(path) | {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}, path), 0.5)
    name = stem.removeprefix("text_encoder.") + ".weight"
    before, after = (each.text_encoder.state_dict() for each in (sd15, pipe))
    name = name if name in before else name.removeprefix("text_model.")
    assert_close(after[name], before[name] + 0.5 * up @ down)


# --- image encoders


def test_an_image_encoder_that_is_not_whole_is_refused(tmp_path):
    sizes = {"hidden_size": 20, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = CLIPVisionConfig(**sizes, patch_size=7, image_size=28)
    CLIPVisionModelWithProjection(config).save_pretrained(tmp_path)
    path, whole = weights_of(tmp_path)
    for (name, change), key in zip(CHANGES.items(), keys_of(whole, len(CHANGES), 0), strict=True):
        tensors = dict(whole)
        change(tensors, key)
        save_file(tensors, path, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=r"model\.safetensors") as caught:
            load_network(CLIPVisionModelWithProjection, tmp_path, "CLIP's image encoder")
        assert key.removeprefix("vision_model.") in str(caught.value), name


def test_the_text_side_of_a_whole_clip_is_left_out(tmp_path):
    from story_identity.headless.reference_faces import load_reader

    sizes = {"hidden_size": 20, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes, patch_size=7, image_size=28)).save_pretrained(tmp_path)
    path, whole = weights_of(tmp_path)
    text = {"text_model.x": torch.ones(1), "text_projection.weight": torch.ones(1), "logit_scale": torch.ones(())}
    save_file(whole | text, path, metadata={"format": "pt"})
    assert load_reader(str(tmp_path)).clip_width == 20
    save_file(whole | {"other.x": torch.ones(1)}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="Not part of it: .other.x"):
        load_reader(str(tmp_path))
