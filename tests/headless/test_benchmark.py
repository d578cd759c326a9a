"""`story-identity benchmark`: a small set drawn and scored, stopped and continued; pictures made elsewhere; tables."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import torch
from PIL import Image
from story_identity.headless import cli
from story_identity.headless.benchmark import Plan as BenchmarkPlan
from story_identity.headless.benchmark_stories import CONSISTORY_HUMAN, VISTORYBENCH
from story_identity.headless.benchmark_tables import COLUMNS, PUBLISHED, means, table_rows
from story_identity.headless.run_settings import toyworld_settings
from story_identity.headless.scoring import ScoreSettings
from story_identity.lab.toyworld.people import sample_person
from story_identity.lab.toyworld.plan import Plan
from story_identity.lab.toyworld.world import draw
from typer.testing import CliRunner

from .test_benchmark_stories import ONE, TWO, write

QUICK = (
    "--encoders toyworld --checkpoint toyworld --steps 3 --start 1 --portraits 4 --portrait-steps 2 --rank 1 "
    "--rounds 1 --on-missing skip"
).split()


def call(*words):
    return CliRunner().invoke(cli.app, ["benchmark", *(str(word) for word in words)])


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A set of three stories: of one person, and two of two."""
    folder = tmp_path_factory.mktemp("set")
    write(
        folder / "a.json", {**ONE, "prompts": ["a woman with red hair on a beach", "a woman with red hair in the snow"]}
    )
    write(folder / "multi-2" / "b.json", TWO)
    write(folder / "multi-2" / "c.json", {**TWO, "settings": ["on a beach", "in a garden"]})
    return folder


@pytest.fixture(scope="module")
def finished(published, tmp_path_factory):
    out = tmp_path_factory.mktemp("done") / "out"
    done = call(CONSISTORY_HUMAN, published, "--out", out, *QUICK)
    assert done.exit_code == 0, done.output
    return out, done.output


