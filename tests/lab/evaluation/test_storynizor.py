"""Measures of frames drawn together: laws, a number by hand, and one small story all the way."""

import json
from dataclasses import replace

import pytest
import torch
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.headless.shared_frames import Sharing
from story_identity.lab.evaluation import auto_masks, storynizor
from story_identity.lab.evaluation.auto_masks import best_of_grid, measure_found, measure_maps, on_grid
from story_identity.lab.evaluation.drawing_modes import DRAWING_MODES, OFF, ON, DrawingMode, draw_story
from story_identity.lab.evaluation.identitystory import DRAWN, OTHERS, Seen, drawings, drawn_scenes
from story_identity.lab.evaluation.layouts import LAYOUTS
from story_identity.lab.evaluation.scores import mean_difference, same_share
from story_identity.lab.evaluation.stories import make_story
from story_identity.lab.evaluation.storynizor import (
    diversity,
    figure_features,
    measure_alike,
    measure_clothes,
    measure_leak,
    measure_story,
)
from story_identity.lab.evaluation.storynizor_tables import make_tables
from story_identity.lab.toyworld.probe import Probe

from tests.closeness import assert_close, largest_difference
from tests.lab.evaluation.small import STORY, KnowsTheAnswers

pytestmark = pytest.mark.slow

SIDE = TOY_WORLD.picture_side
TWO = make_story(STORY)
ONE_FRAME = replace(TWO.story, frames=TWO.story.frames[:1])
ADA, BEN = (character.name for character in TWO.story.characters)


def rectangle(*sides):
    """A mask from top, left, bottom and right, in units of which a picture has 64."""
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    top, left, bottom, right = (TOY_WORLD.scale * side for side in sides)
    mask[top:bottom, left:right] = True
    return mask


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def probe():
    torch.manual_seed(5)
    return Probe().eval().requires_grad_(False)


def test_clothes_of_the_same_colour_by_hand():
    assert same_share(["red"] * 4) == 1
    assert same_share(["red", "blue", "green"]) == 0
    assert same_share(["red", "blue", None, "red"]) == pytest.approx(1 / 3)
    assert same_share(["red", None]) is None


