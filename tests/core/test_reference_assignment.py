"""Who sees which references in which frame, and where their face acts."""

import pytest
import torch
from story_identity.core.adapter_file import adapter_of
from story_identity.core.injector import ReferenceFeatures
from story_identity.core.layout import Layout
from story_identity.core.reference_assignment import assign_references
from story_identity.core.shuffle import deal_references
from story_identity.core.story import Story

from tests.stand_ins.ip_adapters import CLIP, nested

STORY = Story.parse(
    {
        "characters": [
            {"name": "Mira", "word": "woman", "description": "a woman"},
            {"name": "Tom", "word": "boy", "description": "a boy"},
        ],
        "frames": ["Mira", "a beach", "Mira and Tom", "Mira"],
    }
)


@pytest.fixture(scope="module")
def injector():
    return adapter_of(nested("plus-face"), "plus-face.safetensors").injector().requires_grad_(False)


def features(references, width=CLIP):
    random = torch.Generator().manual_seed(references)
    return ReferenceFeatures(torch.randn(references, 9, width, generator=random), torch.zeros(1, 9, width))


def deal(injector, *faces, mode="shuffled", seed=3):
    return assign_references(injector, faces, STORY, mode, seed, "the adapter")


def test_references_are_dealt_over_the_frames_that_somebody_is_in(injector):
    mira, tom = deal(injector, ("Mira", features(3)), ("Tom", features(2)))
    dealt = deal_references(3, 3, "shuffled", torch.Generator().manual_seed(3))
    assert mira.by_frame == {0: dealt[0], 2: dealt[1], 3: dealt[2]}
    assert list(tom.by_frame) == [2]
    assert mira.references(STORY.frames[2]) == dealt[1]
    tokens, blank = injector.identity_tokens(features(3))
    assert torch.equal(mira.tokens, tokens)
    assert torch.equal(mira.blank, blank[:1])


def test_who_else_is_in_the_story_changes_nothing(injector):
    (alone,) = deal(injector, ("Mira", features(3)))
    _, beside = deal(injector, ("Tom", features(2)), ("Mira", features(3)))
    assert alone.by_frame == beside.by_frame
    assert torch.equal(alone.tokens, beside.tokens)


def test_a_face_acts_where_its_person_is(injector):
    (mira,) = deal(injector, ("Mira", features(1)))
    masks = torch.zeros(2, 4, 6, dtype=torch.bool)
    masks[1, 1, 2] = True
    layout = Layout(("Tom", "Mira"), masks, "frame 3")
    assert torch.equal(mira.mask(STORY.frames[2], layout), masks[1].float())
    assert mira.mask(STORY.frames[2], None).tolist() == [[1.0]]
    assert mira.mask(STORY.frames[1], None).tolist() == [[0.0]]
    assert mira.mask(STORY.frames[1], layout).tolist() == [[0.0]]


def test_what_does_not_fit_is_said(injector):
    with pytest.raises(ValueError, match='pictures of "Mira" do not suit the adapter.*are 7 wide.*reads 20'):
        deal(injector, ("Mira", features(2, width=7)))
    with pytest.raises(ValueError, match="Ben"):
        deal(injector, ("Ben", features(2)))


def test_two_sets_of_pictures_of_one_person_are_refused(injector):
    with pytest.raises(ValueError, match='two sets of pictures of "Mira"'):
        deal(injector, ("Mira", features(1)), ("Mira", features(2)))
