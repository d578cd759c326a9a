"""`story-identity verify`: files against the pack's list, two steps of everything, and the report."""

import hashlib
import json

import pytest
import torch
from story_identity.headless import cli, verification
from story_identity.headless.verification import FileCheck, Verification, models_of_workflow
from story_identity.headless.verification_report import write_report
from typer.testing import CliRunner

from tests.stand_ins.diffusers_models import write_single_file

from .test_benchmark_stories import ONE, write

SMALL = ("--width", "32", "--height", "32", "--cfg", "3")


def call(*words):
    return CliRunner().invoke(cli.app, ["verify", *(str(word) for word in words)])


def report_of(out):
    return json.loads((out / "report.json").read_text())


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_single_file_without_photomaker(request, tmp_path, family):
    pipe, folder = request.getfixturevalue(family), request.getfixturevalue(f"{family}_folder")
    path = write_single_file(tmp_path / "mine.safetensors", pipe)
    out = tmp_path / "report"
    done = call("--checkpoint", path, "--config", folder, "--out", out, *SMALL)
    assert done.exit_code == 0, done.output
    found = report_of(out)
    assert found["sound"]
    assert [each["name"] for each in found["files"]] == ["mine.safetensors"]
    stages = {each["name"]: each for each in found["stages"]}
    assert list(stages) == ["Loading", "Template", "Second pass, in the left and the right quarter", "AMSA, two frames"]
    assert [each["evaluations"] for each in stages.values()] == [0, 4, 4, 8]
    assert stages["Loading"]["found"]["width of its context"] == pipe.unet.config.cross_attention_dim
    assert stages["Second pass, in the left and the right quarter"]["found"]["largest change outside the masks"] == 0
    assert all(each["seconds"] > 0 and each["peak_mib"] > 0 for each in stages.values())
    text = (out / "report.md").read_text()
    assert "All is as it should be." in text
    assert all((out / name).is_file() and name in text for name in found["pictures"])
    assert found["pictures"] == ["template.png", "second_pass.png", "together_1.png", "together_2.png"]
    assert str(tmp_path) not in text + (out / "report.json").read_text()


@pytest.mark.slow
def test_photomaker_a_detector_and_the_benchmark(tmp_path):
    write(tmp_path / "set" / "a.json", {**ONE, "prompts": ["a woman with red hair on a beach"] * 2})
    quick = "--steps 2 --start 1 --portraits 2 --portrait-steps 2 --rank 1 --rounds 0 --on-missing skip".split()
    words = ("--checkpoint", "toyworld", "--benchmark", tmp_path / "set", "--encoders", "toyworld", *quick)
    done = call(*words, "--out", tmp_path / "report")
    assert done.exit_code == 0, done.output
    found = report_of(tmp_path / "report")
    names = [each["name"] for each in found["stages"]]
    assert names[1:4] == ["Portraits and identities", "Template", "Detector"]
    assert found["stages"][1]["evaluations"] == 16
    assert found["benchmark"][1][0] == "this run (1 stories)"
    assert "IdentityStory, as published" in (tmp_path / "report" / "report.md").read_text()
    assert (tmp_path / "report" / "benchmark" / "results.html").is_file()


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """A models folder and a workflow that lists two files, one of which the pack knows by its hash."""
    models = tmp_path / "models"
    (models / "checkpoints").mkdir(parents=True)
    (models / "checkpoints" / "known.safetensors").write_bytes(b"weights")
    known = next(iter(verification.load_manifest().values()))
    digest = hashlib.sha256(b"weights").hexdigest()
    changed = {"folder": "checkpoints", "name": "known.safetensors", "size": 7, "sha256": digest, "min_size": None}
    entry = type(known)(**{**vars(known), **changed})
    monkeypatch.setattr(verification, "load_manifest", lambda: {"known": entry})
    names = ("known.safetensors", "own.safetensors")
    listing = [{"name": name, "directory": "checkpoints", "url": ""} for name in names]
    nodes = [{"type": "CheckpointLoaderSimple", "properties": {"models": listing}}]
    write(tmp_path / "workflow.json", {"definitions": {"subgraphs": [{"nodes": nodes}]}})
    return tmp_path


def test_files_of_a_workflow(listed):
    assert models_of_workflow(listed / "workflow.json") == [
        ("checkpoints", "known.safetensors"), ("checkpoints", "own.safetensors"),
    ]  # fmt: skip
    checks = verification.check_workflow_files(models_of_workflow(listed / "workflow.json"), listed / "models")
    known, own = (check for check, _ in checks.values())
    assert known == FileCheck("checkpoints/known.safetensors", 7, ("size", "sha256"))
    assert own == FileCheck("checkpoints/own.safetensors", None, (), "missing")
    (listed / "models" / "checkpoints" / "known.safetensors").write_bytes(b"wEights")
    (listed / "models" / "checkpoints" / "own.safetensors").write_bytes(b"mine")
    checks = verification.check_workflow_files(models_of_workflow(listed / "workflow.json"), listed / "models")
    known, own = (check for check, _ in checks.values())
    assert "sha256" in known.problem
    assert str(listed) not in known.problem
    assert own == FileCheck("checkpoints/own.safetensors", 4, ())


def test_what_fails_is_in_the_report_and_in_the_exit_status(listed):
    out = listed / "report"
    done = call("--workflow", listed / "workflow.json", "--models-dir", listed / "models", "--out", out, "--cfg", "2")
    assert done.exit_code in (1, 2)
    found = report_of(out)
    assert not found["sound"]
    assert "**There are problems.**" in (out / "report.md").read_text()
    assert found["stages"][0]["name"] == "Loading"
    assert found["stages"][0]["problem"]
    assert len(found["stages"]) == 1


def test_a_model_that_overflows_is_named(tmp_path, sd15_folder, monkeypatch):
    def overflow(pipe, latent):
        return torch.full((len(latent), 32, 32, 3), torch.nan)

    monkeypatch.setattr(verification, "decode", overflow)
    done = call("--checkpoint", sd15_folder, "--out", tmp_path / "report", *SMALL)
    assert done.exit_code == 1
    assert "Template: ValueError: The decoded picture has NaN or infinite values" in done.output


def test_nothing_to_verify_and_no_workflow(tmp_path):
    done = call("--out", tmp_path / "report")
    assert done.exit_code == 2
    assert "What is to be verified?" in done.output
    write(tmp_path / "story.json", ONE)
    done = call("--workflow", tmp_path / "story.json", "--out", tmp_path / "report")
    assert done.exit_code == 2
    assert "story.json lists no models" in done.output
    done = call("--workflow", tmp_path / "none.json", "--benchmark", tmp_path, "--out", tmp_path / "report")
    assert done.exit_code == 2
    assert not (tmp_path / "report").exists()


def test_a_bar_in_a_name_does_not_break_the_table(tmp_path):
    write_report(tmp_path, Verification([FileCheck("a|b", 3, ("size",))]), None, None)
    assert "| a/b | 3 | size |" in (tmp_path / "report.md").read_text()
