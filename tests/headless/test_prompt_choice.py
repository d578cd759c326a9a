"""Inside a mask: the frame's prompt, or the character's description; and stories as the published code builds them."""

import json

import pytest
import torch
from story_identity.core.identity import Identity
from story_identity.core.redenoise import ProgressiveMasks, scaled_kernel, to_latent_grid
from story_identity.core.story import Story
from story_identity.headless import cli
from story_identity.headless.run_folder import describe_frame, story_of
from story_identity.headless.run_settings import settings_of
from story_identity.headless.studio import open_studio
from typer.testing import CliRunner

from .stories import STORY, PlaceDetector, settings, story


def silent(what, done, total):
    """Reports nothing."""


def drawn(folder, told, prompt):
    """The template of a story's first frame, its re-denoised latent, and the cells in which it may differ."""
    studio = open_studio(settings(folder, prompt=prompt), "cpu", PlaceDetector())
    studio.check(told, told.characters)
    frame, random = told.frames[0], torch.Generator().manual_seed(3)
    identities = {
        person.name: studio.identity(person, torch.randn(studio.photomaker.width, generator=random), {})
        for person in told.characters
    }
    assert all(isinstance(identity, Identity) for identity in identities.values())
    cache = studio.sample_frame(frame, 7, silent)
    layout = studio.find(frame, studio.picture(cache.final), None)
    latent = studio.put_in(frame, cache, layout, identities, silent)
    chosen = studio.settings
    masks = ProgressiveMasks(layout.masks, chosen.steps, chosen.start, scaled_kernel(chosen.max_kernel, *layout.size))
    cells = to_latent_grid(masks.at(chosen.steps - 1), *latent.shape[-2:]).any(dim=0)[0]
    return cache.final, latent, cells


def test_the_description_changes_the_characters_and_nothing_else(toyworld_folder):
    (template, by_frame, cells), (other, by_description, _) = (
        drawn(toyworld_folder, story(["Mira and Tom waving in a forest"]), prompt) for prompt in ("frame", "character")
    )
    assert torch.equal(template, other)
    for latent in (by_frame, by_description):
        assert torch.equal(latent[..., ~cells], template[..., ~cells])
    assert not torch.equal(by_frame[..., cells], by_description[..., cells])


def test_where_the_frame_says_nothing_but_the_description_both_are_one(toyworld_folder):
    alone = Story.parse({"characters": STORY["characters"][:1], "frames": ["Mira"]})
    assert alone.frames[0].prompt == alone.characters[0].description
    by_frame, by_description = (drawn(toyworld_folder, alone, prompt)[1] for prompt in ("frame", "character"))
    assert torch.equal(by_frame, by_description)


def test_the_style_goes_with_the_description_through_a_manifest(toyworld_folder):
    told = Story.parse({**STORY, "style": "at night"})
    manifest = {
        "characters": [{"name": c.name, "word": c.word, "description": c.description} for c in told.characters],
        "frames": [describe_frame(frame) for frame in told.frames],
    }
    again = story_of(json.loads(json.dumps(manifest)))
    for frame, other in zip(told.frames, again.frames, strict=True):
        for each in other.appearances:
            text, _ = other.prompt_about(each, "character")
            assert text == f"at night, {each.character.description}"
        assert frame.style_prefix == other.style_prefix
    assert "style_prefix" not in describe_frame(story().frames[0])  # as the first version wrote it


def test_a_manifest_mentions_the_prompt_only_if_it_is_not_the_frames(toyworld_folder):
    plain, described = (settings(toyworld_folder, prompt=prompt) for prompt in ("frame", "character"))
    assert plain.record() == {key: value for key, value in described.record().items() if key != "prompt"}
    assert described.record()["prompt"] == "character"
    for chosen in (plain, described):
        manifest = json.loads(json.dumps({"settings": chosen.record(), "places": chosen.places()}))
        assert settings_of(manifest) == chosen


def test_what_cannot_be_read_is_refused_before_anything_is_drawn(toyworld_folder):
    with pytest.raises(ValueError, match='prompt is "both"; it must be one of frame, character'):
        settings(toyworld_folder, prompt="both")
    person = {"name": "Mira", "word": "woman", "description": "a woman" + " with red hair" * 40}
    frames = [{"prompt": "a woman on a beach", "cast": ["Mira"]}]
    studio = open_studio(settings(toyworld_folder, prompt="character"), "cpu", PlaceDetector())
    with pytest.raises(ValueError, match="frame 1: the prompt has .* tokens"):
        studio.check(Story.parse({"characters": [person], "frames": frames}), [])


def test_as_published_takes_the_description_unless_prompt_is_given(monkeypatch, tmp_path):
    path, given = tmp_path / "story.json", []

    def settings_from(values):
        given.append(values["prompt"])
        raise ValueError("seen")

    monkeypatch.setattr(cli, "settings_from", settings_from)
    path.write_text(
        json.dumps({"character": "a woman with red hair", "token": "woman", "prompts": ["a woman on a beach"]})
    )
    words = ["run", str(path), "--out", str(tmp_path / "out"), "--as-published"]
    for more in ([], ["--prompt", "frame"]):
        assert CliRunner().invoke(cli.app, [*words, *more]).exit_code == 2
    assert given == ["character", "frame"]


def test_as_published_takes_the_published_form_alone(tmp_path):
    path = tmp_path / "story.json"
    path.write_text(json.dumps(STORY))
    done = CliRunner().invoke(cli.app, ["run", str(path), "--out", str(tmp_path / "out"), "--as-published"])
    assert done.exit_code == 2
    assert 'The story has "characters", which is our own form' in done.output
    assert not (tmp_path / "out").exists()
