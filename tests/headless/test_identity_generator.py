"""PhotoMaker: what it makes of pictures and prompts, and a LoRA that is there only when asked for."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from story_identity.core.lora_file import check_lora
from story_identity.core.photomaker import FuseModule, look_at, split_file
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.headless.checkpoint import load_checkpoint
from story_identity.headless.components import layer_shapes
from story_identity.headless.identity_generator import identity_generator, load_photomaker
from story_identity.headless.prompts import encode_prompt

from tests.closeness import assert_close, largest_difference


def pictures(count, height=64, width=64, seed=0):
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed))


def prediction(pipe):
    generator = torch.Generator().manual_seed(5)
    latent, text = (
        torch.randn(shape, generator=generator)
        for shape in ((2, TOY_WORLD.latent_channels, 16, 16), (2, 40, TOY_WORLD.text_width))
    )
    with torch.no_grad():
        return pipe.unet(latent, 321, encoder_hidden_states=text).sample


def test_the_lora_is_on_inside_and_off_outside_bit_for_bit(generator, pipe):
    with_lora, photomaker = generator
    base = prediction(pipe)
    assert torch.equal(prediction(with_lora), base)
    with identity_generator(with_lora, photomaker):
        assert largest_difference(prediction(with_lora), base) > 1e-3
    assert torch.equal(prediction(with_lora), base)


def test_the_lora_is_off_again_after_an_error(generator, pipe):
    def fail():
        with identity_generator(*generator):
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
    with identity_generator(*generator):
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
    with pytest.raises(ValueError, match=r'other.bin is not a PhotoMaker file: it has "weights"'):
        load_photomaker(tmp_path / "other.bin", pipe)
    (tmp_path / "cut.bin").write_bytes(b"PK")
    with pytest.raises(ValueError, match="cut.bin cannot be read"):
        load_photomaker(tmp_path / "cut.bin", pipe)
    torch.save([1, 2], tmp_path / "list.bin")
    with pytest.raises(ValueError, match="list.bin cannot be read as weights: it holds a list, not tensors by name"):
        load_photomaker(tmp_path / "list.bin", pipe)


def test_a_file_for_another_text_width_is_refused_with_both(generator, sd15, toyworld_folder):
    with pytest.raises(ValueError, match=f"{TOY_WORLD.text_width} wide; this checkpoint reads 32"):
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
    assert generator[1].encoder_id == TOY_WORLD.name


def test_a_lora_that_fits_nothing_is_refused(toyworld_folder, tmp_path, pipe):
    weights = load_file(toyworld_folder / "photomaker.safetensors")
    kept = {key: value for key, value in weights.items() if key.startswith("id_encoder.")}
    kept["lora_weights.unet.nowhere.to_q.lora_A.weight"] = torch.zeros(2, 2)
    kept["lora_weights.unet.nowhere.to_q.lora_B.weight"] = torch.zeros(2, 2)
    save_file(kept, tmp_path / "stray.safetensors")
    with pytest.raises(ValueError, match="stray.safetensors fits none of the layers .*nowhere.to_q"):
        load_photomaker(tmp_path / "stray.safetensors", pipe)


def refusal(weights, tmp_path, pipe):
    """What is said of a file of these weights, which must be refused before the pipeline is touched."""
    save_file(weights, tmp_path / "file.safetensors")
    before = set(pipe.unet.state_dict())
    with pytest.raises(ValueError, match=r"file\.safetensors") as caught:
        load_photomaker(tmp_path / "file.safetensors", pipe)
    assert set(pipe.unet.state_dict()) == before
    return str(caught.value)


@pytest.mark.slow
def test_every_tensor_that_is_misnamed_or_missing_is_refused_by_name(toyworld_folder, pipe):
    whole = load_file(toyworld_folder / "photomaker.safetensors")
    layers = layer_shapes(pipe.unet)
    assert len(whole) > 100
    for key in whole:
        own = key.removeprefix("id_encoder.").removeprefix("lora_weights.unet.").partition(".lora_")[0]
        for changed in ({f"{each}x" if each == key else each: value for each, value in whole.items()}, {}):
            changed = changed or {each: value for each, value in whole.items() if each != key}
            with pytest.raises(ValueError, match="file.safetensors") as caught:
                check_lora(split_file(changed, "file.safetensors")[1], layers, "file.safetensors")
            assert own in str(caught.value), key


@pytest.mark.parametrize("part", ["vision_model.post_layernorm.bias", "attn2.to_v.lora_B.weight"])
def test_a_file_with_a_misnamed_tensor_is_not_loaded(toyworld_folder, tmp_path, pipe, part):
    whole = load_file(toyworld_folder / "photomaker.safetensors")
    key = next(key for key in whole if key.endswith(part))
    misnamed = {f"{each}x" if each == key else each: value for each, value in whole.items()}
    assert part.split(".lora")[0] in refusal(misnamed, tmp_path, pipe)


def test_a_lora_that_leaves_out_a_layer_is_refused(toyworld_folder, tmp_path, pipe):
    whole = load_file(toyworld_folder / "photomaker.safetensors")
    layer = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
    without = {key: value for key, value in whole.items() if layer not in key}
    assert len(without) == len(whole) - 2
    assert f'Missing: "{layer}"' in refusal(without, tmp_path, pipe)
    queries = {key: value for key, value in whole.items() if "lora_weights" not in key or "attn2.to_q" in key}
    save_file(queries, tmp_path / "queries.safetensors")  # one kind of layer alone, in all blocks, is a LoRA too
    load_photomaker(tmp_path / "queries.safetensors", load_checkpoint(str(toyworld_folder)))


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("id_encoder.visual_projection_2.weight", lambda value: value[:, :-1], "expected"),
        ("id_encoder.vision_model.post_layernorm.bias", lambda value: value[:1], "(1,) of float16, expected (128,)"),
        ("id_encoder.vision_model.post_layernorm.bias", lambda value: value.to(torch.int16), "of int16, expected"),
        ("id_encoder.vision_model.embeddings.position_embedding.weight", lambda value: value[:-1], "go together"),
        ("id_encoder.vision_model.embeddings.patch_embedding.weight", lambda value: value[0], "expected 4 axes"),
        ("lora_weights.unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v.lora_A.weight", None, "to_v"),
        ("lora_weights.unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v.lora_B.weight", None, "to_v"),
    ],
)
def test_a_tensor_of_another_shape_or_kind_is_refused(toyworld_folder, tmp_path, pipe, key, change, message):
    whole = load_file(toyworld_folder / "photomaker.safetensors")
    change = change or (lambda value: value[:-1])
    assert message in refusal({**whole, key: change(whole[key]).contiguous()}, tmp_path, pipe)


def test_what_is_no_part_of_a_photomaker_file_is_refused(toyworld_folder, tmp_path, pipe):
    whole = load_file(toyworld_folder / "photomaker.safetensors")
    assert '"other.weight"' in refusal({**whole, "other.weight": torch.zeros(1)}, tmp_path, pipe)


def test_position_ids_of_old_files_are_left_out(toyworld_folder, tmp_path, generator, pipe):
    whole = load_file(toyworld_folder / "photomaker.safetensors")
    old = {**whole, "id_encoder.vision_model.embeddings.position_ids": torch.arange(65)[None]}
    encoder, lora = split_file(old, "old")
    assert encoder.keys() | lora.keys() == {key.split(".", 1)[1] for key in whole}


@pytest.mark.parametrize(
    "ending", ["{}_lora.{}.weight", "{}.lora.{}.weight", "{}.lora_linear_layer.{}.weight", "{}.lora_{}.weight"]
)
def test_a_lora_under_older_names_is_the_same(generator, toyworld_folder, tmp_path, ending):
    renamed = {}
    for key, value in load_file(toyworld_folder / "photomaker.safetensors").items():
        if key.startswith("lora_weights."):
            layer, _, half = key.removesuffix(".weight").rpartition(".lora_")
            if ending.startswith("{}_lora"):
                layer = layer.removesuffix(".0").replace(".to_", ".processor.to_")
            key = ending.format(layer, {"A": "down", "B": "up"}[half])
        renamed[key] = value
    save_file(renamed, tmp_path / "older.safetensors")
    older = load_checkpoint(str(toyworld_folder))
    photomaker = load_photomaker(tmp_path / "older.safetensors", older)
    with identity_generator(*generator), identity_generator(older, photomaker):
        assert torch.equal(prediction(generator[0]), prediction(older))
