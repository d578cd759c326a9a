"""From pictures to features, with encoders that see nothing but mean colours."""

import math

import pytest
import torch
from story_identity.core.detectors.faces import Face
from story_identity.core.layout import Layout
from story_identity.core.scores.measuring import Encoders, story_features
from story_identity.core.scores.plot import GAP, MOST, colour_of_cosine, draw_scores
from story_identity.core.scores.report import as_mapping, as_rows, as_text, frames_unlike_most, notes
from story_identity.core.scores.segmented import over_grey
from story_identity.core.scores.story_scores import (
    CLIP_I,
    CLIP_T,
    CLIP_T_C,
    DINO_I,
    FACE_SIM,
    FACE_SIM_R,
    CharacterFeatures,
    StoryFeatures,
    score_story,
)
from story_identity.core.story import Story

STORY = Story.parse({
    "characters": [
        {"name": "Mira", "word": "woman", "description": "a woman in red"},
        {"name": "Tom", "word": "boy", "description": "a boy in blue"},
    ],
    "frames": ["Mira at home", "Mira and Tom at sea", "a beach", "Tom and Mira at night"],
})  # fmt: skip
RED, BLUE, GREEN = (0.9, 0.1, 0.2), (0.1, 0.2, 0.9), (0.1, 0.8, 0.1)


class Means:
    """The mean colour is the vector; a text's is that of the colour it names."""

    name = "means"

    def __init__(self):
        self.seen = []

    def embed_images(self, images):
        self.seen += list(images)
        return torch.stack([image.mean(dim=(0, 1)) for image in images]) if images else torch.zeros(0, 3)

    def embed_texts(self, texts):
        return torch.tensor([RED if "red" in text else BLUE for text in texts])

    def tokens_over(self, text):
        return 0


class Faces:
    """The face of a mask is its mean colour; there is none in a grey place."""

    name, width, threshold = "auraface", 3, 0.5

    def find(self, image):
        return self.find_all([image], [None])[0]

    def find_all(self, images, masks):
        places = [
            image.reshape(-1, 3) if mask is None else image[mask] for image, mask in zip(images, masks, strict=True)
        ]
        means = [pixels.mean(dim=0) for pixels in places]
        faces = [Face(torch.nn.functional.normalize(each, dim=0), torch.zeros(4, 4, 3)) for each in means]
        return [None if float(mean.std()) < 0.01 else face for mean, face in zip(means, faces, strict=True)]


def frame(mira=None, tom=None, height=12, width=20):
    picture = torch.full((height, width, 3), 0.5)
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    for row, (colour, left) in enumerate(((mira, 2), (tom, 12))):
        if colour is not None:
            masks[row, 3:9, left : left + 4] = True
            picture[masks[row]] = torch.tensor(colour)
    return picture, masks


@pytest.fixture
def measured():
    """Mira is red in frames 1 and 4 and green in frame 2; Tom is blue in 2 and is not found in 4."""
    shown = [frame(RED), frame(GREEN, BLUE), frame(), frame(RED)]
    layouts = [
        Layout(("Mira",), shown[0][1][:1]),
        Layout(("Mira", "Tom"), shown[1][1]),
        Layout((), torch.zeros(0, 12, 20, dtype=torch.bool)),
        Layout(("Tom", "Mira"), shown[3][1].flip(0)),
    ]
    return [picture for picture, _ in shown], layouts


