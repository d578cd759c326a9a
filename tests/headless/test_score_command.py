"""`story-identity score`: a folder of pictures to JSON, CSV, a plot and a page."""

import csv
import json
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image
from story_identity.core.detectors.faces import Face
from story_identity.core.layout import Layout
from story_identity.core.toyworld.recogniser import load_recogniser
from story_identity.headless import cli, scoring
from story_identity.headless.run import run_story
from story_identity.headless.run_files import write_masks
from story_identity.headless.scoring import ScoreSettings
from story_identity.lab.toyworld.people import sample_person
from story_identity.lab.toyworld.plan import Plan
from story_identity.lab.toyworld.world import draw
from typer.testing import CliRunner

from tests.stand_ins.judge import good_answer, judge_server

from .stories import STORY as SHORT_STORY
from .stories import PlaceDetector, settings, story

FRAMES = SHORT_STORY["frames"][:2]

STORY = {
    "characters": [
        {"name": "Mira", "word": "woman", "description": "a woman with red hair"},
        {"name": "Tom", "word": "boy", "description": "a boy with black hair"},
    ],
    "frames": ["Mira on a beach", "Mira and Tom in a forest", "Mira in the snow", "Tom in a garden"],
}
CASTS, PLACES = (("Mira",), ("Mira", "Tom"), ("Mira",), ("Tom",)), ("beach", "forest", "snow", "garden")


def people(seed):
    random = np.random.default_rng(seed)
    mira, tom = ({"word": "woman", "hair": "red"}, {"word": "boy", "hair": "black"})
    return {name: sample_person(random, held_out=True, **each) for name, each in (("Mira", mira), ("Tom", tom))}


