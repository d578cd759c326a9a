"""Settings files: every mistake is found before anything is loaded, and said in one sentence."""

from pathlib import Path

import pytest
import torch
from story_identity.lab.training import settings as module
from story_identity.lab.training.command import frozen_dtype, settings_file
from story_identity.lab.training.settings import TrainingSettings, read_settings
from story_identity.lab.training.train_injector import InjectorSettings
from story_identity.lab.training.train_synchronizer import SynchronizerSettings

LEAST = {"checkpoint": "toyworld", "data": "toyworld", "out": "out", "steps": 10, "device": "cpu"}
CONFIGS = Path(module.__file__).parent / "configs"


def toml(values):
    words = {str: lambda value: f'"{value}"', bool: lambda value: str(value).lower()}
    return "".join(f"{name} = {words.get(type(value), str)(value)}\n" for name, value in values.items())


def read(tmp_path, values, **changes):
    path = tmp_path / "mine.toml"
    path.write_text(values if isinstance(values, str) else toml(values))
    return read_settings(SynchronizerSettings, path, **changes)


def test_every_setting_arrives(tmp_path):
    story = tmp_path / "story.json"
    story.touch()
    other = {"precision": "bf16", "schedule": "cosine", "device": "cpu", "workers": 1, "width": 72, "height": 80}
    other |= {
        "ema": 0.25,
        "out": str(tmp_path),
        "text_dropout": 1.0,
        "checkpoint": str(story),
        "data": str(story),
        "config": str(story),
    }
    values = {}
    for name, each in SynchronizerSettings.model_fields.items():
        plain = {int: 7, float: 0.75, bool: True, str: str(story)}.get(each.annotation)
        values[name] = other.get(name, plain)
    chosen = read(tmp_path, values)
    assert {name: getattr(chosen, name) for name in values} == values
    assert all(each.description for each in SynchronizerSettings.model_fields.values())


def test_whole_numbers_are_numbers_and_changes_replace(tmp_path):
    chosen = read(tmp_path, {**LEAST, "learning_rate": 1}, steps=3, out="there")
    assert (chosen.learning_rate, chosen.steps, chosen.out) == (1.0, 3, "there")
    assert type(chosen.learning_rate) is float


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stepz": 3}, 'mine.toml: there is no setting "stepz". There are checkpoint'),
        ({"steps": "many"}, 'steps is "many"; it must be of type int'),
        ({"steps": 1.5}, "steps is 1.5; it must be of type int"),
        ({"steps": True}, "steps is True; it must be of type int"),
        ({"gradient_checkpointing": 1}, "gradient_checkpointing is 1; it must be of type bool"),
        ({"steps": 0}, "mine.toml: steps is 0; it must be 1 or more and at most 1000000000"),
        ({"width": 100}, "width is 100; it must be a multiple of 8"),
        ({"learning_rate": 0}, "mine.toml: learning_rate is 0; it must be above 0"),
        ({"text_dropout": 1.1}, "text_dropout is 1.1"),
        ({"ema": 1}, "ema is 1; it must be 0 or more and under 1"),
        ({"precision": "half"}, 'precision is "half"; it must be one of no, fp16, bf16'),
        ({"precision": "fp16"}, 'precision "fp16" needs a GPU'),
        ({"workers": 2}, "workers is 2; it must be one of 0, 1"),
        ({"draw_every": 5}, "draw_every is set, but there is no story"),
        ({"frames": 1}, "frames is 1; it must be 2 or more and at most 4096"),
        ({"rank": 0}, "rank is 0"),
        ({"steps": 10**10}, "steps is 10000000000; it must be 1 or more and at most 1000000000"),
        ({"seed": 2**64}, "seed is 18446744073709551616; it must be 0 or more and at most 9223372036854775807"),
        ({"learning_rate": 10**400}, "learning_rate is 10.*; it must be a finite number"),
        ({"learning_rate": float("inf")}, "learning_rate is inf; it must be a finite number"),
        ({"mask_loss": float("nan")}, "mask_loss is nan; it must be a finite number"),
        ({"wait_minutes": 0}, "wait_minutes is 0; it must be above 0"),
        ({"out": ""}, 'out is ""; it must not be empty'),
        ({"checkpoint": ""}, 'checkpoint is ""; it must not be empty'),
        ({"out": __file__}, "out is .*, which cannot be a folder"),
        ({"out": __file__ + "/x"}, "out is .*, which cannot be a folder"),
        ({"out": "x" * 5000}, "out is .*, which cannot be a folder"),
        ({"mask_loss": -0.1}, "mask_loss is -0.1"),
    ],
)
def test_mistakes(tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        read(tmp_path, {**LEAST, **changes})


@pytest.mark.parametrize("name", ["checkpoint", "data", "config", "story"])
def test_missing_files(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f'{name}: there is no "nowhere/x"'):
        read(tmp_path, {**LEAST, name: "nowhere/x"})


def test_missing_settings_and_files_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="mine.toml: there is no data, steps, which must be given"):
        read(tmp_path, {name: LEAST[name] for name in ("checkpoint", "out", "device")})
    with pytest.raises(ValueError, match="mine.toml is not valid TOML.*line 1"):
        read(tmp_path, "steps == 3")
    with pytest.raises(FileNotFoundError, match="no settings file .*none.toml"):
        read_settings(TrainingSettings, tmp_path / "none.toml")


def test_a_gpu_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match='device is "cuda", but torch finds no CUDA device'):
        read(tmp_path, {**LEAST, "device": "cuda"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    dtypes = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    for precision, dtype in dtypes.items():
        assert frozen_dtype(read(tmp_path, {**LEAST, "device": "cuda", "precision": precision})) == dtype
    assert frozen_dtype(read(tmp_path, {**LEAST, "precision": "bf16"})) == torch.float32


def test_the_packs_own_files_are_found_by_name_and_are_sound(monkeypatch, tmp_path):
    assert settings_file(Path("toyworld_synchronizer")) == CONFIGS / "toyworld_synchronizer.toml"
    chosen = read_settings(SynchronizerSettings, settings_file(Path("toyworld_synchronizer.toml")))
    assert (chosen.checkpoint, chosen.tracker, chosen.frames) == ("toyworld", "", 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    paths = {"checkpoint": "toyworld", "config": "", "data": "toyworld"}
    assert read_settings(SynchronizerSettings, settings_file(Path("synchronizer_sd15")), **paths).steps == 50000
    encoder = {"image_encoder": "toyworld"}
    assert read_settings(InjectorSettings, settings_file(Path("injector_sd15")), **paths, **encoder).stage == 1
    stages = [
        read_settings(InjectorSettings, settings_file(Path(f"toyworld_injector_stage{stage}")), **made)
        for stage, made in ((1, {}), (2, {"start": __file__, "synchronizer": __file__}))
    ]
    assert [each.stage for each in stages] == [1, 2]
    monkeypatch.chdir(tmp_path)
    Path("toyworld_synchronizer").mkdir()  # where a first run of it has left its files
    assert settings_file(Path("toyworld_synchronizer")) == CONFIGS / "toyworld_synchronizer.toml"
    Path("toyworld_synchronizer").rmdir()
    Path("toyworld_synchronizer").touch()
    for own in ("toyworld_synchronizer", "elsewhere/toyworld_synchronizer"):
        assert settings_file(Path(own)) == Path(own)
