"""One small story through the whole evaluation, with random weights and a detector that knows where to look."""

import json

import pytest
import torch
from safetensors.torch import save_file
from story_identity.core.toyworld.models import store
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.lab.evaluation.identitystory import (
    DRAWN,
    OTHERS,
    Seen,
    drawings,
    final_cells,
    measure_agreement,
    measure_faces,
    measure_story,
)
from story_identity.lab.evaluation.stories import make_story
from story_identity.lab.evaluation.variants import TEMPLATE, VARIANTS
from story_identity.lab.toyworld.probe import PERSON, SCENE, Probe, load_probe

from tests.lab.evaluation.small import PORTRAIT_STEPS, PORTRAITS, START, STORY, KnowsTheAnswers, T

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measured(instruments):
    return measure_story(instruments, STORY)


def test_the_row_is_json_and_has_every_variant(measured):
    row, pictures = measured
    assert json.loads(json.dumps(row)) == row
    assert list(pictures) == [*VARIANTS, DRAWN, OTHERS]
    assert set(row["face_sim"]) == set(row["faces"]) == set(row["agreement"]) == set(pictures)
    assert row["faces_wanted"] == 8
    assert all(count == 8 for count in row["faces"].values())
    assert all(-1 <= value <= 1 for value in row["face_sim"].values())


def test_unet_evaluations_are_those_of_the_settings(measured):
    portraits = 2 * PORTRAITS * PORTRAIT_STEPS * 2
    frame = 2 * T + 6 * 2 * 2 * (T - START) + 2 * T  # template, six variants for two people each, direct
    assert measured[0]["evaluations"] == portraits + 4 * frame


def test_the_background_is_the_templates_and_the_people_are_not(instruments, measured):
    row, pictures = measured
    assert row["background"]["latent_difference"] == 0.0
    assert row["background"]["psnr"] > row["background"]["psnr_direct"]
    assert 0 < row["background"]["covered"] < 1
    for name in VARIANTS[1:]:
        assert not torch.equal(pictures[name][0], pictures[TEMPLATE][0])
    edges = row["edges"]
    assert set(edges) == {"fixed", "large", "discovered"}
    assert all(set(each) == {"ghost", "seam"} for each in edges.values())
    assert edges["large"] != edges["discovered"] != edges["fixed"]


def test_grown_cells_hold_the_fixed_ones(instruments):
    toy = make_story(STORY)
    side = TOY_WORLD.picture_side
    layout = instruments.studio.find(toy.story.frames[0], torch.zeros(side, side, 3), None)
    fixed, grown = (final_cells(instruments.studio.settings, layout, (16, 16), flag) for flag in (False, True))
    assert (grown >= fixed).all()
    assert grown.sum() > fixed.sum()


def test_the_same_story_again_gives_the_same_numbers(instruments, measured):
    again, pictures = measure_story(instruments, STORY)
    assert again == measured[0]
    assert all(torch.equal(a, b) for name in VARIANTS for a, b in zip(pictures[name], measured[1][name], strict=True))


def test_faces_by_hand():
    toy = make_story(0)
    name, mask = toy.story.characters[0].name, torch.ones(2, 2, dtype=torch.bool)
    east, north = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    vectors = {DRAWN: [east, east, east, east], "mean": [east, north, None, north], "true": [None, east, None, None]}
    seen = {variant: [{name: Seen(mask, face)} for face in faces] for variant, faces in vectors.items()}
    seen["mean"][2] = {}
    found = measure_faces(toy, seen)
    assert found["face_sim"] == {DRAWN: 1.0, "mean": pytest.approx(1 / 3), "true": None}
    assert found["faces"] == {DRAWN: 4, "mean": 3, "true": 1}
    assert found["likeness"] == {"mean": pytest.approx(1 / 3), "true": 1.0}


def test_agreement_by_hand():
    toy = make_story(0)
    plan, person = toy.plans[0], toy.people[0]
    scene = {"place": plan.place, "hour": "noon", "prop": plan.props[0] if plan.props else "none"}
    probe = KnowsTheAnswers(scene, {"word": person.word, "hair": "green", "pose": plan.poses[0], "clothes": "?"})
    seen = {toy.story.characters[0].name: Seen(torch.ones(64, 64, dtype=torch.bool), None)}
    image = torch.zeros(64, 64, 3)
    once = measure_agreement(probe, [plan], [image], [seen], toy)
    assert once == {
        "place": 1.0, "hour": 0.0, "prop": 1.0, "word": 1.0, "hair": 0.0, "pose": 1.0,
        "clothes": 0.0 if plan.names_clothes[0] else None, "scene": pytest.approx(2 / 3),
        "person": pytest.approx(0.5 if plan.names_clothes[0] else 2 / 3),
    }  # fmt: skip
    twice = measure_agreement(probe, [plan, plan], [image, image], [seen, {}], toy)
    assert twice["word"] == 0.5  # nobody was found in the second
    assert twice["place"] == 1.0


def test_drawings_change_the_people_or_do_not():
    toy = make_story(0)
    again = drawings(toy)
    assert all(torch.equal(a, b) for a, b in zip(again[DRAWN], drawings(toy)[DRAWN], strict=True))
    assert not torch.equal(again[DRAWN][0], again[OTHERS][0])


def test_the_probe_answers_with_options(tmp_path):
    torch.manual_seed(0)
    save_file(store(Probe().state_dict()), tmp_path / "probe.safetensors")
    probe = load_probe(tmp_path)
    side = TOY_WORLD.picture_side
    image = torch.rand(side, side, 3)
    mask = torch.zeros(side, side, dtype=torch.bool)
    mask[: side // 2] = True
    for read, options in ((probe.read_scene(image), SCENE), (probe.read_person(image, mask), PERSON)):
        assert set(read) == set(options)
        assert all(read[name] in options[name] for name in options)