def test_clothes_are_told_apart_by_whether_the_caption_tells_them():
    class Alternates(KnowsTheAnswers):
        """Reads red and blue by turns in the upper half, and red below."""

        def read_person(self, image, mask):
            return {"clothes": "blue" if mask[: SIDE // 2].any() and image[0, 0, 0] > 0.5 else "red"}

    toy = next(toy for toy in map(make_story, range(2, 90, 3)) if len(set(toy.plans[0].names_clothes)) == 2)
    named = toy.plans[0].names_clothes.index(True)
    places = [rectangle(0, 0, 9, 9), rectangle(40, 0, 50, 9)]  # whose clothes the caption names is above
    seen = {toy.story.characters[named].name: Seen(places[0], None)}
    seen[toy.story.characters[1 - named].name] = Seen(places[1], None)
    pictures = [torch.full((SIDE, SIDE, 3), level) for level in (0.0, 1.0, 0.0, 1.0)]
    found = measure_clothes(Alternates({}, {}), toy, pictures, [seen] * 4)
    assert found == {"all": pytest.approx((1 + 1 / 3) / 2), "told": pytest.approx(1 / 3), "untold": 1.0}


def test_one_figure_is_alike_wherever_it_stands(probe):
    """And whatever is behind it."""
    (high, wide), pictures, seen = (30, 12), [], []
    unit = TOY_WORLD.scale
    figure = noise(unit * high, unit * wide, 3)
    for number, (row, column) in enumerate([(20, 3), (24, 40), (30, 22)]):
        picture = noise(SIDE, SIDE, 3, seed=number + 1)
        picture[unit * row : unit * (row + high), unit * column : unit * (column + wide)] = figure
        pictures.append(picture)
        seen.append({ADA: Seen(rectangle(row, column, row + high, column + wide), None)})
    one = make_story(0)
    assert measure_alike(probe, one, pictures, seen) == pytest.approx(1)
    pictures[2] = 1 - pictures[2]
    assert measure_alike(probe, one, pictures, seen) < 0.999


def test_a_figure_as_large_as_the_picture_has_features(probe):
    features = figure_features(probe, noise(SIDE, SIDE, 3), rectangle(0, 0, 64, 64))
    assert features.shape == (96 * 16,)
    assert features.isfinite().all()


def test_a_copied_background_has_no_diversity():
    background, empty = noise(8, 8, 3), []
    pictures = [background.clone() for _ in range(3)]
    for number, picture in enumerate(pictures):
        picture[:, number] = noise(8, 3, seed=number + 9)  # the people, of whom nothing counts
        empty.append(torch.ones(8, 8, dtype=torch.bool))
        empty[-1][:, number] = False
    assert diversity(pictures, empty) == 0
    pictures[0][:, 3:] += 0.25
    assert diversity(pictures, empty) == pytest.approx(2 / 3 * 0.25 * 5 / 6)  # 5 of 6 columns, in 2 of 3 pairs
    assert mean_difference(pictures[0], pictures[1], ~(empty[0] | True)) is None


def test_a_leak_is_told_apart_by_frame():
    east, north = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert measure_leak([east, east], [east, east]) == {"same_frame": 1.0, "other_frames": 1.0}
    assert measure_leak([east, north], [north, east]) == {"same_frame": 0.0, "other_frames": 1.0}
    assert measure_leak([east, None], [None, -east]) == {"same_frame": None, "other_frames": -1.0}


def planted(masks, grid):
    """Maps that are high where the masks are, of one frame."""
    return torch.stack([on_grid(mask, grid) for mask in masks])[None]


def test_masks_that_are_equal_and_masks_apart():
    ada, ben = rectangle(16, 8, 56, 24), rectangle(16, 40, 56, 56)  # whole cells of the grid
    maps = planted([ada, ben], (8, 8))
    found = measure_maps(maps, ONE_FRAME, [{ADA: ada, BEN: ben}])
    assert found["grid"] == 1
    assert found["picture"] > 0.8
    assert measure_maps(maps, ONE_FRAME, [{ADA: ben, BEN: ada}]) == {"grid": 0.0, "picture": 0.0}
    assert measure_maps(maps, ONE_FRAME, [{BEN: ben}])["grid"] == 1
    assert measure_maps(maps, ONE_FRAME, [{}]) == {"grid": None, "picture": None}


def test_half_a_mask_by_hand():
    ada, ben = rectangle(0, 0, 32, 16), rectangle(32, 32, 64, 64)
    wider = rectangle(0, 0, 32, 32)
    assert measure_maps(planted([ada, ben], (8, 8)), ONE_FRAME, [{ADA: wider, BEN: ben}])["grid"] == (0.5 + 1) / 2
    assert measure_found([{ADA: wider, BEN: ben}], [{ADA: ada}]) == (0.5 + 0) / 2


def test_what_a_grid_allows():
    cells = rectangle(16, 8, 56, 24)
    fine = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    fine[::2] = True
    assert best_of_grid(cells, (64, 64)) == 1
    assert 0.8 < best_of_grid(cells, (8, 8)) < 1
    assert best_of_grid(fine, (8, 8)) < 0.6


def test_scenes_are_those_of_the_drawings_with_their_people_in_order():
    scenes, pictures = drawn_scenes(TWO), drawings(TWO)
    for name in (DRAWN, OTHERS):
        for scene, picture in zip(scenes[name], pictures[name], strict=True):
            assert torch.equal(torch.tensor(scene.image).float() / 255, picture)
    for scene in scenes[DRAWN]:
        assert scene.plan.people == TWO.people
        assert scene.masks.shape == (2, SIDE, SIDE)


@pytest.fixture(scope="module")
def measured(instruments):
    return measure_story(instruments, STORY, redenoised=STORY + 1)


def test_the_row_is_json_and_has_every_way(measured):
    row, pictures = measured
    assert json.loads(json.dumps(row)) == row
    assert list(pictures) == [*(mode.name for mode in DRAWING_MODES), DRAWN, OTHERS]
    for measure in ("face_sim", "faces", "clothes", "alike", "leak", "agreement", "background"):
        assert set(row[measure]) == set(pictures), measure
    assert set(row["drawn_masks"]["levels"]) == {"1"}  # of 4 steps here
    assert set(row["running_masks"]) == {"2"}
    assert row["drawn_masks"]["grid"] == [TOY_WORLD.latent_side] * 2
    assert set(row["layouts"]["face_sim"]) == {"template", *LAYOUTS}
    text = make_tables([row, row])
    for table in text.split("\n\n")[1:]:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_only_the_first_stories_are_redenoised(instruments, measured, monkeypatch):
    monkeypatch.setattr(storynizor, "measure_layouts", None)  # fails when called
    row, _ = measure_story(instruments, STORY, redenoised=STORY)
    assert row["layouts"] is None
    assert row["face_sim"] == measured[0]["face_sim"]
    assert "| Face-Sim | – |" in make_tables([row, row])


def test_sharing_changes_pictures_and_no_sharing_does_not(instruments, measured):
    pictures, studio = measured[1], instruments.studio
    again = draw_story(studio, TWO.story, DrawingMode("again", Sharing(strength=0.0)), 2900)
    assert all(torch.equal(a, b) for a, b in zip(again.pictures, pictures[OFF], strict=True))
    assert again.maps == {}
    assert not torch.equal(pictures[ON][0], pictures[OFF][0])
    assert not torch.equal(pictures["half"][0], pictures[ON][0])


def test_maps_of_a_level_do_not_know_the_other_levels(instruments, monkeypatch):
    studio, pictures = instruments.studio, torch.stack(drawings(TWO)[DRAWN])
    levels, steady = auto_masks.maps_of_noised(studio, TWO.story, pictures, 7)
    assert list(levels) == [1, 2, 3]
    expected = levels[1]
    for done in (2, 3):
        expected = 0.9 * expected + 0.1 * levels[done]
    assert_close(steady, expected)
    again, _ = auto_masks.maps_of_noised(studio, TWO.story, pictures.flip(0).flip(0), 7)
    assert torch.equal(again[3], levels[3])
    assert largest_difference(levels[1], levels[3]) > 1e-3
