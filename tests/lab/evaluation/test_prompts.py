"""The comparison of the frame's prompt with the character's description, with random weights."""

import json

import pytest
import torch
from story_identity.core.story import CHARACTER, FRAME
from story_identity.lab.evaluation.identitystory import DRAWN, OTHERS, Seen, find_identities
from story_identity.lab.evaluation.identitystory import SEEDS_PER_STORY as SEEDS
from story_identity.lab.evaluation.prompts import DRAWINGS, FIRST_FRAME, make_tables, measure_story, measure_swapped
from story_identity.lab.evaluation.stories import make_story
from story_identity.lab.evaluation.variants import TEMPLATE, draw_variants

from tests.lab.evaluation.small import PORTRAIT_STEPS, PORTRAITS, START, STORY, KnowsTheAnswers, T

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measured(instruments):
    return measure_story(instruments, STORY)


def test_the_row_is_json_and_counts_every_evaluation(measured):
    row, pictures = measured
    assert json.loads(json.dumps(row)) == row
    assert list(pictures) == [*DRAWINGS, DRAWN, OTHERS]
    assert set(row["agreement"]) == set(row["swapped"]) == set(pictures)
    portraits = 2 * PORTRAITS * PORTRAIT_STEPS * 2
    assert row["evaluations"] == portraits + 4 * (2 * T + 2 * 2 * 2 * (T - START))


def test_the_frames_prompt_draws_what_the_other_evaluation_draws(instruments, measured):
    toy = make_story(STORY)
    identities, _ = find_identities(instruments, toy, STORY * SEEDS)
    frame = toy.story.frames[0]
    known = draw_variants(instruments.studio, frame, STORY * SEEDS + FIRST_FRAME, identities).pictures
    _, pictures = measured
    assert torch.equal(pictures[TEMPLATE][0], known[TEMPLATE])
    assert torch.equal(pictures[FRAME][0], known["discovered"])
    assert not torch.equal(pictures[CHARACTER][0], known["discovered"])


def test_swapped_by_hand():
    """Everybody is read as the first person is meant to be: the second one shows the first one's words throughout."""
    toy = make_story(STORY)
    first, second = toy.people
    read = {"word": first.word, "hair": first.hair, "pose": toy.plans[0].poses[0], "clothes": first.clothes}
    mask, image = torch.ones(64, 64, dtype=torch.bool), torch.zeros(64, 64, 3)
    seen = {character.name: Seen(mask, None) for character in toy.story.characters}
    found = measure_swapped(KnowsTheAnswers({}, read), [toy.plans[0]], [image], [seen], toy)
    for name, differs in (
        ("word", first.word != second.word),
        ("hair", first.hair != second.hair),
        ("pose", len(set(toy.plans[0].poses)) == 2),
    ):
        assert found[name] == (0.5 if differs else None)  # one of the two, where they differ at all
    alone = make_story(0)
    assert set(measure_swapped(KnowsTheAnswers({}, read), [alone.plans[0]], [image], [{}], alone).values()) == {None}


def test_the_tables_compare_the_two(measured):
    text = make_tables([measured[0], {**measured[0], "people": ["a robot"]}])
    assert "2 stories of 4 frames, 1 with one person and 1 with two" in text
    assert "| re-denoised, the character's description − re-denoised, the frame's prompt |" in text
    for table in text.split("\n\n")[1:]:
        assert len({line.count("|") for line in table.splitlines()}) == 1
