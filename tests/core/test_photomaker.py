"""PhotoMaker's file in both versions, and the network that makes version 2's identity tokens."""

import pytest
import torch
from story_identity.core.photomaker import (
    ENCODER_ID,
    ENCODER_ID_V2,
    IdentityPerceiver,
    encoder_id_of,
    encoder_shapes,
    perceiver_config,
    split_file,
    with_repeated_word,
)
from story_identity.core.state_dict import WeightFileError

from tests.closeness import assert_close, largest_difference
from tests.stand_ins.photomaker import FACE, TOKENS, WIDTH, id_encoder_weights_v2

ROOT = "qformer_perceiver."
WIDE = 40
LORA = {"unet.mid_block.attn1.to_q.lora_A.weight": torch.ones(2, 6)}
LORA |= {"unet.mid_block.attn1.to_q.lora_B.weight": torch.ones(6, 2)}


def encoder(heads=2, depth=3):
    weights = id_encoder_weights_v2(WIDE, hidden=23, heads=heads, depth=depth, side=28)
    return {key: value.float() for key, value in weights.items()}


def perceiver(weights):
    network = IdentityPerceiver(perceiver_config(weights))
    network.load_state_dict({key.removeprefix(ROOT): value for key, value in weights.items() if key.startswith(ROOT)})
    return network


def inputs(count=5):
    generator = torch.Generator().manual_seed(0)
    return 20 * torch.randn(count, FACE, generator=generator), torch.randn(count, 5, WIDTH, generator=generator)


def layer_norm(x, weights, name):
    scaled = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(x):
    return x * (1 + torch.erf(x / 2**0.5)) / 2


