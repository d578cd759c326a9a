"""PhotoMaker: what it makes of pictures and prompts, and a LoRA that is there only when asked for."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from story_identity.core.photomaker import FuseModule, look_at, split_file
from story_identity.headless.checkpoint import load_checkpoint
from story_identity.headless.identity_generator import identity_generator, load_photomaker
from story_identity.headless.prompts import encode_prompt

from tests.closeness import assert_close, largest_difference


def pictures(count, height=64, width=64, seed=0):
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed))


def prediction(pipe):
    generator = torch.Generator().manual_seed(5)
    latent, text = (torch.randn(shape, generator=generator) for shape in ((2, 8, 16, 16), (2, 40, 128)))
    with torch.no_grad():
        return pipe.unet(latent, 321, encoder_hidden_states=text).sample


def test_the_lora_is_on_inside_and_off_outside_bit_for_bit(generator, pipe):
    with_lora, _ = generator
    base = prediction(pipe)
    assert torch.equal(prediction(with_lora), base)
    with identity_generator(with_lora):
        assert largest_difference(prediction(with_lora), base) > 1e-3
    assert torch.equal(prediction(with_lora), base)


def test_the_lora_is_off_again_after_an_error(generator, pipe):
    def fail():
        with identity_generator(generator[0]):
            raise KeyError

    pytest.raises(KeyError, fail)
    assert torch.equal(prediction(generator[0]), prediction(pipe))


def test_the_lora_is_what_adding_its_product_to_the_weights_gives(generator, toyworld_folder):
    merged = load_checkpoint(str(toyworld_folder))
    lora = load_file(toyworld_folder / "photomaker.safetensors")
    changed = 0
    for name, weight in merged.unet.named_parameters():
        stem = f"lora_weights.unet.{name.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" in lora:
            weight.data += lora[f"{stem}.lora_B.weight"].float() @ lora[f"{stem}.lora_A.weight"].float()
            changed += 1
    assert changed == len([key for key in lora if key.endswith("lora_A.weight")]) > 0
    with identity_generator(generator[0]):
        assert_close(prediction(generator[0]), prediction(merged))


def test_an_embedding_does_not_depend_on_its_batch_and_tells_pictures_apart(generator):
    _, photomaker = generator
    together = photomaker.embed(pictures(5))
    alone = torch.cat([photomaker.embed(each[None]) for each in pictures(5)])
    assert together.shape == (5, photomaker.width)
    assert_close(together, alone)
    assert largest_difference(together[0], together[1]) > 1e-2


def test_both_projections_of_the_same_pooled_tokens_stand_side_by_side(generator):
    _, photomaker = generator
    with torch.no_grad():
        pooled = photomaker.vision(look_at(pictures(3), photomaker.image_size)).pooler_output
        second = pooled @ photomaker.visual_projection_2.weight.T
    width = len(photomaker.visual_projection.weight)
    assert_close(photomaker.embed(pictures(3))[:, width:], second)


def test_fusing_changes_one_token_by_the_fuse_module(generator):
    pipe, photomaker = generator
    prompt = encode_prompt(pipe, "a woman on a beach", "frame 1")
    identity = torch.randn(photomaker.width, generator=torch.Generator().manual_seed(1))
    fused = photomaker.fuse(prompt, 2, identity)
    changed = (fused.embeddings != prompt.embeddings).any(dim=-1)[0]
    assert changed.nonzero().flatten().tolist() == [2]
    with torch.no_grad():
        expected = photomaker.fuse_module.fuse_fn(prompt.embeddings[:, 2], identity[None])[0]
    assert torch.equal(fused.embeddings[0, 2], expected)


def test_a_fuse_module_of_zeros_normalises_the_text():
    """Both networks add nothing then, so what is left is the last layer norm of the text itself."""
    fuse = FuseModule(5)
    for network in (fuse.mlp1, fuse.mlp2):
        torch.nn.init.zeros_(network.fc2.weight)
        torch.nn.init.zeros_(network.fc2.bias)
    text, identity = torch.randn(3, 5), torch.randn(3, 5)
    expected = torch.nn.functional.layer_norm(text, (5,))
    assert_close(fuse.fuse_fn(text, identity), expected)


def test_a_picture_of_the_towers_size_is_only_normalised():
    found = look_at(torch.full((1, 8, 8, 3), 128 / 255), 8)
    for channel, (mean, deviation) in enumerate([(0.48145466, 0.26862954), (0.4578275, 0.26130258)]):
        assert found[0, channel].unique().item() == pytest.approx((128 / 255 - mean) / deviation, abs=1e-6)


def test_a_wide_picture_is_cut_in_its_middle():
    wide = torch.zeros(1, 16, 48, 3)
    wide[:, :, 16:32] = 1
    assert_close(look_at(wide, 16), look_at(torch.ones(1, 16, 16, 3), 16))
    assert look_at(pictures(2, 30, 50), 12).shape == (2, 3, 12, 12)


def test_levels_are_those_of_eight_bits():
    assert torch.equal(look_at(torch.full((1, 4, 4, 3), 0.5), 4), look_at(torch.full((1, 4, 4, 3), 128 / 255), 4))


def test_files_that_are_not_photomaker_v1_are_refused(pipe, tmp_path):
    with pytest.raises(FileNotFoundError, match="models list"):
        load_photomaker(tmp_path / "none.bin", pipe)
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.bin")
    with pytest.raises(ValueError, match=r'"other.bin" is not a PhotoMaker file.*weights'):
        load_photomaker(tmp_path / "other.bin", pipe)
    (tmp_path / "cut.bin").write_bytes(b"PK")
    with pytest.raises(ValueError, match="cannot be read"):
        load_photomaker(tmp_path / "cut.bin", pipe)
    with pytest.raises(ValueError, match="PhotoMaker v2"):
        split_file({"id_encoder": {"qformer_perceiver.x": torch.zeros(1)}, "lora_weights": {}}, "v2.bin")


def test_a_file_for_another_text_width_is_refused_with_both(generator, sd15, toyworld_folder):
    with pytest.raises(ValueError, match="128 wide; this checkpoint reads 32"):
        load_photomaker(toyworld_folder / "photomaker.safetensors", sd15)


def test_nested_and_flat_files_are_the_same(toyworld_folder):
    flat = load_file(toyworld_folder / "photomaker.safetensors")
    nested = {
        part: {key.removeprefix(f"{part}."): value for key, value in flat.items() if key.startswith(f"{part}.")}
        for part in ("id_encoder", "lora_weights")
    }
    for one, two in zip(split_file(flat, "a"), split_file(nested, "b"), strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_the_encoder_is_named_by_its_width(generator):
    assert generator[1].encoder_id == "toy-world-1"


def test_a_lora_that_fits_nothing_is_refused(toyworld_folder, tmp_path):
    weights = load_file(toyworld_folder / "photomaker.safetensors")
    kept = {key: value for key, value in weights.items() if key.startswith("id_encoder.")}
    kept["lora_weights.unet.nowhere.to_q.lora_A.weight"] = torch.zeros(2, 2)
    kept["lora_weights.unet.nowhere.to_q.lora_B.weight"] = torch.zeros(2, 2)
    save_file(kept, tmp_path / "stray.safetensors")
    with pytest.raises(ValueError, match="stray.safetensors"):
        load_photomaker(tmp_path / "stray.safetensors", load_checkpoint(str(toyworld_folder)))
