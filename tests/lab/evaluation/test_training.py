"""What training made, measured: references and poses by hand, LoRA and injector by laws, a small story all the way."""

import json

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file
from story_identity.core.injector import ReferenceFeatures
from story_identity.core.shuffle import MODES
from story_identity.core.toyworld.identity_encoder import WIDTH
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.core.toyworld.vocabulary import POSES
from story_identity.headless.reference_injection import cross_attention_widths, inject_story
from story_identity.lab.evaluation import training
from story_identity.lab.evaluation.__main__ import TRAINING_FIGURE
from story_identity.lab.evaluation.__main__ import training as command
from story_identity.lab.evaluation.drawing_modes import OFF, ON, draw_story
from story_identity.lab.evaluation.identitystory import DRAWN, OTHERS, Seen
from story_identity.lab.evaluation.markdown import markers
from story_identity.lab.evaluation.stories import FRAMES, make_story
from story_identity.lab.evaluation.training import (
    DRAWING_MODES,
    INJECTOR,
    LORAS,
    NO_LORA,
    OFF_WITH,
    ON_WITH,
    ON_WITHOUT,
    REFERENCES,
    WITH,
    WITHOUT,
    References,
    draw_modes,
    layouts_of,
    made_with,
    make_references,
    measure_poses,
    measure_story,
    measure_to_references,
    open_trained,
)
from story_identity.lab.evaluation.training_tables import make_tables

from tests.lab.evaluation.small import STORY, KnowsTheAnswers, T
from tests.stand_ins.diffusers_models import write_lora
from tests.stand_ins.ip_adapters import CLIP, flat, layer_side, plus_face

pytestmark = pytest.mark.slow

ONE, TWO = make_story(0), make_story(STORY)
ADA, BEN = (character.name for character in TWO.story.characters)
FIRST = 2900
STACKED = "injector_stacked"


class Reader:
    """Reads nothing but the mean colour, and tells it many times over."""

    clip_width, face_width = CLIP, WIDTH

    def read(self, pictures, masks):
        colours = torch.stack([picture.mean(dim=(0, 1)) for picture in pictures])
        hidden = colours.repeat(1, CLIP)[:, None, :CLIP].repeat(1, 5, 1)
        face = torch.nn.functional.pad(torch.nn.functional.normalize(colours - 0.5, dim=1), (0, WIDTH - 3))
        return ReferenceFeatures(hidden, torch.zeros(1, 5, CLIP), face), [True] * len(pictures)


@pytest.fixture(scope="module")
def weights(instruments, tmp_path_factory):
    """A random synchronizer, one of zeros, and random injectors for shuffled and for stacked references."""
    folder, unet = tmp_path_factory.mktemp("trained"), instruments.studio.pipe.unet
    zeros = load_file(write_lora(folder / f"{WITH}.safetensors", unet))
    save_file({key: torch.zeros_like(value) for key, value in zeros.items()}, folder / f"{WITHOUT}.safetensors")
    layers = layer_side(list(cross_attention_widths(unet).values()), cross=TOY_WORLD.text_width)
    content = flat({"image_proj": plus_face(TOY_WORLD.text_width), "ip_adapter": layers})
    save_file(content, folder / f"{INJECTOR}.safetensors")
    save_file({key: value.roll(1, dims=-1) for key, value in content.items()}, folder / f"{STACKED}.safetensors")
    return folder


@pytest.fixture(scope="module")
def trained(instruments, weights):
    return open_trained(instruments.studio, weights, Reader())


@pytest.fixture(scope="module")
def measured(instruments, trained):
    return measure_story(instruments, trained, STORY)


def drawn_as(mode, studio):
    return draw_story(studio, TWO.story, next(each for each in DRAWING_MODES if each.name == mode), FIRST).pictures


def same(some, others):
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


@pytest.mark.parametrize("number", range(12))
def test_references_are_of_other_places_and_poses_than_the_frames(number):
    toy = make_story(number)
    for person in make_references(Reader(), toy).values():
        assert len(person.pictures) == FRAMES
        assert len({picture.numpy().tobytes() for picture in person.pictures}) == FRAMES
    for place, person in enumerate(toy.people):
        poses = [plan.poses[place] for plan in toy.plans]
        random = training.np.random.default_rng(number)
        plans = training.reference_plans(person, poses, [plan.place for plan in toy.plans], random)
        assert {plan.people for plan in plans} == {(person,)}
        assert not {plan.place for plan in plans} & {plan.place for plan in toy.plans}
        least = min(map(poses.count, POSES))
        assert all(poses.count(plan.poses[0]) == least for plan in plans)