def test_every_feature_is_of_the_right_character_and_frame(measured):
    pictures, layouts = measured
    clip, dino = Means(), Means()
    features = story_features(STORY, pictures, layouts, Encoders(clip, dino, Faces()), {"Mira": [frame(RED)[0]]})
    mira, tom = features.characters
    assert (mira.frames, tom.frames) == ((0, 1, 3), (1, 3))
    assert [each is not None for each in mira.faces] == [True, True, False, True]
    assert [each is not None for each in tom.faces] == [False, True, False, False]
    assert torch.allclose(mira.faces[1], torch.nn.functional.normalize(torch.tensor(GREEN), dim=0))
    assert torch.equal(mira.clip[0], over_grey(pictures[0], layouts[0].masks[0]).mean(dim=(0, 1)))
    assert mira.description.tolist() == pytest.approx(RED)
    assert len(mira.references) == 1
    assert tom.references is None
    scores = score_story(features)
    assert set(scores.scores) >= {CLIP_T, CLIP_T_C, CLIP_I, DINO_I, FACE_SIM, FACE_SIM_R}
    assert scores.characters[0].worst == 1
    assert scores.characters[0].found == {CLIP_I: 3, DINO_I: 3, FACE_SIM: 3}
    assert scores.characters[1].found == {CLIP_I: 1, DINO_I: 1, FACE_SIM: 1}


def test_without_layouts_the_only_characters_face_is_measured(measured):
    pictures, _ = measured
    alone = Story.parse(
        {"characters": [{"name": "Mira", "word": "woman", "description": "a woman"}], "frames": ["Mira"]}
    )
    features = story_features(alone, pictures[:1], None, Encoders(Means(), None, Faces()))
    assert features.characters[0].faces[0] is not None
    assert features.characters[0].clip is None
    assert set(score_story(features).scores) == {CLIP_T, "clip_i_frames", FACE_SIM}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"encoders": Encoders()}, "There is nothing to score with"),
        ({"count": 3}, "There are 3 pictures and the story has 4 frames"),
        ({"references": {"Ann": []}}, 'The story has no character "Ann"'),
        ({"encoders": Encoders(Means()), "references": {"Mira": []}}, 'references of "Mira" but no face recogniser'),
        ({"layouts": None}, 'frame 2 shows "Mira", "Tom", and nothing says whose face is whose'),
        ({"size": 13}, "frame 1: the layout is 20x12, but the picture is 20x13"),
        ({"references": {"Mira": [torch.full((4, 4, 3), 0.5)]}}, 'no face in reference 1 of "Mira"'),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_measured(measured, changes, complaint):
    pictures, layouts = measured
    encoders = changes.get("encoders", Encoders(Means(), None, Faces()))
    layouts = changes.get("layouts", layouts)
    if "size" in changes:
        pictures = [torch.full((changes["size"], 20, 3), 0.5), *pictures[1:]]
    with pytest.raises(ValueError, match=complaint):
        story_features(STORY, pictures[: changes.get("count", 4)], layouts, encoders, changes.get("references", {}))
    assert encoders.clip is None or encoders.clip.seen == []


def scored(*people, frames=4, clip=None):
    return score_story(StoryFeatures(frames, list(people), clip, clip))


def test_text_and_rows_by_hand():
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.6, 0.8])
    mira = CharacterFeatures("Mira", (0, 1, 2), [one, one, other, None])
    tom = CharacterFeatures("Tom", (1,), [None, None, None, None])
    scores = scored(mira, tom, clip=torch.ones(4, 2))
    text = as_text(scores, "sface", 0.7)
    assert "Face-Sim        73.3 (" in text  # pairs: 1, 0.6, 0.6
    assert "Mira: found 3 of 3 faces" in text
    assert "Mira: the face of frame 3 is least like the others (60.0)" in text
    assert "Mira: in frame 3 the face is unlike most of the others (below 70.0, the" in text
    assert "Tom: found 0 of 1 faces" in text
    rows = as_rows(scores)
    assert rows[0] == ["frame", "character", "clip_t", "face_sim"]
    assert [row[:2] for row in rows[1:]] == [[1, "Mira"], [2, "Mira"], [2, "Tom"], [3, "Mira"], [4, ""]]
    assert [row[3] for row in rows[1:]] == [pytest.approx(0.8), pytest.approx(0.8), "", pytest.approx(0.6), ""]


