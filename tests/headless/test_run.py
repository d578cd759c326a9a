"""A story in a folder: what is written, continued, refused; and that no frame depends on another."""

import json
import shutil

import pytest
import torch
from PIL import Image
from story_identity.core.identity import Identity
from story_identity.core.story import Story
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.headless.run import run_story
from story_identity.headless.run_files import read_about
from story_identity.headless.run_folder import RunFolder, story_of
from story_identity.headless.run_settings import settings_of

from .stories import PlaceDetector, contents, settings, story

SIDE = TOY_WORLD.picture_side


@pytest.fixture(scope="module")
def finished(toyworld_folder, tmp_path_factory):
    """A run of the whole story; tests must leave it as it is."""
    return run_story(story(), settings(toyworld_folder), tmp_path_factory.mktemp("run"), detector=PlaceDetector()).root


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def make(out, folder, frames=None, detector=None, overwrite=False, **changes):
    chosen = settings(folder, **changes)
    return run_story(story(frames), chosen, out, detector=detector or PlaceDetector(), overwrite=overwrite).root


def test_the_files_of_a_run(finished):
    names = set(contents(finished))
    frames = {f"frame_{number:04d}.png" for number in (1, 2, 3, 4)}
    expected = frames | {f"{folder}/{name}" for folder in ("template", "layout", "masks") for name in frames}
    assert names >= expected | {"identities/Mira.safetensors", "identities/Tom.safetensors", "manifest.json"}
    portraits = sorted(name for name in names - expected if name.startswith("portraits/Mira/"))
    assert [name.split("/")[-1][:3] for name in portraits] == ["001", "002", "003", "004", "005"]
    kept = [int(name.split("/")[-1][:3]) - 1 for name in portraits if name.endswith("_kept.png")]
    identity = Identity.load(finished / "identities" / "Mira.safetensors", TOY_WORLD.name)
    assert kept == identity.metadata["discovery"]["rounds"][-1]["kept"]
    assert not [name for name in names if name.endswith(".tmp")]


def test_the_background_is_the_templates_and_the_people_are_not(finished):
    for number, people in ((1, 1), (2, 2), (3, 0), (4, 1)):
        name = f"frame_{number:04d}.png"
        template, final = (
            torch.tensor(list(Image.open(path).get_flattened_data())).view(SIDE, SIDE, 3)
            for path in (finished / "template" / name, finished / name)
        )
        masks = torch.tensor(list(Image.open(finished / "masks" / name).get_flattened_data())).view(SIDE, SIDE)
        assert int(masks.max()) == people
        differs = (template != final).any(dim=-1)
        assert all(differs[masks == person].float().mean() > 0.5 for person in range(1, people + 1))
        assert differs.any() == bool(people)


def test_a_frame_says_how_it_was_made(finished):
    about = read_about(finished / "frame_0002.png")
    assert (about["frame"], about["seed"], about["cast"], about["not_found"]) == (2, 5, ["Mira", "Tom"], [])
    assert about["prompt"] == story().frames[1].prompt
    assert about["settings"]["steps"] == 4
    assert read_about(finished / "frame_0003.png")["seed"] == 2


def test_the_manifest_describes_the_run(finished, toyworld_folder):
    manifest = json.loads((finished / "manifest.json").read_text(encoding="utf-8"))
    assert story_of(manifest).frames == story().frames
    assert settings_of(manifest) == settings(toyworld_folder)
    assert [frame["file"] for frame in manifest["frames"]] == [f"frame_{number:04d}.png" for number in (1, 2, 3, 4)]


def test_a_finished_run_is_not_done_again(copy, toyworld_folder):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*.png")}
    make(copy, toyworld_folder)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*.png")} == before


@pytest.mark.parametrize(
    "lost",
    [
        ["frame_0001.png"],
        ["frame_0002.png", "template/frame_0004.png", "frame_0004.png"],
        ["identities/Tom.safetensors", "portraits/Tom/003.png", "portraits/Tom/003_kept.png", "frame_0002.png"],
    ],
)
def test_what_is_missing_is_made_again_to_the_byte(finished, copy, toyworld_folder, lost):
    for name in lost:
        (copy / name).unlink(missing_ok=True)
    make(copy, toyworld_folder)
    assert contents(copy) == contents(finished)


def test_a_frame_does_not_depend_on_the_others(finished, toyworld_folder, tmp_path):
    """The same frame, drawn in a story in which it is the only one; its seed is given in both."""
    out = make(tmp_path / "alone", toyworld_folder, frames=[story_frame(0), story_frame(1)][1:])
    assert Image.open(out / "frame_0001.png").tobytes() == Image.open(finished / "frame_0002.png").tobytes()


def story_frame(index):
    from .stories import STORY

    return STORY["frames"][index]


