"""Who gets which box: by hand, against every possible way, and the laws that `find_layout` rests on."""

from itertools import permutations

import pytest
import torch
from story_identity.core.detectors import Detections
from story_identity.core.layout_search import assign_boxes, find_layout

BOXES = torch.tensor([[50.0, 0, 60, 9], [0, 0, 10, 9], [20, 0, 90, 9], [30, 0, 31, 9]])


def test_uncontested_boxes_are_the_best_ones_left_to_right():
    scores = torch.tensor([0.9, 0.8, 0.1, 0.7])
    (found,) = assign_boxes([(BOXES, scores)], [3])
    assert found.tolist() == BOXES[[1, 3, 0]].tolist()
    (found,) = assign_boxes([(BOXES, scores)], [9])
    assert len(found) == 4


def test_a_figure_that_two_words_claim_goes_where_the_whole_fits_best():
    """Both words like the second figure best; the man is nothing else, the woman may well be the first."""
    woman, man = torch.tensor([0.6, 0.7]), torch.tensor([0.05, 0.5])
    for_woman, for_man = assign_boxes([(BOXES[:2], woman), (BOXES[:2], man)], [1, 1])
    assert for_woman.tolist() == BOXES[:1].tolist()  # 0.6 * 0.5 > 0.7 * 0.05
    assert for_man.tolist() == BOXES[1:2].tolist()


def test_the_result_is_the_best_of_all_ways():
    random = torch.Generator().manual_seed(2)
    for _ in range(20):
        scores = torch.rand(3, 4, generator=random) * 0.9 + 0.05
        found = assign_boxes([(BOXES, row) for row in scores], [1, 1, 1])
        got = [BOXES.tolist().index(each[0].tolist()) for each in found]
        best = max(permutations(range(4), 3), key=lambda way: float(scores[range(3), list(way)].log().sum()))
        assert got == list(best)


def test_two_boxes_around_one_figure_count_once():
    twice = torch.tensor([[0.0, 0, 10, 20], [0.2, 0, 10, 20], [30, 0, 40, 20]])
    (found,) = assign_boxes([(twice, torch.tensor([0.8, 0.9, 0.5]))], [2])
    assert found.tolist() == twice[[1, 2]].tolist()


def test_as_many_as_possible_are_found():
    """One word has two figures to choose from, the other only the better of them."""
    first, second = assign_boxes([(BOXES[:2], torch.tensor([0.9, 0.4])), (BOXES[:1], torch.tensor([0.3]))], [1, 1])
    assert first.tolist() == BOXES[1:2].tolist()
    assert second.tolist() == BOXES[:1].tolist()


def test_no_boxes():
    nothing = (torch.zeros(0, 4), torch.zeros(0))
    assert [len(each) for each in assign_boxes([nothing, nothing], [2, 1])] == [0, 0]
    assert [len(each) for each in assign_boxes([nothing, (BOXES, torch.rand(4))], [1, 1])] == [0, 1]


def picture_of(*people):
    """A detector for figures at given places: word scores per person, and masks as large as the boxes."""
    boxes = torch.tensor([[x, 4.0, x + 8, 28] for x, _ in people])

    def find(image, word):
        scores = torch.tensor([words.get(word, 0.0) for _, words in people])
        order = scores.argsort(descending=True, stable=True)
        return Detections(boxes[order], scores[order], scores[order])

    def segment(image, wanted):
        masks = torch.zeros(len(wanted), 32, 64, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, wanted.int().tolist(), strict=True):
            mask[y0:y1, x0:x1] = True
        return masks

    return find, segment


SETTINGS = {"box_threshold": 0.3, "text_threshold": 0.25, "dilate_px": 0}


def test_a_word_that_fits_both_people_leaves_nobody_without_a_mask():
    find, segment = picture_of((4.0, {"woman": 0.8, "boy": 0.4}), (40.0, {"woman": 0.9, "boy": 0.7}))
    people = [("Mira", "woman"), ("Tom", "boy")]
    layout = find_layout(find, segment, torch.zeros(32, 64, 3), people, "frame 1", skip_missing=False, **SETTINGS)
    assert layout.masks[0, 10, 6]
    assert layout.masks[1, 10, 42]


def test_more_characters_than_figures_is_said():
    find, segment = picture_of((4.0, {"woman": 0.8, "boy": 0.4}))
    people = [("Mira", "woman"), ("Tom", "boy")]
    with pytest.raises(ValueError, match=r'frame 1: found 0 of 1 "boy" \("Tom"\). The best score was 0.40'):
        find_layout(find, segment, torch.zeros(32, 64, 3), people, "frame 1", skip_missing=False, **SETTINGS)
    layout = find_layout(find, segment, torch.zeros(32, 64, 3), people, "frame 1", skip_missing=True, **SETTINGS)
    assert layout.masks.flatten(1).any(dim=1).tolist() == [True, False]


def test_somebody_without_a_pixel_is_not_left_out_silently():
    find, _ = picture_of((4.0, {"woman": 0.8}))

    def nothing(image, boxes):
        return torch.zeros(len(boxes), 32, 64, dtype=torch.bool)

    people = [("Mira", "woman")]
    with pytest.raises(ValueError, match='frame 1: the mask of "Mira" is empty.*Layout from Masks'):
        find_layout(find, nothing, torch.zeros(32, 64, 3), people, "frame 1", skip_missing=False, **SETTINGS)
    layout = find_layout(find, nothing, torch.zeros(32, 64, 3), people, "frame 1", skip_missing=True, **SETTINGS)
    assert not layout.masks.any()
