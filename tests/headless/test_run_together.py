"""Frames of a run drawn together: laws of sharing and of faces, resuming, and what is refused before it begins."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from story_identity.core.subject_bank import SubjectBank
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.headless import cli
from story_identity.headless.joint_drawing import JointDrawing, open_drawing
from story_identity.headless.run import run_story
from story_identity.headless.run_files import read_about
from story_identity.headless.run_settings import settings_of, toyworld_settings
from story_identity.headless.run_together import notes_on
from story_identity.headless.together_settings import TogetherSettings
from story_identity.lab.toyworld.people import sample_person
from story_identity.lab.toyworld.world import draw, portrait_plan
from typer.testing import CliRunner

from tests.closeness import largest_difference

from .stories import STORY, PlaceDetector, contents, options_of, story

FRAMES = ["Mira and Tom on a beach", "Tom in the snow", "a city at night", "Mira in a kitchen", "Mira on a beach"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with three pictures of Mira, and a picture of Tom."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(3)
    (folder / "mira").mkdir()
    mira, tom = (portrait_plan(sample_person(random, word=word)) for word in ("woman", "boy"))
    for number in range(3):
        Image.fromarray(draw(mira, random).image).save(folder / "mira" / f"{number}.png")
    Image.fromarray(draw(tom, random).image).save(folder / "tom.png")
    (folder / "mira" / "notes.txt").write_text("no picture")
    return folder


def together(folder, **changes):
    return toyworld_settings(**{"checkpoint": str(folder), "steps": 3, "together": True, **changes})


def with_faces(folder, pictures, **changes):
    references = (("Mira", str(pictures / "mira")), ("Tom", str(pictures / "tom.png")))
    return together(folder, **{"adapter": "toyworld", "references": references, **changes})


def make(out, settings, frames=FRAMES, **more):
    return run_story(story(frames), settings, out, detector=PlaceDetector(), **more).root


def pixels(root, count=5, place="."):
    return [Image.open(root / place / f"frame_{number:04d}.png").tobytes() for number in range(1, count + 1)]


@pytest.fixture(scope="module")
def plain(toyworld_folder, tmp_path_factory):
    return make(tmp_path_factory.mktemp("plain"), together(toyworld_folder, strength=0))


@pytest.fixture(scope="module")
def shared(toyworld_folder, tmp_path_factory):
    return make(tmp_path_factory.mktemp("shared"), together(toyworld_folder))


@pytest.fixture(scope="module")
def faces(toyworld_folder, pictures, tmp_path_factory):
    return make(tmp_path_factory.mktemp("faces"), with_faces(toyworld_folder, pictures, anchors=2))


def test_frames_share_and_whoever_is_alone_in_a_story_shares_nothing(plain, shared):
    drawn, apart = pixels(shared), pixels(plain)
    assert drawn[2] == apart[2]  # a city, which nobody is in
    assert all(drawn[place] != apart[place] for place in (0, 1, 3, 4))
    assert sorted(contents(shared)) == [f"frame_{number:04d}.png" for number in range(1, 6)] + ["manifest.json"]


def test_without_people_frames_are_those_of_strength_0(toyworld_folder, tmp_path):
    frames = ["a beach", "a city at night"]
    roots = [make(tmp_path / str(s), together(toyworld_folder, strength=s), frames) for s in (0, 1)]
    assert pixels(roots[0], 2) == pixels(roots[1], 2)


@pytest.mark.slow
def test_faces_change_the_frames_of_their_people_only_where_they_are(faces, toyworld_folder, pictures, tmp_path):
    for number in range(1, 6):
        frame, template, masks = (
            np.asarray(Image.open(faces / place / f"frame_{number:04d}.png")) for place in (".", "template", "masks")
        )
        assert (frame != template).any() == (number != 3)
        assert masks.any() == (number != 3)
    unmasked = make(tmp_path / "everywhere", with_faces(toyworld_folder, pictures, anchors=2, detector="none"))
    assert pixels(unmasked)[0] != pixels(faces)[0]
    assert not (unmasked / "masks").exists()


@pytest.mark.slow
def test_a_weight_of_0_and_templates_are_the_frames_without_faces(faces, shared, toyworld_folder, pictures, tmp_path):
    weightless = make(tmp_path / "weightless", with_faces(toyworld_folder, pictures, weight=0))
    assert pixels(weightless) == pixels(weightless, place="template") == pixels(shared)
    grouped = make(tmp_path / "grouped", together(toyworld_folder, anchors=2))
    assert pixels(faces, place="template") == pixels(grouped)


def test_masks_of_another_run_say_where_faces_act(faces, toyworld_folder, pictures, tmp_path):
    given = {"masks": str(faces / "masks"), "detector": "none", "anchors": 2}
    assert pixels(make(tmp_path, with_faces(toyworld_folder, pictures, **given))) == pixels(faces)


@pytest.mark.slow
def test_anchor_frames_are_drawn_as_if_they_were_the_story_and_later_ones_see_them(
    shared, toyworld_folder, tmp_path_factory
):
    one = make(tmp_path_factory.mktemp("one"), together(toyworld_folder), FRAMES[:2])
    grouped = make(tmp_path_factory.mktemp("grouped"), together(toyworld_folder, anchors=2))
    assert pixels(grouped)[:2] == pixels(one, 2)
    lonely = make(tmp_path_factory.mktemp("lonely"), together(toyworld_folder, anchors=2, strength=0))
    assert pixels(grouped)[4] != pixels(lonely)[4]  # a group of one, which sees nobody but the anchor frames
    assert pixels(make(tmp_path_factory.mktemp("all"), together(toyworld_folder, anchors=5))) == pixels(shared)


@pytest.mark.slow
def test_sharing_and_faces_act_between_their_percents(toyworld_folder, pictures, shared, plain, tmp_path):
    late = {"start_percent": 0.99, "inject_start_percent": 0.99}
    assert pixels(make(tmp_path / "late", with_faces(toyworld_folder, pictures, detector="none", **late))) == pixels(
        plain
    )
    early = {"inject_end_percent": 0.5, "detector": "none"}
    some = pixels(make(tmp_path / "early", with_faces(toyworld_folder, pictures, **early)))
    whole = pixels(make(tmp_path / "whole", with_faces(toyworld_folder, pictures, detector="none")))
    assert some[0] not in (whole[0], pixels(shared)[0])


@pytest.mark.slow
@pytest.mark.parametrize("lost", [["frame_0001.png"], ["frame_0005.png"], ["masks/frame_0003.png", "frame_0004.png"]])
def test_what_is_lost_is_made_again_to_the_same_bytes(faces, toyworld_folder, pictures, tmp_path, lost):
    shutil.copytree(faces, tmp_path / "run")
    for name in lost:
        (tmp_path / "run" / name).unlink()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.png")}
    make(tmp_path / "run", with_faces(toyworld_folder, pictures, anchors=2))
    assert contents(tmp_path / "run") == contents(faces)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_finished_run_draws_nothing(faces, toyworld_folder, pictures):
    steps = []
    make(faces, with_faces(toyworld_folder, pictures, anchors=2), report=lambda *step: steps.append(step))
    assert not steps


@pytest.mark.slow
def test_only_groups_with_lost_frames_and_the_anchors_are_drawn(toyworld_folder, tmp_path):
    chosen, steps = together(toyworld_folder, anchors=2), []
    before = contents(make(tmp_path, chosen))
    (tmp_path / "frame_0005.png").unlink()
    make(tmp_path, chosen, report=lambda what, *counts: steps.append(what))
    assert set(steps) == {"frames 1 to 2", "frame 5"}
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("changes", "frames", "said"),
    [
        ({"strength": 0.5}, FRAMES, "settings, strength: it was 1.0, now it is 0.5"),
        ({"anchors": 2}, FRAMES, "settings, anchors: it was 0, now it is 2"),
        ({}, [*FRAMES, "a beach"], "there were 5 frames, now there are 6"),
        ({}, FRAMES[:4], "there were 5 frames, now there are 4"),
    ],
)
def test_another_run_is_not_continued_but_can_start_over(shared, toyworld_folder, tmp_path, changes, frames, said):
    shutil.copytree(shared, tmp_path / "run")
    with pytest.raises(ValueError, match=said):
        make(tmp_path / "run", together(toyworld_folder, **changes), frames)
    assert contents(tmp_path / "run") == contents(shared)


def test_starting_over_leaves_no_file_of_the_run_before(faces, toyworld_folder, shared, tmp_path):
    shutil.copytree(faces, tmp_path / "run")
    make(tmp_path / "run", together(toyworld_folder), overwrite=True)
    assert contents(tmp_path / "run") == contents(shared)


def test_starting_over_deletes_no_reference_picture(faces, toyworld_folder, tmp_path):
    shutil.copytree(faces, tmp_path / "run")
    references = (("Mira", str(tmp_path / "run" / "template")),)
    with pytest.raises(ValueError, match="--overwrite would delete what this run is to read.*template"):
        make(tmp_path / "run", together(toyworld_folder, adapter="toyworld", references=references), overwrite=True)
    assert contents(tmp_path / "run") == contents(faces)


def test_several_processes_are_refused_with_one_sentence(toyworld_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes were started, but this is the work of one: start it without"):
        make(tmp_path / "out", together(toyworld_folder))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"together": False, "anchors": 4}, "anchors is 4, but it counts only where frames are drawn together"),
        ({"together": False, "adapter": "toyworld"}, 'adapter is "toyworld", but it counts only'),
        ({"anchors": 65}, "anchors is 65; it must be from 0 to 64"),
        ({"strength": 1.5}, "strength is 1.5; it must be from 0 to 1"),
        ({"threshold": float("nan")}, "threshold is nan; it must be from 0 to 0.95"),
        ({"layers": "none"}, 'layers is "none"; it must be one of all, without the largest, smallest two'),
        ({"mode": "dealt"}, 'mode is "dealt"; it must be one of shuffled, aligned, average, stacked'),
        ({"start_percent": 0.6, "end_percent": 0.5}, "start_percent is 0.6 and end_percent 0.5; the end must be"),
        ({"inject_start_percent": 1.0}, "inject_start_percent is 1.0 and inject_end_percent 1.0"),
        ({"adapter": "toyworld"}, "adapter is given, but no reference pictures"),
        ({"references": (("Mira", "."),)}, "references are given, but no adapter"),
        ({"adapter": "toyworld", "references": (("Mira", "."),), "image_encoder": ""}, "but no image_encoder"),
        ({"identities": (("Mira", __file__),)}, "identities are given, but frames drawn together"),
        ({"masks": "."}, "masks are given, but no adapter"),
        ({"prompt": "character"}, "prompt is for re-denoising"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        together("toyworld", **{"steps": 20, **changes})


def test_missing_references_are_named():
    for path in ("nowhere/mira.png", "x" * 5000, "\0"):
        with pytest.raises(FileNotFoundError, match='references: there is no .* for "Mira"'):
            together("toyworld", adapter="toyworld", references=(("Mira", path),))


@pytest.mark.parametrize(
    ("references", "changes", "said"),
    [
        ([("Anna", "mira")], {}, 'references: the story has no character "Anna"; it has "Mira", "Tom"'),
        ([("Mira", "empty")], {}, 'references: the folder .*empty of "Mira" has no pictures'),
        ([("Mira", "mira/notes.txt")], {}, 'references: the picture .*notes.txt of "Mira" cannot be read'),
        ([("Mira", "grey.png")], {}, 'There is no face in reference picture 1 of 1 of "Mira"'),
        ([("Mira", "mira")], {"adapter": __file__}, "test_run_together.py"),
        ([("Mira", "mira")], {"face_models": ""}, "reads face embeddings: give face_models"),
        ([("Mira", "mira")], {"masks": "mira"}, "there is no mask file"),
    ],
)
def test_everything_is_said_before_the_first_step(toyworld_folder, pictures, tmp_path, references, changes, said):
    (pictures / "empty").mkdir(exist_ok=True)
    Image.new("RGB", (64, 64), "grey").save(pictures / "grey.png")
    given = tuple((name, str(pictures / path)) for name, path in references)
    if "masks" in changes:
        changes = {"masks": str(pictures / "mira")}
    steps = []
    chosen = together(toyworld_folder, **{"adapter": "toyworld", "references": given, **changes})
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        make(tmp_path / "out", chosen, report=lambda *step: steps.append(step))
    assert not steps
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_settings_come_back_and_other_runs_record_none_of_them(pictures):
    chosen = with_faces("toyworld", pictures, same_character=False, anchors=2, seed=4)
    manifest = json.loads(json.dumps({"settings": chosen.record(), "places": chosen.places()}))
    assert settings_of(manifest) == chosen
    assert [each["character"] for each in chosen.record()["references"]] == ["Mira", "Tom"]
    names = {each.name for each in dataclasses.fields(TogetherSettings)}
    assert names & set(toyworld_settings().record()) == names & set(toyworld_settings().places()) == set()
    assert names == names & set(chosen.record())


def test_what_counts_without_an_error_is_said(pictures):
    told = story([{"prompt": "Mira and Tom on a beach", "seed": 7}, "a beach", "Tom in the snow"])
    chosen = with_faces("toyworld", pictures, detector="none")
    said = list(notes_on(told, chosen))
    assert len(said) == 2
    assert "The seeds that the story gives to frames are not used (1)" in said[0]
    assert 'frame 1 shows "Mira", "Tom" and nothing says where they are' in said[1]
    late = list(notes_on(story(["Mira", "Tom"]), together("toyworld", anchors=1, steps=1)))
    assert len(late) == 2
    assert 'The first 1 frames do not show "Tom"' in late[1]
    assert list(notes_on(told, toyworld_settings())) == []


def test_a_run_is_what_a_batch_of_its_noise_comes_to(toyworld_folder, plain):
    """Drawn apart, each frame is what its row of the batch's noise comes to by itself."""
    chosen = together(toyworld_folder, strength=0)
    whole = open_drawing(story(FRAMES), chosen, "cpu")
    assert isinstance(whole, JointDrawing)
    assert whole.groups() == [slice(0, 5)]
    shape = (5, TOY_WORLD.latent_channels, TOY_WORLD.latent_side, TOY_WORLD.latent_side)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(chosen.seed))
    assert torch.equal(whole._noise(), noise)
    grouped = dataclasses.replace(whole, settings=dataclasses.replace(chosen, anchors=1))
    latents = whole.draw(slice(0, 5), SubjectBank(), None, (), lambda *step: None, "all")
    alone = grouped.draw(slice(3, 4), SubjectBank(), None, (), lambda *step: None, "one")
    assert largest_difference(alone, latents[3:4]) < 1e-4
    assert read_about(plain / "frame_0004.png")["seed"] == chosen.seed


def test_the_command_draws_together_with_the_references_of_options_and_story(toyworld_folder, pictures, tmp_path):
    characters = [{**STORY["characters"][0], "reference_images": ["nowhere.png"]}, dict(STORY["characters"][1])]
    characters[1]["reference_images"] = ["tom.png"]
    shutil.copy(pictures / "tom.png", tmp_path / "tom.png")
    (tmp_path / "story.json").write_text(json.dumps({"characters": characters, "frames": FRAMES[:2]}))
    chosen = together(toyworld_folder, adapter="toyworld", references=(("Mira", "."),), detector="none")
    words = ["run", tmp_path / "story.json", "--out", tmp_path / "out", *options_of(chosen)]
    words += ["--references", f"Mira={pictures / 'mira'}", "--no-same-character"]
    done = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["settings"]["same_character"] is False
    assert [name for name, _ in manifest["places"]["references"]] == ["Mira", "Tom"]
    again = CliRunner().invoke(cli.app, ["redenoise", str(tmp_path / "out"), "--out", str(tmp_path / "x")])
    assert again.exit_code == 2
    assert "were drawn together, without a second pass" in again.output