def test_one_wrong_person_makes_nobody_else_a_stranger():
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    person = scored(CharacterFeatures("Mira", (0, 1, 2, 3), [one, one, other, one])).characters[0]
    assert frames_unlike_most(person, 0.9) == [2]
    assert max(value for value in person.of_frames[FACE_SIM]) < 0.9  # the stranger is in every mean
    assert frames_unlike_most(person, -0.1) == []
    alone = scored(CharacterFeatures("Mira", (0,), [one, None, None, None])).characters[0]
    assert frames_unlike_most(alone, 0.9) == []


def test_the_mapping_is_json_of_what_was_measured():
    mira = CharacterFeatures("Mira", (0, 2), [torch.ones(3), None, None, None])
    found = as_mapping(scored(mira), {"seed": 3})
    assert found["seed"] == 3
    assert found["scores"] == {FACE_SIM: None}
    person = found["characters"][0]
    assert person["frames"] == [1, 3]
    assert person["found"] == {FACE_SIM: 1}
    assert person["face_cosines"][0][0] == pytest.approx(1)
    assert person["face_cosines"][2] == [None] * 4
    assert person["least_alike_frame"] is None


def test_faces_that_are_copies_are_told_for_arcface_only():
    same = scored(CharacterFeatures("Mira", (0, 1), [torch.ones(3)] * 2 + [None] * 2))
    assert "copies of one another" in notes(same, "auraface")[0]
    assert notes(same, "dlib") == []


def test_the_plot_marks_the_worst_frame_and_leaves_missing_faces_grey():
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    mira = CharacterFeatures("Mira", (0, 1, 2, 3), [one, one, None, other])
    picture = draw_scores(scored(mira), 0.5)
    assert picture.shape[2] == 3
    assert 0 <= float(picture.min()) <= float(picture.max()) <= 1
    levels = (picture * 255).round().int()

    def count(colour):
        return int((levels == torch.tensor(colour)).all(dim=-1).sum())

    without = draw_scores(scored(CharacterFeatures("Mira", (0, 1, 2, 3), [one, one, one, one])))
    assert count((200, 60, 40)) > 0  # the mark of the worst frame
    assert count((238, 238, 238)) > 5 * 30 * 30  # seven cells without a face
    grey = (without * 255).round().int().eq(torch.tensor((238, 238, 238))).all(dim=-1)
    assert int(grey.sum()) < 20  # edges of letters
    assert count(colour_of_cosine(1.0)) > 4 * 30 * 30
    assert count(colour_of_cosine(0.0)) > 3 * 30 * 30
    nothing = draw_scores(scored(CharacterFeatures("Mira", (0,))))
    assert nothing.ndim == 3


@pytest.mark.parametrize("frames", [31, 300, 1500])
def test_the_plot_of_many_frames_is_no_larger_and_marks_the_worst(frames):
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.6, 0.8])
    faces = [one] * frames
    faces[frames // 2], faces[3] = other, None
    picture = draw_scores(scored(CharacterFeatures("Mira", tuple(range(frames)), faces), frames=frames), 0.5)
    height, width, _ = picture.shape
    assert MOST < height < MOST + 150
    assert width < MOST + 550
    levels = (picture * 255).round().int()
    red = (levels == torch.tensor((200, 60, 40))).all(dim=-1).nonzero()
    assert abs(float(red[:, 0].double().mean()) - (GAP + 62 + MOST * (frames // 2 + 0.5) / frames)) < 8
    if frames <= MOST:
        stripe = (levels[:, 72 : 72 + MOST] == torch.tensor(colour_of_cosine(0.6))).all(dim=-1)
        assert int(stripe.sum()) == pytest.approx(2 * MOST**2 / frames, rel=0.1)


def test_colours_run_from_red_to_blue():
    assert colour_of_cosine(-0.5) == colour_of_cosine(0.0)
    assert colour_of_cosine(0.0)[0] > colour_of_cosine(0.0)[2]
    assert colour_of_cosine(1.0)[2] > colour_of_cosine(1.0)[0]
    assert colour_of_cosine(math.nextafter(1.0, 0.0)) == colour_of_cosine(1.0)
