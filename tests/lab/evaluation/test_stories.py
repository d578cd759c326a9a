"""Stories that are written in the toy world's own words."""

import numpy as np
import pytest
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.core.toyworld.vocabulary import UNKNOWN, tokenize, vocabulary
from story_identity.lab.evaluation.stories import FRAMES, make_story, with_others

STORIES = [make_story(number) for number in range(30)]


def test_same_number_same_story():
    assert make_story(7) == STORIES[7]
    assert len({toy.story.frames[0].prompt for toy in STORIES}) == len(STORIES)


@pytest.mark.parametrize("toy", STORIES[:9], ids=lambda toy: str(toy.number))
def test_everybody_is_in_every_frame_under_the_word_of_their_plan(toy):
    assert len(toy.people) == (2 if toy.number % 3 == 2 else 1)
    assert len(toy.story.frames) == len(toy.plans) == FRAMES
    for frame, plan in zip(toy.story.frames, toy.plans, strict=True):
        words = [frame.prompt[slice(*span)] for span in tuple(each.class_word for each in frame.appearances)]
        assert words == [person.word for person in plan.people] == [character.word for character in frame.cast]
        assert plan.people == toy.people
        assert plan.place in frame.prompt
    assert len({plan.place for plan in toy.plans}) == FRAMES


def test_prompts_are_in_the_vocabulary_and_people_are_strangers():
    unknown = vocabulary().index(UNKNOWN)
    for toy in STORIES:
        assert all(person.held_out for person in toy.people)
        for frame in toy.story.frames:
            assert unknown not in tokenize(frame.prompt, TOY_WORLD.text_length)


def test_others_share_what_the_caption_says():
    random = np.random.default_rng(0)
    for toy in STORIES:
        for person, other, clothes in zip(
            toy.people, with_others(toy.plans[0], random).people, toy.plans[0].names_clothes, strict=True
        ):
            assert (other.word, other.hair) == (person.word, person.hair)
            assert not clothes or (other.clothes, other.garment) == (person.clothes, person.garment)
            assert other != person
