"""The demo, with random weights: what its sheet and page show is what the run made."""

import base64
import html.parser
import io
import itertools
import json
import re
import shutil

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from story_identity.core.detectors import Detections
from story_identity.core.scores.cosines import likeness
from story_identity.core.sheet import colour_of
from story_identity.core.story import Story
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.core.toyworld.vocabulary import tokenize
from story_identity.headless.demo import STORY, demo_settings, make_demo
from story_identity.headless.demo_album import FaceSim, count_evaluations
from story_identity.headless.demo_sheet import draw_masks, enlarge, score_line
from story_identity.headless.run_settings import toyworld_settings

from tests.closeness import assert_close
from tests.stand_ins.toyworld import make_random_toyworld

LARGER = 256 // TOY_WORLD.picture_side
WIDE = LARGER * TOY_WORLD.picture_side

TOLD = ['Mira & the cat say "no <b>bold</b> steps".', "Tom’s ball; it's red.", "Both, at last.", "Nobody is here."]
STORY_OF_FOUR = {
    "title": "Two <people> & a cat",
    "characters": [
        {"name": "Mira", "word": "woman", "description": "a woman with red hair"},
        {"name": "Tom", "word": "boy", "description": "a boy with black hair"},
    ],
    "frames": [
        "Mira sits in the kitchen with a cat",
        "Tom waves in the garden with a ball",
        "Mira and Tom on a beach",
        "the snow",
    ],
    "told": TOLD,
}
BOXES = {"woman": (4.0, 10.0, 28.0, 60.0), "boy": (34.0, 12.0, 60.0, 61.0)}


class HalfAndHalf:
    """A woman is left, a boy is right; nothing else is ever found."""

    def __init__(self, words=("woman", "boy")):
        self.words = words

    def find(self, image, word):
        boxes = [BOXES[word]] if word in self.words else []
        scores = torch.full((len(boxes),), 0.9)
        return Detections(torch.tensor(boxes).reshape(-1, 4), scores, scores)

    def segment(self, image, boxes):
        masks = torch.zeros(len(boxes), *image.shape[:2], dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y0:y1, x0:x1] = True
        return masks


def read_face(image, mask):
    """The picture in the mask, standing for its face."""
    inside = (image * mask.unsqueeze(-1)).flatten() - 0.2
    return inside / inside.norm()


