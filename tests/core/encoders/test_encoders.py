"""CLIP and DINO by transformers' own classes at tiny size, with random weights, from folders as users have them."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from story_identity.core.encoders import ImageEncoder, ImageTextEncoder
from story_identity.core.encoders.clip import load_clip
from story_identity.core.encoders.dino import load_dino
from story_identity.core.scores.cosines import cosines_of_rows
from story_identity.core.scores.story_scores import CLIP_T, StoryFeatures, score_story
from transformers import (
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
)

from tests.closeness import assert_close
from tests.stand_ins.image_text import write_image_text

TEXTS = ["a woman with red hair on a beach", "a boy", "night"]
LONG = "a woman " * 60


def images():
    random = torch.Generator().manual_seed(4)
    return [torch.rand(*size, 3, generator=random) for size in ((40, 40), (61, 47), (30, 90))]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    write_image_text(folder)
    return folder


def write_dino(folder: Path, kind: str) -> Path:
    torch.manual_seed(1)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 28, "patch_size": 7}
    models = {
        "dinov2": lambda: Dinov2Model(Dinov2Config(**sizes)),
        "dinov2_with_registers": lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**sizes)),
        "dinov3_vit": lambda: DINOv3ViTModel(DINOv3ViTConfig(**sizes, intermediate_size=32)),
    }
    models[kind]().save_pretrained(folder)
    BitImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


def test_clip_t_is_transformers_own_logits(clip_folder):
    encoder = load_clip(clip_folder)
    model, tokenizer = CLIPModel.from_pretrained(clip_folder).eval(), encoder.tokenizer
    pictures = [Image.fromarray((each * 255).round().to(torch.uint8).numpy()) for each in images()]
    pixels = CLIPImageProcessorPil.from_pretrained(clip_folder)(images=pictures, return_tensors="pt")
    words = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**words, **pixels).logits_per_image
    vectors, others = encoder.embed_images(images()), encoder.embed_texts(TEXTS)
    own = cosines_of_rows(vectors, others) * model.logit_scale.exp().double()
    assert_close(own.float(), logits.diagonal())
    scores = score_story(StoryFeatures(3, [], vectors, others))
    assert_close(scores.scores[CLIP_T].mean, float(logits.diagonal().mean() / model.logit_scale.exp().detach()))


def test_texts_and_pictures_do_not_see_each_other(clip_folder):
    encoder = load_clip(clip_folder)
    assert isinstance(encoder, ImageTextEncoder)
    assert_close(encoder.embed_texts(TEXTS)[1:2], encoder.embed_texts(TEXTS[1:2]))
    assert_close(encoder.embed_images(images())[2:], encoder.embed_images(images()[2:]))
    assert encoder.embed_images([]).shape == (0, 17)
    assert encoder.embed_texts([]).shape == (0, 17)


def test_words_beyond_the_limit_do_not_count_and_are_counted(clip_folder):
    encoder = load_clip(clip_folder)
    tokens = len(encoder.tokenizer(LONG)["input_ids"])
    assert encoder.tokens_over(LONG) == tokens - 77 > 0
    assert encoder.tokens_over("a boy") == 0
    assert_close(encoder.embed_texts([LONG]), encoder.embed_texts([LONG + "and a dog"]))


@pytest.mark.parametrize("kind", ["dinov2", "dinov2_with_registers", "dinov3_vit"])
def test_dino_is_the_class_token_of_transformers(kind, tmp_path):
    encoder = load_dino(write_dino(tmp_path, kind))
    assert isinstance(encoder, ImageEncoder)
    pixels = encoder.processor(
        images=[Image.fromarray((each * 255).round().to(torch.uint8).numpy()) for each in images()],
        return_tensors="pt",
    )
    with torch.no_grad():
        expected = encoder.model(**pixels).pooler_output
    assert_close(encoder.embed_images(images()), expected)
    assert encoder.embed_images([]).shape == (0, 24)


def test_a_folder_that_lacks_files_is_named(tmp_path, clip_folder):
    with pytest.raises(FileNotFoundError, match=r"lacks config.json, the weights \(model.safetensors\), preproc"):
        load_clip(tmp_path)
    for file in clip_folder.iterdir():
        if file.is_file() and file.name != "preprocessor_config.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(FileNotFoundError, match="lacks preprocessor_config.json; it must be a folder of CLIP"):
        load_clip(tmp_path)


def test_another_kind_of_model_is_refused(tmp_path, clip_folder):
    with pytest.raises(ValueError, match='holds a model of the kind "dinov2"; CLIP, with its'):
        load_clip(write_dino(tmp_path, "dinov2"))
    with pytest.raises(ValueError, match='holds a model of the kind "clip"; DINOv2 or DINOv3 was'):
        load_dino(clip_folder)
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(ValueError, match="config.json is not JSON"):
        load_dino(tmp_path)


def test_weights_that_are_missing_or_of_another_shape_are_named(tmp_path):
    weights = load_file(write_dino(tmp_path, "dinov2") / "model.safetensors")
    lost = {key: value for key, value in weights.items() if key != "layernorm.weight"}
    save_file(lost, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match='not those of a whole DINO: "layernorm.weight" are missing or of another'):
        load_dino(tmp_path)
    save_file({**weights, "layernorm.bias": torch.zeros(5)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match='"layernorm.bias" are missing or of another shape'):
        load_dino(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="cannot be loaded as DINOv2 or DINOv3"):
        load_dino(tmp_path)


def test_without_transformers_one_sentence_says_how_to_get_it(clip_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match="which reading CLIP.* needs: run pip install transformers"):
        load_clip(clip_folder)


def test_a_tokenizer_is_needed(tmp_path, clip_folder):
    for file in ("config.json", "model.safetensors", "preprocessor_config.json"):
        (tmp_path / file).write_bytes((clip_folder / file).read_bytes())
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "clip"
    with pytest.raises(FileNotFoundError, match="lacks the tokenizer .tokenizer.json, or vocab.json and merges.txt"):
        load_clip(tmp_path)
