"""Adapter files in the public layouts: told apart, checked, written, and placed in a model."""

import re

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from story_identity.core.adapter_file import adapter_of, number_layers, read_adapter, write_adapter
from story_identity.core.injector import AdapterConfig, Injector, ReferenceFeatures, ResamplerConfig

from tests.stand_ins.diffusers_models import with_ip_adapter
from tests.stand_ins.ip_adapters import CLIP, CROSS, FACE, LAYERS, flat, image_side, layer_side, lora_side, nested

NAMES = {
    "plus-face": "ip-adapter-plus-face_sd15",
    "FaceID": "ip-adapter-faceid_sd15",
    "FaceID-Plus": "ip-adapter-faceid-plus_sd15",
    "FaceID-Plus v2": "ip-adapter-faceid-plusv2_sd15",
}

SD15 = [("input", block, 0) for block in (1, 2, 4, 5, 7, 8)]
SD15 += [("middle", 0, 0)]
SD15 += [("output", block, 0) for block in range(3, 12)]
SDXL = [("input", block, i) for block, depth in ((4, 2), (5, 2), (7, 10), (8, 10)) for i in range(depth)]
SDXL += [("middle", 0, i) for i in range(10)]
SDXL += [("output", block, i) for block in range(6) for i in range(10 if block < 3 else 2)]
SD15_WIDTHS = {"input": {1: 320, 2: 320, 4: 640, 5: 640, 7: 1280, 8: 1280}, "middle": {0: 1280}}
SD15_WIDTHS["output"] = {block: (1280, 640, 320)[block // 3 - 1] for block in range(3, 12)}


def content(kind: str) -> dict[str, dict[str, torch.Tensor]]:
    return nested(kind.removesuffix(" v2"), lora=kind != "plus-face")


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# --- reading


@pytest.mark.parametrize("kind", NAMES)
def test_both_file_formats_give_the_same_adapter(kind, tmp_path):
    pickled, safe = (tmp_path / f"{NAMES[kind]}.{suffix}" for suffix in ("bin", "safetensors"))
    torch.save(content(kind), pickled)
    save_file(flat(content(kind)), safe)
    first, second = read_adapter(pickled), read_adapter(safe)
    assert first.config == second.config
    assert first.config.kind == kind
    assert same(first.weights, second.weights)
    assert same(first.lora, second.lora)
    assert same(first.weights, flat(nested(kind.removesuffix(" v2"))))
    assert same(first.lora, {} if kind == "plus-face" else lora_side())


def test_sizes_by_hand():
    found = {kind: adapter_of(content(kind), f"{name}.bin").config for kind, name in NAMES.items()}
    resampler = ResamplerConfig(clip_width=CLIP, width=96, heads=2, depth=4)
    assert found["plus-face"] == AdapterConfig(5, CROSS, LAYERS, resampler)
    assert found["FaceID"] == AdapterConfig(4, CROSS, LAYERS, face_width=FACE)
    assert found["FaceID-Plus"] == AdapterConfig(4, CROSS, LAYERS, ResamplerConfig(CLIP, CROSS, 1), FACE)
    assert found["FaceID-Plus v2"] == AdapterConfig(4, CROSS, LAYERS, ResamplerConfig(CLIP, CROSS, 1), FACE, True)


def test_networks_share_the_files_weights_and_dtype():
    half = {key: value.half() for key, value in flat(content("plus-face")).items()}
    injector = adapter_of(half, "plus-face.safetensors").injector()
    assert {value.dtype for value in injector.state_dict().values()} == {torch.float16}
    assert injector.image_proj.latents.data_ptr() == half["image_proj.latents"].data_ptr()


def test_networks_are_made_of_the_hosts_operations():
    class Counting:
        made = 0

        class Linear(torch.nn.Linear):
            def __init__(self, *sizes, **options):
                Counting.made += 1
                super().__init__(*sizes, **options)

        LayerNorm = torch.nn.LayerNorm

    adapter_of(content("FaceID-Plus"), "plus.bin").injector(Counting)
    assert Counting.made == 2 + 2 + 4 * 5 + 2 * len(LAYERS)


# --- what is refused


def changed(kind: str, part: str, key: str, value: torch.Tensor | None) -> dict[str, dict[str, torch.Tensor]]:
    """A file with one weight set, or taken away."""
    whole = content(kind)
    whole[part] = {each: weight for each, weight in whole[part].items() if each != key}
    if value is not None:
        whole[part][key] = value
    return whole


WRONG = {
    "no adapter": ({"conv.weight": torch.ones(1)}, '"x.bin" is not an IP-Adapter file: it has "conv.weight"'),
    "no layers": ({"image_proj": image_side("FaceID"), "ip_adapter": {}}, "is not an IP-Adapter file"),
    "plain": (changed("plus-face", "image_proj", "proj.weight", torch.ones(1)), "is a plain IP-Adapter"),
    "full face": (changed("FaceID", "image_proj", "proj.3.weight", torch.ones(1)), "is a full-face adapter"),
    "a list in place of layers": ({"image_proj": image_side("FaceID"), "ip_adapter": [1]}, "is not an IP-Adapter file"),
    "something besides": (content("FaceID") | {"epoch": 3}, '"x.bin" holds "epoch", which is no part of an IP-Adapter'),
    "no tensor": (
        changed("FaceID", "image_proj", "norm.bias", [1.0]),
        'plain tensors: "norm.bias" is no tensor',
    ),
    "whole numbers": (
        changed("FaceID", "image_proj", "norm.bias", torch.ones(CROSS, dtype=torch.int32)),
        r'Wrong shape: "image_proj.norm.bias" is \(64,\) of int32, expected \(64,\)',
    ),
    "no latents": (changed("plus-face", "image_proj", "latents", None), '"x.bin" lacks the tensor image_proj.latents'),
    "flat latents": (
        changed("plus-face", "image_proj", "latents", torch.ones(3)),
        r'image_proj.latents in "x.bin" is \(3,\) of float32, expected 3 axes',
    ),
    "a key too few": (
        changed("plus-face", "image_proj", "layers.2.0.to_kv.weight", None),
        'does not fit a plus-face adapter of 3 layers. Missing: "image_proj.layers.2.0.to_kv.weight".$',
    ),
    "a key too many": (
        changed("FaceID", "image_proj", "pos_emb.weight", torch.ones(1)),
        'does not fit a FaceID adapter of 3 layers. Not part of it: "image_proj.pos_emb.weight".$',
    ),
    "a layer out of line": (
        {"image_proj": image_side("FaceID"), "ip_adapter": {f"2{key}": value for key, value in layer_side().items()}},
        "lacks the tensor ip_adapter.1.to_k_ip.weight",
    ),
    "no values": (changed("FaceID", "ip_adapter", "3.to_v_ip.weight", None), 'Missing: "ip_adapter.3.to_v_ip.weight"'),
    "values of another width": (
        changed("FaceID", "ip_adapter", "3.to_v_ip.weight", torch.ones(47, CROSS)),
        r'Wrong shape: "ip_adapter.3.to_v_ip.weight" is \(47, 64\) of float32, expected \(48, 64\)',
    ),
    "layers for other prompts": (
        {"image_proj": image_side("FaceID"), "ip_adapter": layer_side(cross=96)},
        r'Wrong shape: "ip_adapter.1.to_k_ip.weight" is \(32, 96\) of float32, expected \(32, 64\)',
    ),
    "half a LoRA": (
        changed("FaceID", "ip_adapter", "4.to_out_lora.up.weight", None),
        'The LoRA in "x.bin" does not fit its adapter. Missing: "4.to_out_lora.up.weight".$',
    ),
    "a LoRA of another width": (
        changed("FaceID", "ip_adapter", "3.to_k_lora.down.weight", torch.ones(2, 48)),
        r'The LoRA in "x.bin" .* "3.to_k_lora.down.weight" is \(2, 48\) of float32, expected \(2, 64\)',
    ),
    "a LoRA of two ranks": (
        changed("FaceID", "ip_adapter", "3.to_k_lora.up.weight", torch.ones(48, 3)),
        r'The LoRA in "x.bin" .* "3.to_k_lora.up.weight" is \(48, 3\) of float32, expected \(48, 2\)',
    ),
    "heads of another width": (
        changed("plus-face", "image_proj", "layers.0.0.to_q.weight", torch.ones(100, 96)),
        r'Wrong shape: "image_proj.layers.0.0.to_',
    ),
    "a resampler of another width": (
        {
            "image_proj": image_side("FaceID")
            | {f"perceiver_resampler.{key}": value for key, value in image_side("plus-face").items()},
            "ip_adapter": layer_side(),
        },
        '"x.bin" does not fit an IP-Adapter of a known kind: .*The resampler of FaceID-Plus is 96 wide, its tokens 64',
    ),
}


@pytest.mark.parametrize(("whole", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_layout_is_refused_with_what_was_found_and_expected(whole, message):
    with pytest.raises(ValueError, match=message):
        adapter_of(whole, "x.bin")


@pytest.mark.parametrize("name", ["x.safetensors", "x.bin"])
def test_a_file_that_is_no_weights_is_refused(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no file .*{name}; an IP-Adapter file"):
        read_adapter(tmp_path / name)
    (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(ValueError, match=f"{name} cannot be read as weights: it is text.* An IP-Adapter file"):
        read_adapter(tmp_path / name)


def test_a_list_is_no_adapter(tmp_path):
    torch.save([torch.ones(3)], tmp_path / "x.bin")
    with pytest.raises(ValueError, match=r"x.bin cannot be read as weights: it holds a list, not tensors by name"):
        read_adapter(tmp_path / "x.bin")


def test_position_ids_of_old_files_are_left_out():
    ours = content("FaceID")
    old = content("FaceID")
    old["image_proj"]["embeddings.position_ids"] = torch.arange(5)
    assert same(adapter_of(old, "x.bin").weights, adapter_of(ours, "x.bin").weights)


# --- writing


@pytest.mark.parametrize("kind", NAMES)
def test_what_is_written_is_a_public_file_and_reads_back(kind, tmp_path):
    path = tmp_path / f"{NAMES[kind]}.safetensors"
    adapter = adapter_of(content(kind), path.name)
    write_adapter(path, adapter.injector())
    assert same(load_file(path), flat(nested(kind.removesuffix(" v2"))))
    again = read_adapter(path)
    assert again.config == adapter.config
    generator = torch.Generator().manual_seed(0)
    clip, face = (torch.randn(shape, generator=generator) for shape in ((2, 9, CLIP), (2, FACE)))
    seen = ReferenceFeatures(clip, clip[:1] * 0, face)
    for one, other in zip(*(each.injector().identity_tokens(seen) for each in (adapter, again)), strict=True):
        assert torch.equal(one, other)


def test_a_new_adapter_is_written_as_a_public_file(tmp_path):
    """What a trainer starts from: sizes, random weights."""
    config = AdapterConfig(5, CROSS, LAYERS, ResamplerConfig(CLIP, 96, 2))
    write_adapter(tmp_path / "new.safetensors", Injector(config))
    found = read_adapter(tmp_path / "new.safetensors")
    assert found.config == config
    assert {key: value.shape for key, value in found.weights.items()} == {
        key: value.shape for key, value in flat(nested("plus-face")).items()
    }


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("plus-face", "a.bin", 'written as .safetensors, not as "a.bin"'),
        ("FaceID-Plus v2", "a.safetensors", 'this is FaceID-Plus v2, and the name is "a.safetensors"'),
        ("FaceID-Plus", "a-plusv2.safetensors", "this is FaceID-Plus, and"),
    ],
)
def test_a_name_that_would_be_misread_is_refused(kind, name, message, tmp_path):
    injector = adapter_of(content(kind), NAMES[kind]).injector()
    with pytest.raises(ValueError, match=message):
        write_adapter(tmp_path / name, injector)
    assert not list(tmp_path.iterdir())


# --- layers


def test_layers_of_sd15_are_numbered_down_up_middle():
    """The published table, line by line."""
    numbers = number_layers(SD15)
    assert [layer for layer, _ in sorted(numbers.items(), key=lambda each: each[1])] == [
        ("input", 1, 0), ("input", 2, 0), ("input", 4, 0), ("input", 5, 0), ("input", 7, 0), ("input", 8, 0),
        ("output", 3, 0), ("output", 4, 0), ("output", 5, 0), ("output", 6, 0), ("output", 7, 0), ("output", 8, 0),
        ("output", 9, 0), ("output", 10, 0), ("output", 11, 0), ("middle", 0, 0),
    ]  # fmt: skip
    assert sorted(numbers.values()) == list(range(1, 32, 2))


def test_layers_of_sdxl_are_numbered_down_up_middle():
    numbers = number_layers(SDXL)
    assert len(numbers) == 70
    assert sorted(numbers.values()) == list(range(1, 140, 2))
    landmarks = {
        ("input", 4, 0): 0, ("input", 5, 1): 3, ("input", 7, 0): 4, ("input", 8, 9): 23, ("output", 0, 0): 24,
        ("output", 2, 9): 53, ("output", 3, 0): 54, ("output", 5, 1): 59, ("middle", 0, 0): 60, ("middle", 0, 9): 69,
    }  # fmt: skip
    assert {layer: numbers[layer] // 2 for layer in landmarks} == landmarks


def test_the_order_in_which_layers_are_given_does_not_matter():
    assert number_layers(reversed(SDXL)) == number_layers(SDXL)


def unet(family: str) -> UNet2DConditionModel:
    """diffusers' own network with the published arrangement of layers and next to no channels."""
    common = {"cross_attention_dim": CROSS, "norm_num_groups": 2, "attention_head_dim": 2}
    if family == "SD1.5":
        return UNet2DConditionModel(block_out_channels=(4, 4, 4, 4), **common)
    return UNet2DConditionModel(
        block_out_channels=(4, 4, 4),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        **common,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("family", "layers"), [("SD1.5", SD15), ("SDXL", SDXL)])
def test_the_lora_goes_where_diffusers_puts_it(family, layers):
    """FaceID's LoRA of every attention layer, compared with the one that diffusers puts on its network."""
    widths = [4] * len(layers)
    lora = lora_side(widths, cross=CROSS)
    whole = {"image_proj": image_side("FaceID"), "ip_adapter": layer_side(widths) | lora}
    loaded = with_ip_adapter(unet(family), whole).state_dict()
    theirs = {key: tensor for key, tensor in loaded.items() if ".lora_" in key}
    ours = adapter_of(whole, "faceid.bin").host_lora(layers)
    assert len(ours) == len(theirs) == 16 * len(layers)
    for key, tensor in theirs.items():
        stem, part = re.fullmatch(r"(.+)\.lora_([AB])\.\w+\.weight", key).groups()
        part = {"A": "down", "B": "up"}[part]
        assert torch.equal(ours[f"lora_unet_{stem.replace('.', '_')}.lora_{part}.weight"], tensor)


def test_a_file_without_a_lora_has_none_for_the_host():
    assert adapter_of(content("plus-face"), "x.bin").host_lora(SD15) == {}


def sd15_adapter(widths: dict[int, int] | None = None):
    """An adapter of SD1.5's real widths, layers in the published order; `widths` replaces some, by index."""
    published = [320] * 2 + [640] * 2 + [1280] * 5 + [640] * 3 + [320] * 3 + [1280]
    for index, width in (widths or {}).items():
        published[index] = width
    return adapter_of({"image_proj": image_side("FaceID"), "ip_adapter": layer_side(published)}, "x.bin")


def model_widths() -> dict[tuple[str, int, int], int]:
    return {(side, block, i): SD15_WIDTHS[side][block] for side, block, i in SD15}


def test_an_adapter_of_the_right_widths_finds_its_places():
    assert sd15_adapter().place(model_widths(), CROSS) == number_layers(SD15)


@pytest.mark.parametrize(
    ("widths", "cross", "message"),
    [
        ({}, 2048, "prompts that are 64 wide; this model reads 2048, as SDXL's are"),
        (
            {9: 320},
            CROSS,
            r"ip_adapter.19 in \"x.bin\" is 320 wide; it belongs to output block 6, .* 640 wide",
        ),
        ({15: 640}, CROSS, "ip_adapter.31 .* is 640 wide; it belongs to middle block 0, transformer 0, .* 1280 wide"),
    ],
)
def test_an_adapter_of_another_model_is_refused(widths, cross, message):
    with pytest.raises(ValueError, match=message):
        sd15_adapter(widths).place(model_widths(), cross)


def test_an_adapter_with_another_number_of_layers_is_refused():
    with pytest.raises(ValueError, match="made for 3 cross-attention layers; this model has 16"):
        adapter_of(content("FaceID"), "x.bin").place(model_widths(), CROSS)