class Seen(html.parser.HTMLParser):
    """A page taken apart: its text, its pictures, the cells of its tables."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.images, self.cells, self.attributes = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag == "img":
            self.images.append(dict(attrs))
        elif tag not in ("meta", "link"):
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = make_random_toyworld(tmp_path_factory.mktemp("weights"))
    return toyworld_settings(
        **{"checkpoint": str(folder), "photomaker": str(folder / "photomaker.safetensors")},
        **{"steps": 3, "start": 1, "portraits": 6, "portrait_steps": 2, "rank": 2, "rounds": 1, "portrait_batch": 4},
    )


@pytest.fixture(scope="module")
def story():
    return Story.parse(STORY_OF_FOUR)


@pytest.fixture(scope="module")
def made(settings, story, tmp_path_factory):
    """The demo, with how many samples went through the UNet."""
    out, counted, forward = tmp_path_factory.mktemp("demo"), [0], UNet2DConditionModel.forward

    def count(self, sample, *args, **kwargs):
        counted[0] += len(sample)
        return forward(self, sample, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UNet2DConditionModel, "forward", count)
        demo = make_demo(out, story, settings, detector=HalfAndHalf(), read_face=read_face)
    return out, demo, counted[0]


@pytest.fixture(scope="module")
def page(made):
    return Seen((made[0] / "index.html").read_text(encoding="utf-8"))


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.mark.slow
def test_the_page_is_well_formed_and_whole(page):
    assert page.open == []
    addresses = [value for tag, name, value in page.attributes if name in ("src", "href", "srcset", "action")]
    assert addresses
    assert all(value.startswith("data:image/png;base64,") for value in addresses)
    assert not [tag for tag, *_ in page.attributes if tag in ("script", "link", "iframe")]


def test_every_sentence_of_the_story_is_there_word_for_word(page):
    for sentence in (*TOLD, STORY_OF_FOUR["title"], *STORY_OF_FOUR["frames"]):
        assert any(sentence in text for text in page.texts), sentence
    assert not [tag for tag, *_ in page.attributes if tag in ("b", "people")]


def test_the_pictures_of_the_page_are_those_of_the_run(made, page):
    out, _, _ = made
    shown = []
    for image in page.images:
        content = base64.b64decode(image["src"].partition(",")[2])
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.size == (int(image["width"]), int(image["height"]))
            shown.append(np.asarray(picture.convert("RGB")).tobytes())
    for pattern in ("frame_*.png", "template/*.png", "portraits/*/*_kept.png"):
        paths = sorted(out.glob(pattern))
        assert paths
        assert all(pixels(path).tobytes() in shown for path in paths), pattern
    assert len(shown) == 4 + 3 * 4 + 2 * (1 + 3)


def test_every_picture_is_told_in_words_of_its_own(page):
    alts = [image["alt"] for image in page.images]
    assert all(alts)
    assert len(set(alts)) == len(alts)


def test_face_sim_is_what_the_pictures_say(made, page):
    out, _, _ = made
    expected = {}
    for column, number in (("Mira", (1, 3)), ("Tom", (2, 3))):
        for folder in ("template", "."):
            faces = []
            for frame in number:
                with Image.open(out / "masks" / f"frame_{frame:04d}.png") as masks:
                    place = {(1, "Mira"): 1, (3, "Mira"): 1, (2, "Tom"): 1, (3, "Tom"): 2}[frame, column]
                    mask = np.asarray(masks) == place
                face = (pixels(out / folder / f"frame_{frame:04d}.png") / 255 * mask[..., None]).ravel() - 0.2
                faces.append(face / np.linalg.norm(face))
            expected[column, folder] = f"{faces[0] @ faces[1]:.2f}".replace("-", "−")
    last = page.cells[page.cells.index("All pairs") :][:5]
    both = ["Mira", "Tom"]
    assert last == ["All pairs", *(expected[name, folder] for name in both for folder in ("template", "."))]
    second = page.cells[page.cells.index("Frame 2") :][:5]
    assert second == ["Frame 2", "–", "–", expected["Tom", "template"], expected["Tom", "."]]
    assert page.cells[page.cells.index("Frame 4") :][1:5] == ["–"] * 4


def test_the_evaluations_told_are_those_counted_in_the_unet(made, page):
    _, demo, counted = made
    by_hand = 2 * 6 * 2 * 2 + 4 * 2 * 3 + 4 * 2 * (3 - 1)  # portraits, templates, four times somebody found
    assert count_evaluations(demo.album).total == counted == by_hand
    assert any(cell.startswith(f"{by_hand}: 48 for portraits, 24 for templates, 16 for") for cell in page.cells)


def test_the_sheet_has_a_column_for_every_frame(made):
    _, demo, _ = made
    sheet = pixels(demo.sheet)
    assert sheet.shape[1] == 4 * (WIDE + 16) + 16
    for column, frame in enumerate(demo.album.pages):
        strip = sheet[:, 16 + column * (WIDE + 16) :][:, :WIDE]
        for picture in (frame.template, draw_masks(frame), frame.picture):
            wanted = (enlarge(picture, WIDE) * 255).round().byte().numpy()
            tops = [top for top in range(len(strip) - WIDE + 1) if (strip[top] == wanted[0]).all()]
            assert any((strip[top : top + WIDE] == wanted).all() for top in tops)


def test_a_likeness_is_told_before_and_after_and_a_dash_where_there_is_none():
    along, across = torch.tensor([1.0, 0.0]), torch.tensor([-0.6, 0.8])
    score = FaceSim("Mira", likeness([along, None]), likeness([along, across]))
    assert score_line(score) == "Mira: likeness of the faces (mean cosine) – in the template, −0.60 re-denoised"


def test_a_character_has_one_colour_all_through_the_story(made):
    _, demo, _ = made
    alone = demo.album.pages[1]
    mask = alone.mask_of("Tom").repeat_interleave(LARGER, 0).repeat_interleave(LARGER, 1)
    plain, drawn = enlarge(alone.template, WIDE), draw_masks(alone)
    assert torch.equal(drawn[~mask], plain[~mask])
    assert_close(drawn[mask], 0.4 * plain[mask] + 0.6 * torch.tensor(colour_of(1)) / 255)


def test_again_the_same_bytes_and_nothing_drawn(made, settings, story, monkeypatch):
    out, _, _ = made
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    monkeypatch.setattr(UNet2DConditionModel, "forward", None)
    make_demo(out, story, settings, detector=HalfAndHalf(), read_face=read_face)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["index.html", "sheet.png"])
def test_a_page_or_sheet_that_no_demo_wrote_is_not_written_over(settings, story, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"{name} is there already, and no demo wrote it"):
        make_demo(tmp_path, story, settings, overwrite=True, detector=HalfAndHalf(), read_face=read_face)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "mine"}


@pytest.mark.slow
def test_what_a_demo_lost_comes_back_and_pictures_of_others_are_not_shown(made, settings, story, tmp_path):
    out = tmp_path / "demo"
    shutil.copytree(made[0], out)
    whole = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for name in ("index.html", "masks/frame_0001.png", "template/frame_0003.png"):
        (out / name).unlink()
    (out / "portraits" / "Mira" / "000_mine.png").write_bytes((out / "frame_0001.png").read_bytes())
    make_demo(out, story, settings, detector=HalfAndHalf(), read_face=read_face)
    (out / "portraits" / "Mira" / "000_mine.png").unlink()
    assert {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()} == whole


def test_a_sheet_of_earlier_versions_which_has_no_mark_is_known_by_its_page(made, settings, story, tmp_path):
    out = tmp_path / "demo"
    shutil.copytree(made[0], out)
    Image.new("RGB", (8, 8)).save(out / "sheet.png")
    make_demo(out, story, settings, detector=HalfAndHalf(), read_face=read_face)
    assert (out / "sheet.png").read_bytes() == (made[0] / "sheet.png").read_bytes()


@pytest.mark.slow
def test_who_is_not_found_is_said_to_be_left_as_drawn(settings, story, tmp_path):
    changed = {each: getattr(settings, each) for each in settings.__dataclass_fields__} | {"on_missing": "skip"}
    blind = HalfAndHalf(words=("woman",))
    make_demo(tmp_path, story, type(settings)(**changed), detector=blind, read_face=read_face)
    page = Seen((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert sum("Not found, and left as drawn: Tom" in text for text in page.texts) == 2
    assert any("Too few of Tom’s faces were found" in text for text in page.texts)
    assert page.cells[page.cells.index("All pairs") :][3:5] == ["–", "–"]


def test_the_story_that_comes_with_the_demo():
    story, raw = Story.load(STORY), json.loads(STORY.read_text(encoding="utf-8"))
    assert len(story.frames) == 8 == len(raw["told"])
    casts = [tuple(person.name for person in frame.cast) for frame in story.frames]
    assert set(casts) == {("Mira",), ("Tom",), ("Mira", "Tom")}
    for frame in story.frames:
        assert 2 not in tokenize(frame.prompt, TOY_WORLD.text_length), (
            frame.prompt
        )  # no word the toy world does not know
    for sentence, cast in itertools.chain(zip(raw["told"], casts, strict=True)):
        assert not re.search(r"[<>&]", sentence)
        assert cast
    assert (demo_settings().on_missing, demo_settings().threads) == ("skip", 2)
