"""The comparison of cheaper ways with the paper's, with random weights."""

import json

import pytest
import torch
from story_identity.core.guidance import OWN, SHARED, TEMPLATES
from story_identity.lab.evaluation.fewer_evaluations import FEW_PORTRAITS, REGION, WAYS, make_tables, measure_story

from tests.closeness import assert_close, largest_difference
from tests.lab.evaluation.small import PORTRAITS, START, STORY, T

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measured(instruments):
    return measure_story(instruments, STORY)


def test_the_row_is_json_and_counts_every_evaluation(measured):
    row, pictures = measured
    assert json.loads(json.dumps(row)) == row
    frames, steps = len(row["prompts"]), T - START
    assert row["evaluations_by_way"][OWN] == frames * (2 * T + 4 * steps)
    assert row["evaluations_by_way"][SHARED] == frames * (2 * T + 3 * steps)
    assert row["evaluations_by_way"][TEMPLATES] == frames * (2 * T + 2 * steps)
    assert row["evaluations_by_way"]["8 steps"] == frames * (2 * 8 + 4 * 6)
    assert row["evaluations_by_way"][REGION] == row["evaluations_by_way"][OWN]
    assert row["whole_pictures_by_way"][OWN] == row["evaluations_by_way"][OWN]
    assert frames * 2 * T < row["whole_pictures_by_way"][REGION] < row["whole_pictures_by_way"][OWN]
    assert set(row["agreement"]) == set(pictures)
    assert row["portraits"] == {OWN: 2 * [PORTRAITS], FEW_PORTRAITS: 2 * [PORTRAITS]}  # so few never settle


def test_a_shared_unconditional_draws_the_same_pictures(measured):
    _, pictures = measured
    assert_close(torch.stack(pictures[SHARED]), torch.stack(pictures[OWN]), 1e-4)


def test_no_way_changes_the_background_and_a_region_changes_what_is_inside(measured):
    row, pictures = measured
    assert set(row["edges"]) == set(WAYS)
    assert all(edges["latent_difference"] == 0 for edges in row["edges"].values())
    assert all(isinstance(edges[key], float) for edges in row["edges"].values() for key in ("psnr", "seam"))
    assert largest_difference(torch.stack(pictures[REGION]), torch.stack(pictures[OWN])) > 1e-4


def test_the_tables_have_every_way(measured):
    text = make_tables([measured[0], {**measured[0], "story": 3}])
    assert text.count("8 steps") >= 3
    assert all(len(line.split("|")) > 2 for line in text.splitlines() if line.startswith("|"))
    assert len(WAYS) == 7
