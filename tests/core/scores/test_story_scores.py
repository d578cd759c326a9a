"""The scores of a story: laws, numbers by hand, and every score against loops written here."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from story_identity.core.scores.segmented import over_grey
from story_identity.core.scores.story_scores import (
    CLIP_I,
    CLIP_I_FRAMES,
    CLIP_T,
    CLIP_T_C,
    DINO_I,
    DINO_I_FRAMES,
    FACE_SIM,
    FACE_SIM_R,
    LABELS,
    CharacterFeatures,
    StoryFeatures,
    score_story,
)

from tests.closeness import assert_close

FRAMES = 7
CASTS = {"Mira": (0, 1, 2, 4, 5, 6), "Tom": (1, 2, 3, 5), "Ann": (6,)}
LOST = {"Mira": (4,), "Tom": (), "Ann": ()}


def rows(count, width, seed):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + 0.4


def per_frame(name, width, seed):
    vectors = rows(FRAMES, width, seed)
    there = set(CASTS[name]) - set(LOST[name])
    return [vectors[frame] if frame in there else None for frame in range(FRAMES)]


def person(name, seed):
    references = rows(3, 11, seed + 4)
    return CharacterFeatures(
        name,
        CASTS[name],
        per_frame(name, 11, seed),
        per_frame(name, 13, seed + 1),
        per_frame(name, 5, seed + 2),
        rows(1, 13, seed + 3)[0],
        references,
    )


@pytest.fixture
def features():
    people = [person(name, 10 * number) for number, name in enumerate(CASTS, start=1)]
    return StoryFeatures(FRAMES, people, rows(FRAMES, 13, 1), rows(FRAMES, 13, 2), rows(FRAMES, 5, 3))


def cosine(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return a @ b / np.sqrt((a @ a) * (b @ b))


def pairwise(vectors):
    there = [each for each in vectors if each is not None]
    return [cosine(a, b) for a, b in itertools.combinations(there, 2)]


def over_people(features, name):
    own = [pairwise(getattr(each, name)) for each in features.characters]
    return np.mean([np.mean(each) for each in own if each])


def reference(features):
    """Every score by loops over pairs."""
    people = features.characters
    return {
        CLIP_T: np.mean([cosine(a, b) for a, b in zip(features.clip, features.prompts, strict=True)]),
        CLIP_T_C: np.mean([cosine(a, each.description) for each in people for a in each.clip if a is not None]),
        CLIP_I: over_people(features, "clip"),
        CLIP_I_FRAMES: np.mean(pairwise(features.clip)),
        DINO_I: over_people(features, "dino"),
        DINO_I_FRAMES: np.mean(pairwise(features.dino)),
        FACE_SIM: over_people(features, "faces"),
        FACE_SIM_R: np.mean(
            [np.mean([cosine(a, b) for a in each.faces if a is not None for b in each.references]) for each in people]
        ),
    }


def test_every_score_against_loops(features):
    found, expected = score_story(features), reference(features)
    assert tuple(found.scores) == tuple(LABELS) == tuple(expected)
    for key, value in expected.items():
        assert_close(found.scores[key].mean, float(value), 1e-6)
        assert found.scores[key].low <= found.scores[key].mean <= found.scores[key].high
    mira, tom, ann = found.characters
    assert mira.found == {CLIP_I: 5, DINO_I: 5, FACE_SIM: 5}
    assert mira.frames == CASTS["Mira"]
    assert_close(mira.scores[FACE_SIM], float(np.mean(pairwise(features.characters[0].faces))), 1e-6)
    assert_close(tom.scores[CLIP_I], float(np.mean(pairwise(features.characters[1].clip))), 1e-6)
    assert ann.scores[FACE_SIM] is None
    assert ann.worst is None
    assert ann.scores[FACE_SIM_R] is not None


def test_three_frames_by_hand():
    one, half, other = torch.tensor([2.0, 0.0]), torch.tensor([3.0, 3.0]), torch.tensor([0.0, 0.5])
    mira = CharacterFeatures("Mira", (0, 1, 2), [one, half, other], references=torch.tensor([[5.0, 0.0]]))
    found = score_story(StoryFeatures(3, [mira], torch.stack([one, half, other]), torch.stack([one, one, half])))
    root = 2**-0.5
    assert found.scores[FACE_SIM].mean == pytest.approx(2 * root / 3)  # pairs: root, 0, root
    assert found.scores[FACE_SIM_R].mean == pytest.approx((1 + root) / 3)
    assert found.scores[CLIP_T].mean == pytest.approx((1 + 2 * root) / 3)
    assert found.clip_t == pytest.approx([1, root, root])
    assert found.characters[0].of_frames[FACE_SIM] == pytest.approx([root / 2, root, root / 2])
    assert found.characters[0].worst in (0, 2)
    assert CLIP_I not in found.scores
    assert CLIP_I_FRAMES in found.scores


def moved(features, order):
    def shuffled(each):
        return None if each is None else [each[frame] for frame in order]

    people = [
        dataclasses.replace(
            each,
            frames=tuple(place for place, frame in enumerate(order) if frame in each.frames),
            **{name: shuffled(getattr(each, name)) for name in ("faces", "clip", "dino")},
        )
        for each in features.characters
    ]
    whole = {name: getattr(features, name)[list(order)] for name in ("clip", "prompts", "dino")}
    return dataclasses.replace(features, characters=people, **whole)


def test_the_order_of_the_frames_does_not_matter(features):
    order = (3, 6, 0, 5, 1, 4, 2)
    before, after = score_story(features), score_story(moved(features, order))
    for key in LABELS:
        assert_close(after.scores[key].mean, before.scores[key].mean, 1e-6)
    for one, other in zip(before.characters, after.characters, strict=True):
        assert other.worst == (None if one.worst is None else order.index(one.worst))
        for key, values in one.of_frames.items():
            for place, frame in enumerate(order):
                assert other.of_frames[key][place] == (values[frame] and pytest.approx(values[frame], abs=1e-6))


def test_the_scale_of_the_features_does_not_matter(features):
    def scaled(each, factors):
        return each and [None if row is None else factor * row for row, factor in zip(each, factors, strict=True)]

    factors = [0.01, 3.0, 100.0, 1.0, 0.5, 7.0, 2.0]
    people = [
        dataclasses.replace(
            each,
            **{name: scaled(getattr(each, name), factors) for name in ("faces", "clip", "dino")},
            description=each.description * 9,
            references=each.references * torch.tensor([[1.0], [20.0], [0.3]]),
        )
        for each in features.characters
    ]
    column = torch.tensor(factors)[:, None]
    whole = {name: getattr(features, name) * column for name in ("clip", "prompts", "dino")}
    before, after = score_story(features), score_story(dataclasses.replace(features, characters=people, **whole))
    for key in LABELS:
        assert_close(after.scores[key].mean, before.scores[key].mean, 1e-6)


def test_a_frame_without_a_face_changes_no_mean_and_is_counted(features):
    mira = features.characters[0]
    before = score_story(StoryFeatures(FRAMES, [mira]))
    without = [*mira.faces, None, None]
    longer = dataclasses.replace(
        mira, frames=(*mira.frames, 7, 8), faces=without, clip=[*mira.clip, None, None], dino=[*mira.dino, None, None]
    )
    after = score_story(StoryFeatures(FRAMES + 2, [longer]))
    for key in (FACE_SIM, FACE_SIM_R, CLIP_I, CLIP_T_C):
        assert after.scores[key].mean == pytest.approx(before.scores[key].mean)
    assert after.characters[0].found[FACE_SIM] == before.characters[0].found[FACE_SIM] == 5
    assert len(after.characters[0].frames) == len(before.characters[0].frames) + 2
    assert tuple(after.characters[0].of_frames[FACE_SIM][-2:]) == (None, None)


def test_a_planted_wrong_person_lowers_exactly_their_row():
    face = torch.nn.functional.normalize(rows(1, 64, 5)[0], dim=0)
    noise = rows(FRAMES, 64, 6) - 0.4
    alike = [face + 0.05 * each for each in noise]
    tom = CharacterFeatures("Tom", tuple(range(FRAMES)), [rows(1, 64, 7)[0] + 0.05 * each for each in noise.flip(0)])
    stranger = rows(1, 64, 8)[0] - 0.4
    stranger -= (stranger @ face) * face
    planted = [*alike[:3], stranger, *alike[4:]]
    frames = tuple(range(FRAMES))
    before = score_story(StoryFeatures(FRAMES, [CharacterFeatures("Mira", frames, alike), tom]))
    after = score_story(StoryFeatures(FRAMES, [CharacterFeatures("Mira", frames, planted), tom]))
    changed = (before.characters[0].matrix - after.characters[0].matrix).abs() > 1e-9
    cross = torch.zeros_like(changed)
    cross[3], cross[:, 3], cross[3, 3] = True, True, False
    assert torch.equal(changed, cross)
    assert after.characters[0].worst == 3
    values = after.characters[0].of_frames[FACE_SIM]
    assert values[3] < 0.3 < 0.6 < min(value for frame, value in enumerate(values) if frame != 3)
    assert after.characters[1].of_frames == before.characters[1].of_frames
    assert after.scores[FACE_SIM].mean < before.scores[FACE_SIM].mean


def test_what_was_not_measured_is_not_in_the_table(features):
    bare = CharacterFeatures("Mira", (0, 1))
    found = score_story(StoryFeatures(FRAMES, [bare]))
    assert found.scores == {}
    assert found.characters[0].matrix is None
    nobody = score_story(StoryFeatures(2, [CharacterFeatures("Mira", (0, 1), [None, None])]))
    assert nobody.scores == {FACE_SIM: None}
    assert nobody.characters[0].found == {FACE_SIM: 0}


def test_sequences_of_another_length_are_refused(features):
    with pytest.raises(ValueError, match="clip has 7 rows; the story has 6 frames"):
        score_story(dataclasses.replace(features, frames=6))
    with pytest.raises(ValueError, match="faces of a character has 2 entries, not one per frame: 3"):
        score_story(StoryFeatures(3, [CharacterFeatures("Mira", (0,), [None, None])]))


def test_same_seed_same_intervals_whatever_else_is_measured(features):
    alone = StoryFeatures(FRAMES, [CharacterFeatures(e.name, e.frames, e.faces) for e in features.characters])
    assert score_story(alone).scores[FACE_SIM] == score_story(features).scores[FACE_SIM]
    assert score_story(features, seed=1).scores[FACE_SIM] != score_story(features).scores[FACE_SIM]


def test_over_grey_by_hand():
    image = torch.rand(6, 9, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(6, 9, dtype=torch.bool)
    mask[1:5, 3:5], mask[1, 3] = True, False
    square = over_grey(image, mask)
    assert square.shape == (4, 4, 3)
    assert torch.equal(square[:, 0], torch.full((4, 3), 0.5))
    assert torch.equal(square[:, 3], torch.full((4, 3), 0.5))
    assert torch.equal(square[0, 1], torch.full((3,), 0.5))
    assert torch.equal(square[1:, 1:3], image[2:5, 3:5])
    assert over_grey(image, torch.zeros_like(mask)) is None


def test_over_grey_sees_neither_background_nor_place():
    image = torch.rand(20, 30, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(20, 30, dtype=torch.bool)
    mask[4:12, 6:11], mask[5, 7] = True, False
    elsewhere = torch.rand(20, 30, 3, generator=torch.Generator().manual_seed(1))
    elsewhere[9:17, 20:25] = image[4:12, 6:11]
    assert torch.equal(over_grey(image, mask), over_grey(elsewhere, mask.roll((5, 14), (0, 1))))