def test_same_story_same_references():
    some, others = make_references(Reader(), TWO), make_references(Reader(), TWO)
    assert all(same(some[name].pictures, others[name].pictures) for name in (ADA, BEN))
    assert not same(some[ADA].pictures, some[BEN].pictures)


def test_a_reference_without_a_face_is_refused():
    class Blind(Reader):
        def read(self, pictures, masks):
            return super().read(pictures, masks)[0], [True, False, True, True]

    with pytest.raises(ValueError, match="Story 3: no face was found in a reference picture of Ada"):
        make_references(Blind(), TWO)


def test_poses_are_each_persons_own():
    class Reads(KnowsTheAnswers):
        """Says what the plans ask for above, and always the same below."""

        def read_person(self, image, mask):
            return {"pose": TWO.plans[int(image[0, 0, 0])].poses[0] if mask[:32].any() else "standing"}

    above, below = torch.zeros(2, 64, 64, dtype=torch.bool)
    above[:9], below[40:] = True, True
    pictures = [torch.full((64, 64, 3), float(frame)) for frame in range(FRAMES)]
    probe, ada, ben = Reads({}, {}), {ADA: Seen(above, None)}, {BEN: Seen(below, None)}
    assert measure_poses(probe, TWO, pictures, [ada] * FRAMES) == 1
    assert measure_poses(probe, TWO, pictures, [ben] * FRAMES) == 0
    assert measure_poses(probe, TWO, pictures, [ada | ben] * FRAMES) == 1 / 2
    assert measure_poses(probe, TWO, pictures, [{}] * FRAMES) is None


def test_likeness_to_references_by_hand():
    east, north = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    nothing = ReferenceFeatures()
    references = {ADA: References([], nothing, torch.stack([east, east])), BEN: References([], nothing, north[None])}
    mask = torch.ones(64, 64, dtype=torch.bool)
    seen = {
        "right": [{ADA: Seen(mask, east), BEN: Seen(mask, north)}] * FRAMES,
        "exchanged": [{ADA: Seen(mask, north), BEN: Seen(mask, east)}] * FRAMES,
        "one": [{ADA: Seen(mask, east)}, {ADA: Seen(mask, north)}, {ADA: Seen(mask, None)}, {}],
        "nobody": [{}] * FRAMES,
    }
    found = measure_to_references(TWO, references, seen)
    assert found == {"right": 1, "exchanged": 0, "one": 1 / 2, "nobody": None}


def test_a_lora_is_in_its_own_studio_alone(instruments, trained):
    """Drawing without one is the same bits as where none was ever loaded; so is one of zeros."""
    before, studios = drawn_as(OFF, instruments.studio), trained.studios
    assert studios[NO_LORA] is instruments.studio
    assert not same(drawn_as(OFF, studios[WITH]), before)
    assert same(drawn_as(OFF, studios[WITHOUT]), before)
    assert same(drawn_as(OFF, studios[NO_LORA]), before)


def test_the_first_ways_are_those_without_training(measured, instruments):
    for mode in (OFF, ON):
        assert same(measured[1][mode], drawn_as(mode, instruments.studio)), mode
    assert not same(measured[1][OFF], measured[1][ON])


def test_every_way_has_its_own_lora(measured):
    """The one without mask loss is of zeros here."""
    pictures = measured[1]
    assert same(pictures[ON_WITHOUT], pictures[ON])
    for one, other in ((ON_WITH, ON), (OFF_WITH, OFF), (ON_WITH, OFF_WITH)):
        assert not same(pictures[one], pictures[other])


def test_every_dealing_draws_other_pictures(measured):
    pictures = [measured[1][name][1] for name in (ON_WITH, *MODES)]
    assert all(not torch.equal(one, other) for i, one in enumerate(pictures) for other in pictures[:i])


