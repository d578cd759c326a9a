"""One small story through the evaluation of rank and rounds, with random weights and a ready detector."""

import json
from dataclasses import replace

import pytest
import torch
from story_identity.lab.evaluation import discovery
from story_identity.lab.evaluation.drawing_modes import frames_noise
from story_identity.lab.evaluation.stories import make_story

from tests.closeness import assert_close
from tests.lab.evaluation.small import PORTRAIT_STEPS, PORTRAITS, STORY, T

SMALL = {"rank 1, 1": (1, 1), "rank 2, 1": (2, 1), "rank 1, 2": (1, 2)}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(discovery, "DISCOVERED", SMALL)
    monkeypatch.setattr(discovery, "SOURCES", ("mean", *SMALL, "true"))
    monkeypatch.setattr(discovery, "REPORTED", "rank 1, 1")
    monkeypatch.setattr(discovery, "PICTURES", 4)


def test_the_scenes_show_one_person_at_all_places_and_say_what_the_description_says():
    toy = make_story(2)  # of two people
    story = discovery.scenes_of(toy)
    assert len(story.frames) == discovery.PICTURES
    character = toy.story.characters[0]
    assert [each.character.name for frame in story.frames for each in frame.appearances] == [character.name] * 15
    assert all(character.description in frame.prompt for frame in story.frames)
    assert discovery.scenes_of(toy) == story
    assert len({frame.prompt for frame in story.frames}) > 10


@pytest.mark.slow
def test_a_row_has_every_source_and_counts_its_evaluations(instruments, small):
    row, pictures = discovery.measure_story(instruments, STORY)
    assert json.loads(json.dumps(row)) == row
    assert list(pictures) == list(row["face_sim"]) == ["mean", *SMALL, "true"]
    assert row["evaluations"] == PORTRAITS * PORTRAIT_STEPS * 2 + 5 * 4 * T * 2
    assert row["faces"] == dict.fromkeys(pictures, 4)
    assert all(-1 <= value <= 1 for value in row["face_sim"].values())
    assert row["kept"]["rank 1, 2"] < row["kept"]["rank 1, 1"] == row["kept"]["rank 2, 1"] < row["kept"]["mean"]
    assert row["energy"]["rank 1, 1"] < row["energy"]["rank 2, 1"] < 1
    assert not torch.equal(pictures["mean"][0], pictures["true"][0])
    again = discovery.measure_story(instruments, STORY)
    assert again[0] == row


def test_frames_of_a_batch_are_drawn_as_alone(instruments, small):
    studio, toy = instruments.studio, make_story(STORY)
    story = discovery.scenes_of(toy)
    character = toy.story.characters[0]
    identity = studio.identity(character, torch.linspace(-1, 1, studio.photomaker.width), {})
    together = discovery.draw_scenes(studio, story, identity, 5)
    alone = replace(story, frames=story.frames[1:2])
    assert frames_noise(studio, alone, 5).equal(frames_noise(studio, story, 5)[1:2])
    assert_close(discovery.draw_scenes(studio, alone, identity, 5)[0], together[1], tolerance=1e-4)


def test_the_table_compares_with_the_mean():
    row = {
        "story": 0,
        "people": ["a robot"],
        "evaluations": 1500,
        "face_sim": dict.fromkeys(discovery.SOURCES, 0.5) | {"mean": 0.25},
        "faces": dict.fromkeys(discovery.SOURCES, 14),
        "kept": dict.fromkeys(discovery.DISCOVERED, 38) | {"mean": 64},
        "energy": dict.fromkeys(discovery.DISCOVERED, 0.75),
        "cohesion": dict.fromkeys(("mean", *discovery.DISCOVERED), 0.375),
        "faces_kept": dict.fromkeys(("mean", *discovery.DISCOVERED), None),
    }
    text = discovery.make_tables([row, row | {"story": 1}])
    assert text.startswith(
        "2 stories of 15 pictures of one person, drawn with each of 10 identities in 10 steps, 300 in all; 3,000 UNet "
        "evaluations. Means over people, with 95 % bootstrap intervals; differences"
    )
    gains = "28 of 30 | 0.500 [0.500, 0.500] | +0.250 [+0.250, +0.250] |"
    assert f"| discovery, rank 3, 1 round | 38 | 0.750 [0.750, 0.750] | 0.375 [0.375, 0.375] | – | {gains}" in text
    assert f"| *drawings of one true person* |  |  |  |  | {gains}" in text
    assert (
        "| all portraits (0 rounds) | 64 |  | 0.375 [0.375, 0.375] | – | 28 of 30 | 0.250 [0.250, 0.250] |  |" in text
    )
    for line in text.split("\n\n")[1].splitlines():
        assert line.count("|") == 9
