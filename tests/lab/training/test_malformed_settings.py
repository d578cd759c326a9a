"""Settings files that are no settings files: encodings, and 300 generated ones, end in one clear error."""

import random

import pytest
from story_identity.lab.storydb.command import settings_from
from story_identity.lab.storydb.settings import StoryDBSettings
from story_identity.lab.training.settings import TrainingSettings, read_settings
from story_identity.lab.training.train_injector import InjectorSettings
from story_identity.lab.training.train_synchronizer import SynchronizerSettings

from .test_settings import LEAST, toml

STRANGE = (
    "-1", "0", "1.5", "1e400", "-1e400", "inf", "-inf", "nan", "+nan", "true", "9" * 30, "9" * 5000, "-" + "9" * 400,
    "1979-05-27T07:32:00Z", "07:32:00", "[]", "[1, 2]", "{}", "{a = 1}", "[" * 3000, "[" * 3000 + "]" * 3000,
    "{a = " * 3000, '""', '"many"', r'"\u0000"', r'"\u001b[31m"', r'"\ud800"', '"' + "x" * 9000 + '"', "'", '"', "0x",
    "", "=", "'" * 3, "1__0", "\x00", "\x1b", "é", "#", "\r",
)  # fmt: skip


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b""], ids=["bom", "plain"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_text_files_of_windows(tmp_path, mark, line_end):
    (tmp_path / "mine.toml").write_bytes(mark + toml(LEAST).replace("\n", line_end).encode())
    assert read_settings(SynchronizerSettings, tmp_path / "mine.toml").steps == 10


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_another_encoding_is_named(tmp_path, encoding):
    (tmp_path / "mine.toml").write_bytes(toml({**LEAST, "out": "café"}).encode(encoding))
    with pytest.raises(ValueError, match="mine.toml is not UTF-8 text .*; save it again as UTF-8"):
        read_settings(SynchronizerSettings, tmp_path / "mine.toml")


def test_a_file_that_is_far_too_large_is_not_read(tmp_path):
    (tmp_path / "mine.toml").write_bytes(b"#" * 2**21)
    with pytest.raises(ValueError, match="mine.toml is larger than a settings file may be"):
        read_settings(SynchronizerSettings, tmp_path / "mine.toml")


def malformed(chance):
    """A settings file with one to three faults."""
    lines = toml(LEAST).splitlines()
    names = list(SynchronizerSettings.model_fields)
    for _ in range(chance.randrange(1, 4)):
        name, fault = chance.choice(names), chance.randrange(6)
        if fault < 3:
            lines = [line for line in lines if not line.startswith(f"{name} ")]
            lines.append(f"{name} = {chance.choice(STRANGE)}")
        elif fault == 3:
            lines += chance.choice([[f"{name} = 1"] * 2, [f"[{name}]"], [f"[[{name}]]"], [f"{name}.{name} = 1"]])
        elif fault == 4:
            lines.append(chance.choice(["stepz = 1", f'"{"y" * 4000}" = 1', r'"\u0007" = 1', "a." * 900 + "a = 1"]))
        else:
            lines.pop(chance.randrange(len(lines)))
    return "\n".join(lines).encode()[: chance.choice([None, None, None, chance.randrange(1, 80)])]


def test_malformed_files_end_in_one_clear_error(tmp_path):
    chance, said, unlike = random.Random(18), [], []
    for number in range(300):
        kind = (TrainingSettings, SynchronizerSettings, InjectorSettings)[number % 3]
        (tmp_path / "mine.toml").write_bytes(malformed(chance))
        try:
            read_settings(kind, tmp_path / "mine.toml")
        except (ValueError, FileNotFoundError) as error:
            said.append(str(error))
            unlike += [error] if isinstance(error, UnicodeError) else []
    assert len(said) > 250  # the others are sound after all
    assert max(map(len, said)) < 1500
    assert all(each.isprintable() for each in said)
    assert not unlike


def test_malformed_thresholds_of_a_storydb_end_in_one_clear_error():
    chance, said = random.Random(9), []
    names = list(StoryDBSettings.model_fields)
    for _ in range(300):
        name = chance.choice([*names, "", "leest", "\ud800", "z" * 5000])
        given = [f"{name}{chance.choice(['=', '=', '=', ''])}{chance.choice(STRANGE)}"]
        if chance.random() < 0.1:
            given *= 2
        try:
            settings_from(given, {})
        except ValueError as error:
            said.append(str(error))
    assert len(said) > 200
    assert max(map(len, said)) < 1500
    assert all(each.isprintable() for each in said)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["aesthetic=nan"], "aesthetic is nan; it must be a finite number"),
        (["agreement=inf"], "agreement is inf; it must be a finite number"),
        (["contrast=1e400"], "contrast is inf; it must be a finite number"),
        (["least_side=4", "least_side=5"], "--set least_side is given twice"),
        (["least_side=" + "9" * 5000], "--set least_side: .* is no int"),
        (["most=" + "9" * 400], "most is 9.*; it must be at most 1000000"),
    ],
)
def test_thresholds(given, said):
    with pytest.raises(ValueError, match=said):
        settings_from(given, {})