def scene(number, cast):
    count = len(cast)
    plan = Plan(
        *(tuple(cast), ("standing",) * count, PLACES[number]),
        names_clothes=(False,) * count,
        names_hair=(True,) * count,
    )
    return draw(plan, np.random.default_rng(number))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Frames of one Mira and one Tom as the toy world draws them; in frame 3 Mira is somebody else."""
    folder = tmp_path_factory.mktemp("drawn")
    known, strangers = people(5), people(11)
    for number, names in enumerate(CASTS):
        found = scene(number, [(strangers if number == 2 else known)[name] for name in names])
        Image.fromarray(found.image).save(folder / f"picture_{number}.png")
        (folder / "masks").mkdir(exist_ok=True)
        write_masks(folder / "masks" / f"frame_{number + 1:04d}.png", Layout(names, torch.tensor(found.masks)))
    (folder / "story.json").write_text(json.dumps(STORY))
    return folder


def call(*words):
    return CliRunner().invoke(cli.app, ["score", *(str(word) for word in words)])


def test_a_folder_of_the_toy_world_is_scored(drawn, tmp_path):
    out = tmp_path / "scores"
    done = call(drawn, "--story", drawn / "story.json", "--encoders", "toyworld", "--out", out)
    assert done.exit_code == 0, done.output
    assert "Mira: found 3 of 3 faces" in done.output
    assert "Mira: the face of frame 3 is least like the others" in done.output
    assert sorted(path.name for path in out.iterdir()) == ["likeness.png", "scores.csv", "scores.html", "scores.json"]
    found = json.loads((out / "scores.json").read_text())
    assert found["encoders"] == {"faces": "toyworld"}
    assert found["pictures"] == [f"picture_{number}.png" for number in range(4)]
    mira = found["characters"][0]
    assert mira["least_alike_frame"] == 3
    cosines = np.array(mira["face_cosines"], np.float64)
    assert cosines[0, 1] > 0.5 > cosines[0, 2]
    assert mira["scores"]["face_sim"] == pytest.approx((cosines[0, 1] + cosines[0, 2] + cosines[1, 2]) / 3)
    with (out / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["frame"], row["character"]) for row in rows] == [
        ("1", "Mira"), ("2", "Mira"), ("2", "Tom"), ("3", "Mira"), ("4", "Tom"),
    ]  # fmt: skip
    page = (out / "scores.html").read_text()
    assert page.count("data:image/png;base64,") == 1 + 4
    assert ", worst" in page
    assert "http" not in page


def test_the_same_twice(drawn, tmp_path):
    words = (drawn, "--story", drawn / "story.json", "--encoders", "toyworld", "--out")
    for name in ("one", "other"):
        assert call(*words, tmp_path / name).exit_code == 0
    for file in ("scores.json", "scores.csv", "scores.html", "likeness.png"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()


def test_users_text_is_escaped_on_the_page(drawn, tmp_path):
    changed = json.loads(json.dumps(STORY).replace("Mira", "<b>Mira"))
    (tmp_path / "story.json").write_text(json.dumps(changed))
    done = call(drawn, "--story", tmp_path / "story.json", "--encoders", "toyworld", "--out", tmp_path / "scores")
    assert done.exit_code == 0, done.output
    assert "<b>" not in (tmp_path / "scores" / "scores.html").read_text()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "There is nothing to score with: give --faces dlib"),
        (("--encoders", "sdxl"), '--encoders is "sdxl"; it can only be toyworld.'),
        (("--encoders", "toyworld", "--faces", "dlib"), "has its own face recogniser"),
        (("--faces", "dlib", "--sam", "x"), "takes all of --grounding-dino, --sam and --bert"),
        (("--encoders", "toyworld", "--masks", "x"), "--masks says who is where; leave it out, or the detector."),
        (("--encoders", "toyworld", "--reference", "Mira"), "--reference takes NAME=FILE, not Mira."),
        (("--encoders", "toyworld", "--reference", "Mira=nothing.png"), "nothing.png cannot be read as a picture"),
        (("--encoders", "toyworld", "--reference", "Ann={picture}"), 'The story has no character "Ann"'),
        (("--faces", "facenet"), 'There is no face recogniser "facenet"'),
        (("--faces", "sface"), "The face recogniser sface needs the folder that has face_detection_yunet"),
        (("--clip", "{folder}"), "lacks config.json, the weights"),
    ],
)
def test_mistakes_are_one_line(drawn, words, complaint):
    given = [word.format(picture=drawn / "picture_0.png", folder=drawn) for word in words]
    done = call(drawn, "--story", drawn / "story.json", *given)
    assert done.exit_code == 2
    assert complaint in done.output
    assert len(done.output.strip().splitlines()) == 1
    assert not (drawn / "scores").exists()


def test_folders_that_do_not_fit_are_named(drawn, tmp_path):
    assert "There is no folder" in call(tmp_path / "no", "--encoders", "toyworld").output
    assert "is no folder of a run: say with --story FILE" in call(drawn, "--encoders", "toyworld").output
    done = call(tmp_path, "--story", drawn / "story.json", "--encoders", "toyworld")
    assert "There are 0 pictures in" in done.output
    assert "the story has 4 frames" in done.output


@pytest.fixture(scope="module")
def finished(toyworld_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return run_story(story(FRAMES), settings(toyworld_folder), out, detector=PlaceDetector()).root


class Everybody:
    """A face for whoever has a mask; it says how large the mask is."""

    name, width, threshold = "everybody", 2, 0.9

    def find(self, image):
        return None

    def find_all(self, images, masks):
        return [Face(torch.tensor([1.0, float(mask.sum())]), torch.zeros(1, 1, 3)) for mask in masks]


def test_a_run_is_scored_with_its_own_masks(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "open_recogniser", lambda settings: Everybody())
    scores, *_ = scoring.score_folder(finished, None, ScoreSettings(faces="dlib"), tmp_path, lambda *progress: None)
    assert [person.name for person in scores.characters] == ["Mira", "Tom"]
    assert [person.found["face_sim"] for person in scores.characters] == [2, 1]
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["encoders"] == {"faces": "everybody"}
    assert found["threshold"] == 0.9
    (finished / "frame_0002.png").rename(tmp_path / "away.png")
    done = call(finished, "--encoders", "toyworld")
    (tmp_path / "away.png").rename(finished / "frame_0002.png")
    assert done.exit_code == 2
    assert "is not finished: it lacks frame_0002.png. Run it again to go on." in done.output


def test_masks_say_who_is_where(drawn, tmp_path, monkeypatch):
    """Exact masks give the toy recogniser what the detector found."""
    monkeypatch.setattr(scoring, "open_recogniser", lambda settings: load_recogniser())
    found = []
    for chosen in (ScoreSettings(encoders="toyworld"), ScoreSettings(faces="dlib", masks=str(drawn / "masks"))):
        scores, *_ = scoring.score_folder(drawn, drawn / "story.json", chosen, tmp_path, lambda *progress: None)
        found.append([each.scores["face_sim"] for each in scores.characters])
    assert found[0] == pytest.approx(found[1])
    assert len(found[0]) == len(STORY["characters"])


def test_q_align_and_a_judge_are_on_the_page(drawn, tmp_path, monkeypatch):
    monkeypatch.setitem(
        sys.modules,
        "pyiqa",
        types.SimpleNamespace(create_metric=lambda name, device: lambda pixels, task_: torch.tensor(len(task_) / 2)),
    )
    monkeypatch.setenv("STORY_IDENTITY_JUDGE_KEY", "secret")
    words = (drawn, "--story", drawn / "story.json", "--encoders", "toyworld", "--out", tmp_path)
    with judge_server([good_answer(*[(90, 80, 70)] * 4)]) as (address, requests):
        done = call(*words, "--quality", "qalign", "--judge", address, "--judge-model", "some-model")
    assert done.exit_code == 0, done.output
    assert "non-commercial purposes only" in done.output
    assert requests[0][1]["Authorization"] == "Bearer secret"
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["encoders"] == {"faces": "toyworld", "quality": "qalign", "judge": "some-model"}
    assert found["ratings"]["qalign_aesthetic"]["of_frames"] == [4.5] * 4
    assert found["ratings"]["character_consistency"]["mean"]["mean"] == 80
    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    assert {row["image_quality"] for row in rows} == {"70.0"}
    assert "judge: image quality (0 to 100)" in (tmp_path / "scores.html").read_text()
    assert not any("secret" in path.read_text(errors="replace") for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--quality", "musiq"), '--quality is "musiq"; it can only be qalign'),
        (("--judge", "http://localhost/v1"), "both --judge, its address, and --judge-model"),
        (("--judge", "localhost", "--judge-model", "m"), "must begin with http"),
    ],
)
def test_raters_that_cannot_be_are_refused_before_anything_is_measured(drawn, words, message):
    done = call(drawn, "--story", drawn / "story.json", "--encoders", "toyworld", *words)
    assert done.exit_code == 2
    assert message in done.output
    assert not (drawn / "scores").exists()