@pytest.mark.parametrize("toy", [ONE, TWO], ids=["one person", "two people"])
def test_faces_act_where_attention_sees_two_people_and_everywhere_for_one(trained, toy, monkeypatch):
    given = []

    def noted(injector, story, faces, mode, seed, layouts):
        given.append((mode, seed, layouts))
        assert injector is trained.injectors[mode]
        return inject_story(injector, story, faces, mode, seed, layouts=layouts)

    monkeypatch.setattr(training, "inject_story", noted)
    modes = tuple(mode for mode in DRAWING_MODES if mode.name in (ON_WITH, "shuffled", "stacked"))
    monkeypatch.setattr(training, "DRAWING_MODES", modes)
    drawn = draw_modes(trained, toy, make_references(Reader(), toy), FIRST)
    assert [(mode, seed) for mode, seed, _ in given] == [(mode, FIRST) for mode in ("shuffled", "stacked")]
    expected = layouts_of(toy, drawn[ON_WITH].maps[T]) if toy is TWO else ()
    for _, _, layouts in given:
        assert len(layouts) == len(expected)
        for layout, other in zip(layouts, expected, strict=True):
            assert layout.names == (ADA, BEN)
            assert torch.equal(layout.masks, other.masks)


def test_the_row_is_json_and_has_every_way(measured):
    row, pictures = measured
    names = [mode.name for mode in DRAWING_MODES]
    assert json.loads(json.dumps(row)) == row
    assert list(pictures) == [REFERENCES, *names, DRAWN, OTHERS]
    assert set(TRAINING_FIGURE.columns) <= set(TRAINING_FIGURE.rows) == {REFERENCES, *names}
    for measure in ("face_sim", "clothes", "alike", "leak", "agreement", "background", "poses", "to_references"):
        assert set(row[measure]) == {*names, DRAWN, OTHERS}, measure
    assert set(row["running_masks"]) == set(names)
    assert list(row["drawn_masks"]) == [LORAS[lora] for lora in (NO_LORA, WITHOUT, WITH)]
    base, zeros, random = row["drawn_masks"].values()
    assert base == zeros != random
    frames, maps = FRAMES, FRAMES * (T - 1)
    assert row["evaluations"] == len(DRAWING_MODES) * T * 2 * frames + 3 * maps  # CFG asks twice
    assert row["trained_for"] == dict.fromkeys(MODES, "shuffled") | {"stacked": "stacked"}
    text = make_tables([row, row])
    assert "| average, trained shuffled |" in text
    assert "| stacked |" in text
    assert "| stacked, trained" not in text
    older = {name: value for name, value in row.items() if name != "trained_for"}
    assert "| stacked, trained shuffled |" in make_tables([older])
    for table in text.split("\n\n")[1:]:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_tables_take_ways_from_each_other_and_masks_by_people(measured):
    row = measured[0]
    face_sim = {name: 0.25 for name in row["face_sim"]} | {ON: 0.5, "shuffled": 0.75}
    row = {**row, "face_sim": face_sim}
    text = make_tables([row, row])
    assert "| on − off | +0.250 [+0.250, +0.250] |" in text
    of_two = text.split("**References: stories of two people**")[1]
    assert " +0.500 [+0.500, +0.500] |" in of_two.split("| shuffled − no references |")[1].split("\n")[0]
    masks = text.split("**Masks of drawn scenes")[1].split("\n")[2]
    assert masks.startswith("| no synchronizer | – |")  # of stories of one person there are none
    assert masks.count("–") == 2


def test_what_the_numbers_depend_on_is_noted(weights, tmp_path):
    noted = made_with(weights)
    assert json.loads(json.dumps(noted)) == noted
    assert set(noted["trained"]) == {WITH, WITHOUT, INJECTOR, STACKED}
    for path in weights.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert made_with(tmp_path) == noted
    (tmp_path / f"{WITHOUT}.safetensors").write_bytes((weights / f"{WITH}.safetensors").read_bytes())
    assert made_with(tmp_path) != noted


def test_missing_weights_are_named_before_anything_is_drawn(tmp_path):
    (tmp_path / "page.md").write_text("".join(markers("training")))
    (tmp_path / "injector.safetensors").touch()
    with pytest.raises(typer.BadParameter, match=r"lacks synchronizer.safetensors, synchronizer_without_mask_loss"):
        command(tmp_path / "out", stories=2, processes=1, page=tmp_path / "page.md", weights=tmp_path)
    assert not (tmp_path / "out").exists()