def written_out(weights, face, picture):
    """The tokens of one face and one picture, in double precision, step by step and head by head."""
    weights = {key.removeprefix(ROOT): value.double() for key, value in weights.items() if key.startswith(ROOT)}

    def linear(x, name):
        bias = weights.get(f"{name}.bias")
        return x @ weights[f"{name}.weight"].T + (0 if bias is None else bias)

    rows = linear(gelu(linear(face.double(), "token_proj.0")), "token_proj.2").view(TOKENS, WIDE)
    first = latents = layer_norm(rows, weights, "token_norm")
    seen = linear(picture.double(), "perceiver_resampler.proj_in")
    for layer in range(100):
        name = f"perceiver_resampler.layers.{layer}"
        if f"{name}.0.to_q.weight" not in weights:
            break
        keys, queries = layer_norm(seen, weights, f"{name}.0.norm1"), layer_norm(latents, weights, f"{name}.0.norm2")
        q = linear(queries, f"{name}.0.to_q")
        k, v = linear(torch.cat([keys, queries]), f"{name}.0.to_kv").chunk(2, dim=-1)
        heads = [
            torch.softmax(q[:, part] @ k[:, part].T / 128**0.5, dim=-1) @ v[:, part]
            for part in (slice(128 * head, 128 * head + 128) for head in range(q.shape[1] // 128))
        ]
        latents = latents + linear(torch.cat(heads, dim=-1), f"{name}.0.to_out")
        inner = gelu(linear(layer_norm(latents, weights, f"{name}.1.0"), f"{name}.1.1"))
        latents = latents + linear(inner, f"{name}.1.3")
    out = layer_norm(linear(latents, "perceiver_resampler.proj_out"), weights, "perceiver_resampler.norm_out")
    return (first + out).float()


def test_the_perceiver_is_the_formula_written_out():
    for heads, depth in ((2, 3), (1, 1)):
        weights = encoder(heads, depth)
        faces, pictures = inputs()
        with torch.no_grad():
            found = perceiver(weights)(faces, pictures)
        assert found.shape == (5, TOKENS, WIDE)
        for tokens, face, picture in zip(found, faces, pictures, strict=True):
            assert_close(tokens, written_out(weights, face, picture), 1e-5)


def test_each_picture_and_each_face_counts_for_its_own_tokens_only():
    network, (faces, pictures) = perceiver(encoder()), inputs()
    other_face, other_picture = faces.clone(), pictures.clone()
    other_face[1], other_picture[3] = other_face[1].roll(1), other_picture[3].roll(1, dims=-1)
    with torch.no_grad():
        before, after = network(faces, pictures), network(other_face, other_picture)
        unit = network(torch.nn.functional.normalize(faces, dim=-1), pictures)
    moved = [largest_difference(one, two) > 1e-3 for one, two in zip(before, after, strict=True)]
    assert moved == [False, True, False, True, False]
    assert all(largest_difference(one, two) > 1e-3 for one, two in zip(before, unit, strict=True))


def test_without_weights_in_the_last_layers_the_tokens_are_those_of_the_face():
    weights = encoder()
    for key in (f"{ROOT}perceiver_resampler.norm_out.weight", f"{ROOT}perceiver_resampler.norm_out.bias"):
        weights[key] = torch.zeros_like(weights[key])
    network, (faces, pictures) = perceiver(weights), inputs()
    with torch.no_grad():
        expected = network.token_norm(network.token_proj(faces).view(5, TOKENS, WIDE))
        assert torch.equal(network(faces, pictures), expected)


def test_the_sizes_are_read_from_the_file():
    config = perceiver_config(encoder())
    assert config is not None
    assert (config.face_width, config.tokens, config.hidden) == (FACE, TOKENS, 23)
    sizes = config.resampler
    assert (sizes.clip_width, sizes.width, sizes.heads, sizes.depth, sizes.head_width) == (WIDTH, WIDE, 2, 3, 128)


def test_both_versions_split_nested_and_flat_and_say_which_they_are():
    second = encoder()
    first = {key: value for key, value in second.items() if not key.startswith(ROOT)}
    for weights, version in ((first, ENCODER_ID), (second, ENCODER_ID_V2)):
        nested = {"id_encoder": weights, "lora_weights": LORA}
        flat = {f"{part}.{key}": value for part, held in nested.items() for key, value in held.items()}
        for content in (nested, flat):
            found, lora = split_file(content, "file")
            assert encoder_id_of(found) == version
            assert found.keys() == weights.keys() == encoder_shapes(weights, "file").keys()
            assert lora.keys() == LORA.keys()
        assert (perceiver_config(weights) is None) == (version == ENCODER_ID)
    assert ENCODER_ID != ENCODER_ID_V2


def changed(key, value=None):
    weights = encoder()
    assert (key in weights) or value is not None
    weights.pop(key, None)
    return weights if value is None else weights | {key: value}


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (changed(f"{ROOT}token_norm.weight"), r"lacks the tensor qformer_perceiver\.token_norm\.weight"),
        (changed(f"{ROOT}perceiver_resampler.layers.1.1.3.weight"), r"Missing: \"qformer_perceiver.*layers\.1\.1\.3"),
        (changed(f"{ROOT}more.weight", torch.ones(1)), r"PhotoMaker v2\. Not part of it: \"qformer_perceiver\.more"),
        (changed(f"{ROOT}token_proj.2.weight", torch.ones(81, 23)), "perceiver of PhotoMaker v2: the sizes"),
        (changed(f"{ROOT}perceiver_resampler.layers.0.0.to_q.weight", torch.ones(130, WIDE)), "attention 130 wide"),
        (changed("fuse_module.layer_norm.weight", torch.ones(41)), r"layer_norm.weight\" is .*41.*expected \(40,\)"),
        (changed(f"{ROOT}token_proj.0.weight", torch.ones(3)), "token_proj.0.weight in v2.bin is .* expected 2 axes"),
        (changed("visual_projection_2.weight"), "lacks the tensor visual_projection_2.weight"),
    ],
)
def test_another_layout_is_one_clear_error(weights, said):
    with pytest.raises(WeightFileError, match=said) as error:
        split_file({"id_encoder": weights, "lora_weights": LORA}, "v2.bin")
    assert "v2.bin" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_last_of_several_words_is_repeated():
    assert with_repeated_word("the space pilot waves", (4, 15), 1) == ("the space pilot waves", [(4, 15)])
    text, spans = with_repeated_word("the space pilot waves", (4, 15), 3)
    assert text == "the space pilot pilot pilot waves"
    assert [text[start:end] for start, end in spans] == ["space pilot", "pilot", "pilot"]
    assert [end for _, end in spans] == [15, 21, 27]
