"""The transformer's tensors against diffusers' own network, and the scale of its latents and times."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from story_identity.core.reference_words import with_reference
from story_identity.core.toyworld.flux_layout import shapes_of, to_diffusers, to_published
from story_identity.core.toyworld.transformer import (
    LATENT_SCALE,
    TIME_LOCATION,
    TRANSFORMER,
    TransformerSizes,
    check_channels,
    to_model_scale,
    to_vae_scale,
    transformer_vocabulary,
    transformer_weights,
)
from story_identity.core.toyworld.vocabulary import UNKNOWN, tokenize, vocabulary
from story_identity.headless.toy_transformer import new_transformer

from tests.closeness import assert_close
from tests.stand_ins.toy_transformer import make_random_transformer

SMALL = TransformerSizes(width=128, double_blocks=2, single_blocks=1, context=24, pooled=12)
LARGEST = 16 * 10**6


@pytest.mark.parametrize("sizes", [TRANSFORMER, SMALL])
def test_the_tensors_are_diffusers_and_come_back_from_their_published_names(sizes):
    state = new_transformer(sizes).state_dict()
    published = to_published(state, sizes.layers())
    assert {key: tuple(each.shape) for key, each in published.items()} == shapes_of(sizes.layers())
    back = to_diffusers(published, sizes.layers())
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], each) for key, each in state.items())


def test_some_published_names_and_what_they_hold():
    """As in the files of Flux.1: one matrix for queries, keys, values; shift before scale in the last modulation."""
    state = new_transformer(SMALL).state_dict()
    published = to_published(state, SMALL.layers())
    assert torch.equal(
        published["double_blocks.1.txt_attn.qkv.weight"][128:256], state["transformer_blocks.1.attn.add_k_proj.weight"]
    )
    assert torch.equal(
        published["single_blocks.0.linear1.bias"][384:], state["single_transformer_blocks.0.proj_mlp.bias"]
    )
    assert torch.equal(published["final_layer.adaLN_modulation.1.bias"][:128], state["norm_out.linear.bias"][128:])
    assert torch.equal(
        published["double_blocks.0.img_attn.norm.key_norm.scale"], state["transformer_blocks.0.attn.norm_k.weight"]
    )


def test_the_file_is_small():
    assert 2 * sum(math.prod(shape) for shape in shapes_of(TRANSFORMER.layers()).values()) < LARGEST


@pytest.mark.parametrize(
    ("sizes", "said"),
    [({"width": 192}, "multiple of 128"), ({"width": 0}, "width is 0"), ({"single_blocks": 0}, "at least one of each")],
)
def test_sizes_that_the_family_has_not_are_refused(sizes, said):
    with pytest.raises(ValueError, match=said):
        TransformerSizes(**sizes)


def test_files_with_other_tensors_are_refused_by_name(tmp_path):
    folder = make_random_transformer(tmp_path, sizes=SMALL)
    path = folder / "transformer.safetensors"
    whole = load_file(path)
    assert transformer_weights(folder, SMALL).keys() == whole.keys()
    for key in sorted(whole)[2::20]:
        rest = {each: value for each, value in whole.items() if each != key}
        changes = (rest, {**rest, f"{key}x": whole[key]}, {**rest, key: whole[key][:-1].contiguous()})
        for changed in (*changes, {**rest, key: whole[key].int()}):
            save_file(changed, path)
            with pytest.raises(ValueError, match=rf"transformer\.safetensors.*{key}"):
                transformer_weights(folder, SMALL)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="transformer is missing"):
        transformer_weights(folder)


def test_latents_have_the_familys_scale():
    latents = torch.tensor([0.1159, 1.1159, -2.0]).view(3, 1, 1, 1)
    assert_close(to_model_scale(latents).flatten(), [0.0, 0.3611, -2.1159 * 0.3611])
    assert_close(to_vae_scale(to_model_scale(latents)), latents)
    middle = torch.sigmoid(torch.tensor(TIME_LOCATION))
    assert_close((1 - middle) * LATENT_SCALE, middle)  # noise and latents of deviation 1 are as strong


def test_latents_of_another_vae_are_refused():
    check_channels(16)
    with pytest.raises(ValueError, match="16 channels.*gives 8"):
        check_channels(8)


def test_its_words_begin_with_the_worlds_and_know_references():
    words = transformer_vocabulary()
    assert words[: len(vocabulary())] == vocabulary()
    assert len(set(words)) == len(words)
    prompt = "a woman with red hair waves"
    for count in (1, 2, 3, 4):
        told = with_reference(prompt, (2, 7), "a woman with red hair", count)
        assert words.index(UNKNOWN) not in tokenize(told, 40, words)
        assert vocabulary().index(UNKNOWN) in tokenize(told, 40)
    assert tokenize(prompt, 40, words) == tokenize(prompt, 40)