@pytest.mark.slow
def test_a_story_may_grow(finished, toyworld_folder, tmp_path):
    frames = [story_frame(index) for index in range(4)]
    out = make(tmp_path / "growing", toyworld_folder, frames=frames[:2])
    make(out, toyworld_folder, frames=frames)
    assert contents(out) == contents(finished)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 1}, "settings, seed: it was 0, now it is 1"),
        ({"steps": 5, "start": 2}, "steps: it was 4, now it is 5; .*start: it was 1, now it is 2"),
        ({"frames": ["Mira on a beach"]}, "there were 4 frames, now there are 1"),
        ({"frames": ["Mira in the snow"] * 4}, "frames 1, caption: it was .*Mira on a beach"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(copy, finished, toyworld_folder, changes, said):
    with pytest.raises(ValueError, match=f"{said}.*choose another folder.*--overwrite"):
        make(copy, toyworld_folder, **changes)
    assert contents(copy) == contents(finished)


def test_files_without_a_manifest_are_not_taken_for_ones_own(copy, toyworld_folder):
    (copy / "manifest.json").unlink()
    with pytest.raises(ValueError, match="no manifest.json"):
        make(copy, toyworld_folder)


def test_starting_over_gives_the_other_run_and_leaves_foreign_files(copy, finished, toyworld_folder):
    (copy / "notes.txt").write_text("mine")
    make(copy, toyworld_folder, frames=[story_frame(0)], overwrite=True, seed=1)
    assert not (copy / "frame_0002.png").exists()
    assert (copy / "notes.txt").read_text() == "mine"
    assert (copy / "frame_0001.png").read_bytes() != (finished / "frame_0001.png").read_bytes()


def test_two_runs_in_one_folder_at_a_time_are_refused(copy, toyworld_folder):
    with RunFolder(copy).locked(), pytest.raises(ValueError, match="Another run is working in"):
        make(copy, toyworld_folder)
    make(copy, toyworld_folder)


def test_who_is_not_found_is_an_error_or_stays_as_drawn(toyworld_folder, tmp_path):
    blind = PlaceDetector(blind=("boy",))
    frames = [story_frame(1)]
    with pytest.raises(ValueError, match='frame 1: found 0 of 1 "boy"'):
        make(tmp_path, toyworld_folder, frames=frames, detector=blind)
    make(tmp_path, toyworld_folder, frames=frames, detector=blind, on_missing="skip")
    assert read_about(tmp_path / "frame_0001.png")["not_found"] == ["Tom"]
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["frames"][0]["not_found"] == ["Tom"]


def test_identities_and_masks_can_be_given(finished, toyworld_folder, tmp_path):
    """With the run's own, without any detector or discovery, the same pictures come out."""
    given = {
        "identities": tuple((name, str(finished / "identities" / f"{name}.safetensors")) for name in ("Mira", "Tom")),
        "masks": str(finished / "masks"),
        "detector": "none",
    }
    run_story(story(), settings(toyworld_folder, **given), tmp_path)
    assert not (tmp_path / "portraits").exists()
    for number in (1, 2, 3, 4):
        name = f"frame_{number:04d}.png"
        assert Image.open(tmp_path / name).tobytes() == Image.open(finished / name).tobytes()


@pytest.mark.parametrize(
    ("frames", "changes", "said"),
    [
        (["Mira " + "and a boy with red hair " * 8], {}, "frame 1: the prompt has"),
        (["Mira"], {"portrait_template": "{character} " + "a " * 40}, 'Portraits of "Mira": the prompt has'),
        (["Mira"], {"detector": "none"}, "Nobody finds the characters"),
        (["Mira"], {"identities": (("Anna", __file__),)}, 'no character "Anna"'),
        (["Mira"], {"identities": (("Mira", __file__),)}, "not a safetensors file"),
    ],
)
def test_everything_that_can_be_known_is_said_before_the_first_step(toyworld_folder, tmp_path, frames, changes, said):
    steps = []
    with pytest.raises(ValueError, match=said):
        run_story(
            story(frames),
            settings(toyworld_folder, **changes),
            tmp_path / "out",
            detector=None if "detector" in changes else PlaceDetector(),
            report=lambda *step: steps.append(step),
        )
    assert not steps
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_every_step_is_reported(toyworld_folder, tmp_path):
    seen = []
    run_story(
        story([story_frame(0)]),
        settings(toyworld_folder),
        tmp_path,
        detector=PlaceDetector(),
        report=lambda *step: seen.append(step),
    )
    assert [step for step in seen if step[0] == "frame 1, template"] == [
        ("frame 1, template", n, 4) for n in (1, 2, 3, 4)
    ]
    assert seen[-1] == ("frame 1, re-denoising", 4, 4)
    portraits = [step for step in seen if step[0] == 'Portraits of "Mira"']
    assert portraits[-1][1:] == (10, 10)
    assert [done for _, done, _ in portraits] == sorted(done for _, done, _ in portraits)
    assert not [step for step in seen if "Tom" in step[0]]  # he is in no frame


def test_a_word_that_the_toy_world_does_not_have_is_refused_before_anything_is_drawn(toyworld_folder, tmp_path):
    pirate = {"name": "Jack", "word": "pirate", "description": "a pirate with red hair"}
    told = Story.parse({"characters": [pirate], "frames": ["Jack on a beach"]})
    with pytest.raises(ValueError, match='"Jack" is a pirate, but the toy world has only man, woman, boy, girl, robot'):
        run_story(told, settings(toyworld_folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()
