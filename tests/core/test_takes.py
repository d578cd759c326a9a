"""One take of each frame is kept, and the faces of those that are kept are alike."""

from itertools import product

import numpy as np
import pytest
import torch
from story_identity.core.frame_seeds import take_seed
from story_identity.core.take_report import choices_text, written_choices
from story_identity.core.takes import Take, check_written, choose_takes, takes_by_number, total_worth

from tests.closeness import assert_close


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def angle(degrees: float) -> torch.Tensor:
    return vector(np.cos(np.radians(degrees)), np.sin(np.radians(degrees)))


def random_story(seed: int, frames: int = 4, takes: int = 3) -> list[list[Take]]:
    random = torch.Generator().manual_seed(seed)

    def face() -> torch.Tensor | None:
        return None if torch.rand((), generator=random) < 0.15 else torch.randn(3, generator=random)

    casts = [("Mira",), ("Mira", "Tom"), ("Mira", "Tom"), ()]
    return [[Take({name: face() for name in casts[row % 4]}) for _ in range(takes)] for row in range(frames)]


def test_the_first_take_has_the_frames_seed_and_others_depend_on_it_alone():
    assert [take_seed(seed, 1) for seed in (0, 7, 2**64 - 1)] == [0, 7, 2**64 - 1]
    seeds = [take_seed(seed, take) for seed in range(20) for take in range(1, 9)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert take_seed(7, 2) == 124697411576572725  # another number would change users' pictures


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ceiling", [None, 0.3])
def test_no_change_of_one_frame_is_a_gain_and_often_the_choice_is_the_best_of_all(seed, ceiling):
    story = random_story(seed)
    kept = [choice.take for choice in choose_takes(story, ceiling=ceiling)]

    def worth(numbers):
        return total_worth([takes[number] for takes, number in zip(story, numbers, strict=True)], ceiling=ceiling)

    for row, other in product(range(4), range(3)):
        assert worth([*kept[:row], other, *kept[row + 1 :]]) <= worth(kept) + 1e-8
    everything = [worth(numbers) for numbers in product(range(3), repeat=4)]
    assert worth(kept) >= np.quantile(everything, 0.95)


def test_the_scale_of_faces_does_not_matter():
    story = random_story(3)
    larger = [[Take({name: None if f is None else 9 * f for name, f in t.faces.items()}) for t in ts] for ts in story]
    assert [each.take for each in choose_takes(story)] == [each.take for each in choose_takes(larger)]


def test_the_numbers_are_face_sim():
    from story_identity.core.scores.story_scores import CharacterFeatures, StoryFeatures, score_story

    story = [[Take({"Mira": torch.randn(5, generator=torch.Generator().manual_seed(s + 9 * t))}) for t in range(2)]
             for s in range(4)]  # fmt: skip
    choices = choose_takes(story)
    faces = [takes[choice.take].faces["Mira"] for takes, choice in zip(story, choices, strict=True)]
    (person,) = score_story(StoryFeatures(4, [CharacterFeatures("Mira", (0, 1, 2, 3), faces)])).characters
    assert_close([choice.likeness[choice.take] for choice in choices], list(person.of_frames["face_sim"]))


def test_with_references_each_frame_is_compared_with_them_alone():
    story = [[Take({"Mira": angle(80)}), Take({"Mira": angle(30)})], [Take({"Mira": angle(85)}), Take({"Mira": None})]]
    first, second = choose_takes(story, references={"Mira": torch.stack([angle(0), angle(20)])})
    assert (first.take, second.take) == (1, 0)  # any face is better than none
    assert_close(first.likeness[1], float(np.cos(np.radians(30)) + np.cos(np.radians(10))) / 2)
    assert second.likeness[1] is None


def test_a_stiff_copy_does_not_win():
    references = {"Mira": angle(0).unsqueeze(0)}
    story = [[Take({"Mira": angle(2)}), Take({"Mira": angle(65)}), Take({"Mira": angle(89)})]]
    assert choose_takes(story, references=references)[0].take == 0
    (choice,) = choose_takes(story, references=references, ceiling=0.46)
    assert (choice.take, choice.copies) == (1, (0,))
    said = choices_text([4], [choice], 0.46)
    assert said.startswith("Frame 4: take 2 of 3, the most alike of those that are not copies.")
    assert "take 1: above 46" in said
    only = [[Take({"Mira": angle(2)}), Take({"Mira": angle(4)})]]
    (choice,) = choose_takes(only, references=references, ceiling=0.46)
    assert choice.take == 1  # the less stiff of two
    assert "⚠ the likeness of take 2, 99.8, is above 46" in choices_text([1], [choice], 0.46)


def test_a_floor_on_agreement_comes_before_likeness():
    references = {"Mira": angle(0).unsqueeze(0)}
    story = [[Take({"Mira": angle(5)}, 0.1), Take({"Mira": angle(40)}, 0.25), Take({"Mira": angle(50)}, 0.3)]]
    for floor, take in ((None, 0), (0.0, 0), (0.2, 1), (0.26, 2), (0.9, 2)):
        assert choose_takes(story, references=references, floor=floor)[0].take == take, floor
    (choice,) = choose_takes(story, references=references, floor=0.2)
    assert choice.below_floor == (0,)
    assert "of those that agree with the caption by 20.0 or more" in choices_text([1], [choice], None, 0.2)
    (choice,) = choose_takes(story, references=references, floor=0.9)
    assert "no take agrees with the caption as much as 90.0" in choices_text([1], [choice], None, 0.9)


def test_a_frame_with_nobody_keeps_the_best_agreement_or_the_first():
    assert choose_takes([[Take({}, 0.1), Take({}, 0.3)]])[0].take == 1
    assert choose_takes([[Take({}), Take({})]])[0].take == 0
    assert choose_takes([]) == []


def test_a_written_take_is_kept_and_the_others_are_compared_with_it():
    story = [
        [Take({"Mira": angle(0)}), Take({"Mira": angle(90)})],
        [Take({"Mira": angle(5)}), Take({"Mira": angle(80)})],
    ]
    assert [each.take for each in choose_takes(story)] == [0, 0]
    choices = choose_takes(story, written={0: 1})
    assert [each.take for each in choices] == [1, 1]
    assert choices_text([1, 2], choices).startswith("Frame 1: take 2 of 2, as written in takes.")


def test_written_takes_are_read_and_given_back():
    assert takes_by_number("") == {}
    assert takes_by_number(" 3: 2 , 7:1;\n10: 64") == {3: 2, 7: 1, 10: 64}
    assert takes_by_number("３：２、4:1") == {3: 2, 4: 1}
    choices = choose_takes(random_story(1))
    assert takes_by_number(written_choices([1, 2, 5, 6], choices)) == dict(
        zip((1, 2, 5, 6), [choice.take + 1 for choice in choices], strict=True)
    )


@pytest.mark.parametrize("text", ["2", "1, 3", "3: 0", "0: 1", "a: 1", "3: 2: 1", "-1: 2", "3: 2, 3: 1", "\ud83d", ":"])
def test_what_is_no_list_of_takes_is_refused(text):
    with pytest.raises(ValueError, match=r"^takes"):
        takes_by_number(text)


def test_takes_that_are_not_there_are_refused():
    check_written({2: 3}, {1: 3, 2: 3})
    with pytest.raises(ValueError, match="frame 9 is not among the pictures, which are of the frames 1, 2"):
        check_written({9: 1}, {1: 3, 2: 3})
    with pytest.raises(ValueError, match="take 4 of frame 2 is not there; it has 3"):
        check_written({2: 4}, {1: 3, 2: 3})
