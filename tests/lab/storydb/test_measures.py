"""CLIP from a local folder, functions by name, and the command."""

import json

import numpy as np
import pytest
import torch
from story_identity.core.photomaker import look_at
from story_identity.core.toyworld.models import WEIGHTS
from story_identity.lab.cli import app
from story_identity.lab.storydb.command import load_measures, settings_from
from story_identity.lab.storydb.measures import load_clip, named_callable
from story_identity.lab.storydb.settings import TOYWORLD_STORYDB
from story_identity.lab.toyworld.world import draw
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast
from typer.testing import CliRunner

from tests.stand_ins.storydb import new_person, new_plan

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A CLIP of random weights that reads the toy world's words, as save_pretrained writes it."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(WEIGHTS / "tokenizer")
    text = {**SIZES, "vocab_size": len(tokenizer), "max_position_embeddings": 12, "bos_token_id": 0, "eos_token_id": 1}
    vision = {**SIZES, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_clip_agrees_with_the_model_itself(clip_folder):
    """The oracle: transformers' own forward, which gives cosine times scale."""
    clip, picture = load_clip(clip_folder), torch.rand(40, 50, 3, generator=torch.Generator().manual_seed(1))
    caption = "a woman with red hair on the beach"
    tokens = clip.tokenizer(caption, return_tensors="pt")
    with torch.no_grad():
        whole = clip.model(input_ids=tokens.input_ids, pixel_values=look_at(picture[None], 32))
    expected = float(whole.logits_per_image) / float(clip.model.logit_scale.exp())
    assert clip.agreement(picture, caption) == pytest.approx(expected, abs=1e-5)
    assert float(clip.look(picture).norm()) == pytest.approx(1, abs=1e-6)
    assert -1 <= clip.agreement(picture, "a woman " * 30) <= 1  # longer than it reads


def test_clip_is_not_downloaded(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder of a CLIP model"):
        load_clip(tmp_path / "openai" / "clip-vit-large-patch14")


@pytest.mark.slow
def test_the_toy_worlds_agreement_knows_right_captions_from_wrong_ones(measures):
    random = np.random.default_rng(31)
    scenes = [draw(new_plan(new_person(random, held_out=True), random), random) for _ in range(12)]
    pictures = [torch.from_numpy(scene.image.copy()).float() / 255 for scene in scenes]
    scores = np.array([[measures.agreement(picture, scene.caption) for scene in scenes] for picture in pictures])
    assert (scores.argmax(axis=1) == np.arange(12)).mean() >= 0.9
    assert ((scores > 0) & (scores <= 1)).all()


def test_functions_by_name():
    assert named_callable("json:loads") is json.loads
    for wrong in ("json", "json:", ":loads"):
        with pytest.raises(ValueError, match="MODULE:FUNCTION"):
            named_callable(wrong)
    with pytest.raises(ValueError, match='no function "nothing"'):
        named_callable("json:nothing")


def test_settings_on_the_command_line():
    settings = settings_from(["least=3", "identity=0.5", "words=man, woman"], {"most": 6})
    assert (settings.least, settings.most, settings.identity, settings.words) == (3, 6, 0.5, ("man", "woman"))
    assert settings_from([], TOYWORLD_STORYDB).record()["identity"] == TOYWORLD_STORYDB["identity"]
    with pytest.raises(ValueError, match='not "speed=3"; there are least, most'):
        settings_from(["speed=3"], {})
    with pytest.raises(ValueError, match='least: "many" is no int'):
        settings_from(["least=many"], {})


def test_a_detector_is_needed(tmp_path):
    with pytest.raises(ValueError, match="give --sam, --bert too"):
        load_measures({"grounding_dino": tmp_path}, "", "", "cpu")


def test_the_command_lists_what_it_dropped(pictures, tmp_path):
    done = CliRunner().invoke(
        app,
        ["build-storydb", str(pictures), "--out", str(tmp_path / "db"), "--toyworld"],
        env={"COLUMNS": "160"},
        catch_exceptions=False,
    )
    assert done.exit_code == 0
    assert "1 groups of 5 pictures; 7 pictures dropped" in done.output
    for name in ("ada", "cleo"):
        assert f"{name}/00.png" in done.output
    assert done.output.count("group too small") == 7
    assert len(json.loads((tmp_path / "db" / "manifest.json").read_text())["drops"]) == 7
