"""The world itself: what is drawn, what its caption says, and who is who."""

import hashlib
from dataclasses import fields, replace

import numpy as np
import pytest
from scipy.ndimage import binary_dilation
from story_identity.core.toyworld import vocabulary
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.lab.toyworld import captions, people, world
from story_identity.lab.toyworld.drawing import Canvas, Stance, draw_person
from story_identity.lab.toyworld.people import Person, sample_person

SIDE = TOY_WORLD.picture_side
EDGE = np.ones((2 * TOY_WORLD.scale + 1,) * 2)

FIRST = Person("man", "black", "red", "shirt", *[0] * 12)
NEVER_TOLD = {"skin", "face", "glasses", "beard", "freckles", "eyes", "brows", "hat", "pattern", "stripes", "dots"}


@pytest.fixture(scope="module")
def scenes() -> list[world.Scene]:
    return [world.sample_scene(seed) for seed in range(200)]


def test_a_seed_is_a_scene():
    first, again, other = (world.sample_scene(seed) for seed in (5, 5, 6))
    assert first.caption == again.caption
    assert first.plan == again.plan
    for part in ("image", "masks", "face_boxes"):
        assert np.array_equal(getattr(first, part), getattr(again, part))
    assert not np.array_equal(first.image, other.image)


def test_the_world_is_drawn_as_its_weights_saw_it():
    """To the last bit: its networks learned from these pixels."""
    seen = hashlib.sha256()
    for seed in range(40):
        scene = world.sample_scene(seed)
        for part in (scene.image, scene.masks, scene.face_boxes):
            seen.update(part.tobytes())
    assert seen.hexdigest() == "9865611521b60b2c46164a2f68caf1160607ac50ca7a56d3dab1b47c811be087"


def test_faces_of_one_or_two_people_are_32_pixels_high():
    """Of the head's box, 2.65 units high with hair and hat, the face is 2."""
    for seed in range(60):
        scene = world.sample_scene(seed, people=1 + seed % 2)
        heights = (scene.face_boxes[:, 3] - scene.face_boxes[:, 1]) * 2 / 2.65
        assert (heights >= 32).all()


def test_shapes(scenes):
    for scene in scenes:
        count = len(scene.plan.people)
        assert scene.image.shape == (SIDE, SIDE, 3)
        assert scene.image.dtype == np.uint8
        assert scene.masks.shape == (count, SIDE, SIDE)
        assert scene.face_boxes.shape == (count, 4)
        assert len(scene.identities) == count
    assert {len(scene.plan.people) for scene in scenes} == {0, 1, 2, 3}


def test_masks_are_exclusive_and_nobody_is_hidden(scenes):
    for scene in scenes:
        assert not len(scene.masks) or scene.masks.sum(axis=0).max() <= 1
        assert all(mask.sum() > 100 for mask in scene.masks)


def test_people_are_where_their_masks_are():
    for seed in range(40):
        plan = replace(world.sample_plan(np.random.default_rng(seed), people=1 + seed % 3), props=())
        drawn = world.draw(plan, np.random.default_rng(seed))
        place = world.Plan((), (), plan.place, plan.hour)
        empty = world.draw(place, np.random.default_rng(seed))
        changed = (drawn.image != empty.image).any(axis=2)
        covered = drawn.masks.any(axis=0)
        assert not (changed & ~binary_dilation(covered, EDGE)).any()  # a pixel's edge may be half theirs
        assert (changed & covered).sum() > 0.9 * covered.sum()


def test_other_clothes_change_that_person_alone():
    plan = world.sample_plan(np.random.default_rng(3), people=2)
    casts = [(plan.people[0], replace(plan.people[1], clothes=colour)) for colour in ("yellow", "purple")]
    bare, dressed = (world.draw(replace(plan, people=cast), np.random.default_rng(3)) for cast in casts)
    changed = (bare.image != dressed.image).any(axis=2)
    assert changed.any()
    assert not (changed & ~binary_dilation(bare.masks[1], np.ones((3, 3)))).any()


def test_a_head_box_by_hand():
    # The head's middle is 29.5 above the feet; a narrow face has radii 8.4 and 10.2. The box reaches 1.3 of them to the
    # sides, 1.5 up and 1.15 down.
    box = draw_person(Canvas(64), replace(FIRST, face=1), Stance(x=32, ground=60), owner=1)
    assert box == pytest.approx((32 - 10.92, 30.5 - 15.3, 32 + 10.92, 30.5 + 11.73))


def test_head_boxes_hold_the_heads(scenes):
    for scene in scenes:
        for pose, mask, box in zip(scene.plan.poses, scene.masks, scene.face_boxes, strict=True):
            x, y = round(float(box[0] + box[2]) / 2 - 0.5), round(float(box[1] + box[3]) / 2 - 0.5)
            assert scene.masks.any(axis=0)[y, x]
            if pose in ("standing", "sitting") and not scene.plan.close_up:  # no arm is up: the head is the top
                assert mask.any(axis=1).argmax() >= box[1] - 2 * TOY_WORLD.scale
                assert mask[: int(box[3]), : max(0, int(box[0]) - 2 * TOY_WORLD.scale)].sum() < 10 * TOY_WORLD.scale**2