def files_of(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_set_is_drawn_as_published_and_stands_next_to_the_published_rows(finished):
    out, said = finished
    results = json.loads((out / "results.json").read_text())
    assert [each["story"] for each in results["stories"]] == ["a", "multi-2/b", "multi-2/c"]
    assert [each["faces_wanted"] for each in results["stories"]] == [2, 4, 4]
    assert results["means"]["clip_t"] is None
    manifest = json.loads((out / "runs" / "multi-2" / "b" / "manifest.json").read_text())
    assert manifest["frames"][0]["prompt"] == "A photo of a woman and a boy in a forest"
    assert manifest["settings"]["prompt"] == "character"
    rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    assert [row["story"] for row in rows] == ["a", "multi-2/b", "multi-2/c"]
    page = (out / "results.html").read_text()
    for name in PUBLISHED[CONSISTORY_HUMAN]:
        assert name in said
        assert name in page
    assert "not measured" in said
    assert "this run (3 stories)" in page


def test_finished_stories_are_left_alone_and_lost_ones_done_again(finished, published):
    out, _ = finished
    before, written = files_of(out), {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    (out / "scores" / "multi-2" / "b.json").unlink()
    assert call(CONSISTORY_HUMAN, published, "--out", out, *QUICK).exit_code == 0
    assert files_of(out) == before
    again = {path.relative_to(out).as_posix() for path, at in written.items() if path.stat().st_mtime_ns != at}
    assert again == {"scores/multi-2/b.json", "results.json"}


@pytest.mark.slow
def test_killed_and_run_again_gives_the_same_files(finished, published, tmp_path):
    out = tmp_path / "out"
    words = [sys.executable, "-m", "story_identity.headless", "benchmark", CONSISTORY_HUMAN, str(published)]
    words += ["--out", str(out), *QUICK]
    first = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 240
        while not (out / "scores" / "a.json").is_file() and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    assert not (out / "results.json").exists()
    kept = (out / "scores" / "a.json").stat().st_mtime_ns
    done = call(CONSISTORY_HUMAN, published, "--out", out, *QUICK)
    assert done.exit_code == 0, done.output
    assert (out / "scores" / "a.json").stat().st_mtime_ns == kept
    name = "results.json"
    assert json.loads((out / name).read_text()) == json.loads((finished[0] / name).read_text())


def test_a_folder_belongs_to_one_set_of_settings(finished, published):
    out, _ = finished
    done = call(CONSISTORY_HUMAN, published, "--out", out, *QUICK, "--cfg", "2")
    assert done.exit_code == 2
    assert 'was done with another "run.cfg"; give another folder' in done.output


def toy_pictures(folder, people, seed):
    folder.mkdir(parents=True)
    for number, place in enumerate(("forest", "beach")):
        count = len(people)
        plan = Plan(
            *(tuple(people), ("standing",) * count, place), names_clothes=(False,) * count, names_hair=(True,) * count
        )
        Image.fromarray(draw(plan, np.random.default_rng(seed + number)).image).save(folder / f"{number}.png")


def test_vistorybench_on_pictures_made_elsewhere(tmp_path):
    random = np.random.default_rng(3)
    mira, other = (sample_person(random, held_out=True, word="woman", hair="red") for _ in range(2))
    shot = {
        "index": 1,
        "Static Shot Description": {"en": "Mira stands there."},
        "Setting Description": {"en": "A forest."},
        "Characters Appearing": {"en": ["Mira"]},
    }
    person = {"name_en": "Mira", "prompt_en": "a woman with red hair", "tag": "realistic_human"}
    for name in ("01", "02"):
        write(tmp_path / "set" / name / "story.json", {"Characters": {"Mira": person}, "Shots": [shot, shot]})
        toy_pictures(tmp_path / "set" / name / "image" / "Mira", [mira], 20)
    toy_pictures(tmp_path / "pictures" / "01", [mira], 40)
    toy_pictures(tmp_path / "pictures" / "02", [other], 40)
    words = (VISTORYBENCH, tmp_path / "set", "--images", tmp_path / "pictures", "--encoders", "toyworld")
    done = call(*words, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    same, strange = (each["numbers"] for each in json.loads((tmp_path / "out" / "results.json").read_text())["stories"])
    assert same["cids_cross"] > strange["cids_cross"] + 0.3
    assert min(same["cids_self"], strange["cids_self"]) > 0.8
    assert same["occm"] == strange["occm"] == 100
    assert 0 < same["copy_paste"] < 1
    (ours,) = (line for line in done.output.splitlines() if line.startswith("this run (2 stories)"))
    assert ours.endswith("not measured | not measured | not measured")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((CONSISTORY_HUMAN, "SET", "--encoders", "toyworld"), "Give --checkpoint, with which the stories are drawn"),
        ((CONSISTORY_HUMAN, "SET", "--checkpoint", "toyworld"), "There is nothing to score with"),
        ((CONSISTORY_HUMAN, "SET", "--encoders", "toyworld", "--images", "SET"), "--images has no folder a"),
        ((CONSISTORY_HUMAN, "SET", *QUICK, "--together", "--prompt", "character"), "prompt is for re-denoising"),
    ],
)
def test_bad_input_is_refused_before_anything_is_drawn(published, tmp_path, words, message):
    done = call(*(published if word == "SET" else word for word in words), "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert message in done.output
    assert not (tmp_path / "out").exists()


def test_vistorybench_is_not_drawn_here():
    with pytest.raises(ValueError, match="draw its stories elsewhere"):
        BenchmarkPlan(VISTORYBENCH, ScoreSettings(encoders="toyworld"), toyworld_settings())


def numbers(story, **values):
    return {"story": story, "frames": 2, "encoders": {}, "numbers": values, "faces_found": 3, "faces_wanted": 4}


def test_means_are_over_the_stories_that_have_a_number():
    rows = [numbers("a", face_sim=0.5, clip_t=0.3), numbers("b", face_sim=0.7), numbers("c", face_sim=None)]
    found = means(CONSISTORY_HUMAN, rows)
    assert found["face_sim"].mean == pytest.approx(0.6)
    assert found["clip_t"].count == 1
    assert found["clip_i"] is None
    ours = table_rows(CONSISTORY_HUMAN, rows)[1]
    assert ours == [
        "this run (3 stories)",
        "30.0",
        "not measured",
        "not measured",
        "60.0 (50.0 to 70.0)",
        *["not measured"] * 2,
    ]


def test_the_published_rows_have_a_number_in_every_column():
    for benchmark, rows in PUBLISHED.items():
        assert all(len(row) == len(COLUMNS[benchmark]) for row in rows.values())


@pytest.mark.slow
def test_q_align_is_loaded_once_and_missing_before_anything_is_drawn(published, tmp_path, monkeypatch):
    made = []

    def create_metric(name, device):
        made.append(name)
        return lambda pixels, task_: torch.tensor({"quality": 4.0, "aesthetic": 3.0}[task_])

    words = (CONSISTORY_HUMAN, published, *QUICK, "--stories", "2", "--quality", "qalign")
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    done = call(*words, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "run pip install pyiqa" in done.output
    assert not (tmp_path / "out" / "runs").exists()
    monkeypatch.setitem(sys.modules, "pyiqa", types.SimpleNamespace(create_metric=create_metric))
    done = call(*words, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert made == ["qalign"]
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["means"]["qalign_aesthetic"]["mean"] == 3
    assert found["stories"][1]["ratings_missing"] == {"qalign_aesthetic": 0, "qalign_general": 0}
