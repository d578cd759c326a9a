"""One small story drawn by the transformer, with random weights and a detector that knows where to look."""

import json

import pytest
import torch
from story_identity.core.scores.cosines import mean_cosine_between
from story_identity.core.toyworld.identity_encoder import IdentityEncoder
from story_identity.core.toyworld.recogniser import ToyRecogniser
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.headless.flow_sampling import load_transformer_pipeline
from story_identity.headless.studio import open_studio
from story_identity.lab.evaluation import transformer
from story_identity.lab.evaluation.identitystory import DRAWN, OTHERS, Instruments, Seen, evaluation_settings
from story_identity.lab.evaluation.stories import make_story
from story_identity.lab.evaluation.transformer import ON, SOURCES, VARIANTS, Artist, measure_story
from story_identity.lab.toyworld.probe import Probe

from tests.closeness import assert_close, largest_difference
from tests.lab.evaluation.small import PORTRAITS, START, STORY, SeesTwo, T
from tests.stand_ins.toy_transformer import make_random_transformer
from tests.stand_ins.toyworld import make_random_toyworld

SIDE = TOY_WORLD.picture_side
SIZES = {"width": SIDE, "height": SIDE, "portrait_side": SIDE}


@pytest.fixture(scope="module")
def instruments(tmp_path_factory):
    folder = make_random_toyworld(tmp_path_factory.mktemp("world"))
    files = {"checkpoint": str(folder), "photomaker": str(folder / "photomaker.safetensors")}
    settings = evaluation_settings(**files, **SIZES, steps=T, start=START, portraits=PORTRAITS, rank=1, rounds=1)
    torch.manual_seed(3)
    detector = SeesTwo([person.word for person in make_story(STORY).people])
    recogniser = ToyRecogniser(detector, IdentityEncoder().eval())
    return Instruments(open_studio(settings, "cpu", detector), detector, recogniser, Probe().eval())


@pytest.fixture(scope="module")
def artist(instruments, tmp_path_factory):
    weights = make_random_transformer(tmp_path_factory.mktemp("transformer"))
    return Artist(load_transformer_pipeline(weights), instruments.studio)


@pytest.mark.slow
def test_a_row_has_every_variant_and_counts_its_evaluations(instruments, artist):
    row, pictures = measure_story(instruments, artist, STORY)
    assert json.loads(json.dumps(row)) == row
    assert list(pictures) == [*VARIANTS, DRAWN, OTHERS]
    assert set(row["face_sim"]) == set(row["faces"]) == set(row["agreement"]) == set(pictures)
    assert row["faces"] == dict.fromkeys(pictures, 8)
    assert set(row["to_reference"]) == set(SOURCES)
    assert row["outside"] == 0
    frame = 2 * T + 3 * 2 * 2 * (T - START)  # template, and two people after each kind of reference
    assert row["evaluations"] == 2 * PORTRAITS * T * 2 + 4 * frame + 4 * T * 2
    assert not torch.equal(pictures["true"][0], pictures["discovered"][0])


def test_a_frame_drawn_with_others_without_sharing_is_its_template(artist):
    toy = make_story(STORY)
    frame = toy.story.frames[1]
    (alone,) = artist.pictures(artist.template(frame, 7 + frame.index).final)
    assert_close(artist.together(toy, 7, 0.0)[1], alone, tolerance=1e-4)
    assert largest_difference(artist.together(toy, 7)[1], alone) > 1e-3


def test_the_references_are_portraits_that_were_drawn_and_one_of_the_true_person(artist):
    toy = make_story(0)
    name = toy.story.characters[0].name
    found, portraits = transformer.find_references(artist, toy, 5), artist.portraits(toy.story.characters[0], 5)
    assert torch.equal(found["first portrait"][name], portraits[0])
    assert any(torch.equal(found["discovered"][name], each) for each in portraits)
    assert found["true"][name].shape == (SIDE, SIDE, 3)
    assert not torch.equal(portraits[0], portraits[1])


def test_likeness_to_the_reference_by_hand(instruments):
    toy = make_story(0)
    name, mask = toy.story.characters[0].name, torch.ones(SIDE, SIDE, dtype=torch.bool)
    picture = torch.rand(SIDE, SIDE, 3, generator=torch.Generator().manual_seed(1))
    own = instruments.recogniser.embedding_of(picture, instruments.detector.people(picture)[0].mask)
    other = torch.roll(own, 1)
    seen = [{name: Seen(mask, own)}, {}, {name: Seen(mask, None)}, {name: Seen(mask, other)}]
    found = transformer.measure_to_reference(instruments, toy, {name: picture}, seen)
    assert found == pytest.approx((1 + mean_cosine_between(own[None], other[None])) / 2)
    assert transformer.measure_to_reference(instruments, toy, {name: picture}, [{}] * 4) is None


def test_the_tables_name_the_transformers_evaluations():
    agreement = dict.fromkeys((*transformer.SCENE, *transformer.PERSON, "scene", "person"), 0.5)
    names = (*VARIANTS, DRAWN, OTHERS)
    row = {
        "story": 0,
        "people": ["a robot"],
        "evaluations": 1500,
        "faces_wanted": 4,
        "outside": 0.0,
        "face_sim": dict.fromkeys(names, 0.5) | {ON: 0.75},
        "faces": dict.fromkeys(names, 4),
        "likeness": dict.fromkeys(names, 0.125),
        "to_reference": dict.fromkeys(SOURCES, 0.625),
        "agreement": dict.fromkeys(names, agreement),
    }
    text = transformer.make_tables([row, row | {"story": 1}])
    assert "3,000 evaluations of the transformer" in text
    assert "latents differ from the template's by 0 at most" in text
    assert "(AMSA) − the transformer alone (the template) | +0.250 [+0.250, +0.250] |" in text
    assert "| 0.500 [0.500, 0.500] | 8 of 8 | 0.625 [0.625, 0.625] | 0.125 [0.125, 0.125] |" in text
    for part in text.split("\n\n")[1:]:
        assert len({line.count("|") for line in part.splitlines()}) == 1
