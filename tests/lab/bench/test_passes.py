"""The benchmark of the ways of drawing: what it counts is what the ways cost, and its table says so."""

import pytest
import torch
from story_identity.core.guidance import OWN, SHARED, TEMPLATES
from story_identity.headless.studio import open_studio
from story_identity.lab.bench.passes import (
    LABELS,
    Measured,
    as_table,
    known_identities,
    measure,
    two_passes,
    with_settings,
)
from story_identity.lab.evaluation.drawing_modes import OFF
from story_identity.lab.evaluation.identitystory import evaluation_settings
from story_identity.lab.evaluation.stories import make_story

pytestmark = pytest.mark.slow

STEPS, START = 3, 1


@pytest.fixture(scope="module", params=["float32", "bfloat16", "float16"])
def measured(request):
    torch.set_num_threads(1)
    studio = open_studio(evaluation_settings(dtype=request.param, steps=STEPS, start=START), "cpu")
    toy = next(story for story in map(make_story, range(100)) if len(story.people) == 2)
    identities = known_identities(studio, toy)
    ways = {
        name: two_passes(with_settings(studio, {"guidance": name}), toy.story.frames[0], identities)
        for name in (OWN, SHARED, TEMPLATES)
    }
    ways["1 character"] = two_passes(studio, toy.story.frames[0], identities, 1)
    return measure(ways, "cpu", 1)


def test_evaluations_are_those_of_the_formulas(measured):
    rest = STEPS - START
    expected = {
        OWN: 2 * STEPS + 2 * 2 * rest,
        SHARED: 2 * STEPS + (2 + 1) * rest,
        TEMPLATES: 2 * STEPS + 2 * rest,
        "1 character": 2 * STEPS + 2 * rest,
    }
    assert {name: each.evaluations for name, each in measured.items()} == expected


def test_the_background_is_the_templates_bit_for_bit_in_every_dtype(measured):
    assert all(each.kept for each in measured.values())
    assert all(each.peak > 0 and each.seconds > 0 for each in measured.values())


def test_ratios_are_to_the_first_row_of_the_group():
    rows = {
        OWN: Measured(100, 2.0, 2**20, True),
        SHARED: Measured(80, 1.0, 2**21, False),
        OFF: Measured(7, 1.0, 1),
    }
    lines = as_table(rows, "float32, cpu").splitlines()
    assert lines[2] == f"| {LABELS[OWN]} | 100 | 1.00 | 2.00 | 1.00 | 1.0 | 1.00 | the same bits |"
    assert lines[3] == f"| {LABELS[SHARED]} | 80 | 0.80 | 1.00 | 0.50 | 2.0 | 2.00 | **changed** |"
    assert lines[4].startswith(f"| {LABELS[OFF]} | 7 | 1.00 | 1.00 | 1.00 |")