def test_poses_and_sides_show():
    def middle(side: str) -> float:
        plan = world.Plan((FIRST,), ("standing",), "beach", side=side, names_clothes=(False,), names_hair=(True,))
        return float(world.draw(plan, np.random.default_rng(0)).masks[0].any(axis=0).nonzero()[0].mean())

    assert middle("left") < 0.375 * SIDE < middle("") < 0.625 * SIDE < middle("right")
    shapes = []
    for pose in world.POSES:
        plan = world.Plan((FIRST,), (pose,), "beach", names_clothes=(False,), names_hair=(True,))
        shapes.append(world.draw(plan, np.random.default_rng(0)).masks[0])
    assert all((one != other).sum() > 30 for i, one in enumerate(shapes) for other in shapes[:i])


def test_captions_say_what_the_plan_says(scenes):
    for scene in scenes:
        plan, words = scene.plan, scene.caption.replace(",", "").split()
        described = zip(plan.people, plan.names_hair, plan.names_clothes, strict=True)
        rest = scene.caption
        for person, hair, clothes in described:  # from left to right
            _, said, rest = rest.partition(captions.describe(person, hair, clothes))
            assert said
        if plan.close_up:
            assert "close-up" in words
            continue
        assert plan.place in words
        assert all(prop in words for prop in plan.props)
        assert ("night" in words) == (plan.hour == "night")
        assert not plan.side or plan.side in words
        for pose in set(plan.poses) - {"standing"}:
            assert any(form in words for form in vocabulary.POSE_WORDS[pose])


def test_captions_say_nothing_else(scenes):
    for scene in scenes:
        plan, words = scene.plan, set(scene.caption.replace(",", " ").split())
        assert not words & NEVER_TOLD
        assert words.isdisjoint(set(vocabulary.PROPS) - set(plan.props))
        assert words.isdisjoint(set(vocabulary.PLACES) - {plan.place})
        assert words.isdisjoint(set(vocabulary.CLASS_WORDS) - {person.word for person in plan.people})
        if not any(plan.names_clothes):
            assert words.isdisjoint(set(people.GARMENTS) | (set(people.CLOTHES_COLOURS) - set(people.HAIR_COLOURS)))
        if not any(plan.names_hair):
            assert words.isdisjoint({"hair", "lamp"})


def test_a_caption_does_not_depend_on_what_it_leaves_open():
    plan = world.Plan((FIRST,), ("waving",), "snow", names_clothes=(False,), names_hair=(True,))
    other = replace(FIRST, clothes="blue", garment="coat", skin=4, face=2, glasses=1, beard=1, hat=2, pattern=1)
    captions_of = {world.draw(replace(plan, people=(who,)), np.random.default_rng(7)).caption for who in (FIRST, other)}
    assert len(captions_of) == 1


def test_a_caption_by_hand():
    assert captions.describe(FIRST) == "a man with black hair"
    assert captions.describe(replace(FIRST, clothes="orange"), False, True) == "a man in an orange shirt"
    assert captions.describe(replace(FIRST, word="robot", hair="red")) == "a robot with a red lamp"


def test_every_caption_is_in_the_vocabulary(scenes):
    known = vocabulary.vocabulary()
    assert known[:3] == [vocabulary.START, vocabulary.END, vocabulary.UNKNOWN]
    assert len(set(known)) == len(known)
    for scene in scenes:
        ids = vocabulary.tokenize(scene.caption, TOY_WORLD.text_length)
        assert len(ids) == TOY_WORLD.text_length
        assert known.index(vocabulary.UNKNOWN) not in ids


def test_tokens_by_hand():
    known = vocabulary.vocabulary()
    ids = vocabulary.tokenize("A close-up photo, of a Zebra", 12)
    words = ["a", "close-up", "photo", ",", "of", "a"]
    assert ids == [0, *(known.index(word) for word in words), 2, 1, 1, 1, 1]
    with pytest.raises(ValueError, match="3 tokens; 2 fit"):
        vocabulary.tokenize("a red lamp", 4)


def test_every_attribute_counts_in_the_identity():
    random = np.random.default_rng(0)
    person = sample_person(random, held_out=None)
    options = people._OPTIONS
    for field in fields(Person):
        looks = {replace(person, **{field.name: option}).identity for option in options[field.name]}
        assert len(looks) == len(options[field.name])
    many = {sample_person(random, held_out=None) for _ in range(2000)}
    assert len({one.identity for one in many}) == len(many)


def test_an_identity_by_hand():
    assert FIRST.identity == 0
    assert replace(FIRST, pattern=2).identity == 2
    assert replace(FIRST, hat_colour=1).identity == 3  # of three patterns
    assert replace(FIRST, hat=1).identity == 15  # and five colours


def test_held_out_looks_stay_out():
    random = np.random.default_rng(1)
    kept = {sample_person(random, held_out=False).identity for _ in range(500)}
    hidden = {sample_person(random, held_out=True).identity for _ in range(100)}
    assert not kept & hidden
    share = np.mean([sample_person(random, held_out=None).held_out for _ in range(1500)])
    assert share == pytest.approx(1 / people.HELD_OUT, abs=0.03)
    assert all(person.held_out for seed in range(25) for person in world.sample_scene(seed, held_out=True).plan.people)
    assert not any(person.held_out for seed in range(25) for person in world.sample_scene(seed).plan.people)


def test_given_attributes_are_kept():
    random = np.random.default_rng(2)
    for _ in range(50):
        person = sample_person(random, word="girl", hair="red", glasses=2)
        assert (person.word, person.hair, person.glasses, person.beard) == ("girl", "red", 2, 0)
