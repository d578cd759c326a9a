"""The filters one by one, with measures that a test can see through, and the sums behind them."""

import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from story_identity.core.detectors import Detections
from story_identity.lab.storydb.group_filter import GroupFilter, clusters, median_likeness
from story_identity.lab.storydb.measures import Measures
from story_identity.lab.storydb.pictures import open_picture, stored_picture
from story_identity.lab.storydb.settings import StoryDBSettings
from story_identity.lab.storydb.sources import find_sources

COLOURS = {"red": (250, 20, 20), "crimson": (220, 40, 30), "blue": (20, 30, 240)}
SETTINGS = StoryDBSettings(least=2, most=4, least_side=16, words=("woman", "man"), look=0.5, aesthetic=0.5)


class Blocks:
    """Finds the one bright block of a dark picture, whatever the word."""

    def find(self, image, word):
        mask = image.amax(dim=-1) > 0.5
        if not mask.any():
            return Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0))
        rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
        box = torch.tensor([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], dtype=torch.float32)
        return Detections(box, torch.ones(1), torch.ones(1))

    def segment(self, image, boxes):
        return (image.amax(dim=-1) > 0.5)[None].expand(len(boxes), -1, -1)


class Spaces:
    """A tokenizer that knows nothing but spaces."""

    model_max_length = 8

    def __call__(self, text, add_special_tokens=True, **_):
        words = [zlib.crc32(word.encode()) for word in text.split()]
        return SimpleNamespace(input_ids=[0, *words, 1] if add_special_tokens else words)


def block(colour, left=4, size=(24, 20), side=8):
    picture = Image.new("RGB", size, (10, 10, 10))
    picture.paste(colour, (left, 5, left + side, 5 + side))
    return picture


def look(picture):
    """The mean colour, as a unit vector about grey: hue and nothing else."""
    return torch.nn.functional.normalize(picture.flatten(0, 1).mean(dim=0) - picture.mean(), dim=0)


@pytest.fixture
def root(tmp_path):
    """Three red blocks in one folder, with captions."""
    for number in range(3):
        put(tmp_path, f"{number}.png", block(COLOURS["red"], 2 + number))
    return tmp_path


def put(root, name, picture, caption="a tall woman at home"):
    (root / "mia").mkdir(exist_ok=True)
    picture.save(root / "mia" / name)
    (root / "mia" / name).with_suffix(".txt").write_text(caption)


def sieved(root, settings=SETTINGS, **measures):
    (source,), _ = find_sources(root)
    group_filter = GroupFilter(root, source, settings, Measures(Blocks(), **measures))
    groups = group_filter.groups()
    return groups, {drop.file.removeprefix("mia/"): (drop.reason, drop.detail) for drop in group_filter.drops}


def test_without_models_for_the_filters_everything_passes(root):
    (group,), drops = sieved(root)
    assert drops == {}
    assert [member.file for member in group.members] == ["mia/0.png", "mia/1.png", "mia/2.png"]
    assert group.characters[0].description == "a tall woman at home"


@pytest.mark.parametrize(
    ("name", "picture", "caption", "reason"),
    [
        ("x.png", block(COLOURS["red"], size=(15, 30)), "a tall woman at home", "too small"),
        ("x.png", block(COLOURS["red"], 3), "a tall woman at home", "duplicate"),
        ("x.png", block(COLOURS["red"], 12), "", "no caption"),
        ("x.png", Image.linear_gradient("L").point(lambda level: level // 3), "a tall woman at home", "nobody found"),
        ("x.png", block(COLOURS["red"], 12, side=1), "a tall woman at home", "nobody found"),
        ("x.png", Image.new("RGB", (30, 30), (90, 90, 90)), "a tall woman at home", "blank"),
    ],
)
def test_each_fault_has_its_reason(root, name, picture, caption, reason):
    put(root, name, picture, caption)
    (group,), drops = sieved(root)
    assert {file: found for file, (found, _) in drops.items()} == {name: reason}
    assert len(group.members) == 3


def test_a_caption_in_other_words(root):
    put(root, "3.png", block(COLOURS["red"], 9))
    put(root, "x.png", block(COLOURS["red"], 12), "a man at sea")
    _, drops = sieved(root)
    assert drops["x.png"][0] == "other words"
    assert '"a man at sea" does not say "a tall woman at home"' in drops["x.png"][1]


def test_the_look_of_the_character_is_compared_without_the_background(root):
    put(root, "x.png", block(COLOURS["blue"], 12))
    put(root, "y.png", block(COLOURS["crimson"], 13))
    (group,), drops = sieved(root, look=look)
    assert drops["x.png"][0] == "unlike the group"
    assert {member.file for member in group.members} == {f"mia/{name}.png" for name in "012y"}
    assert sieved(root)[1] == {}


def test_scores_below_the_threshold_go_and_their_numbers_are_told(root):
    scores = {2: 0.4, 3: 0.5, 4: 0.9}

    def left(picture):
        return scores[int((picture.amax(dim=-1) > 0.5).any(dim=0).nonzero().min())]

    _, drops = sieved(root, aesthetic=left)
    assert drops == {"0.png": ("not beautiful", "score 0.40, least 0.50")}
    _, drops = sieved(root, agreement=lambda picture, caption: left(picture) - 0.3)
    assert drops == {"0.png": ("wrong caption", "agreement 0.10, least 0.18")}
    _, drops = sieved(root, aesthetic=lambda picture: float("nan"))
    assert {reason for reason, _ in drops.values()} == {"not beautiful"}


def test_a_face_that_cannot_be_seen_and_a_wrong_one(root):
    mia, mia_again, mia_once_more = [1.0, 0, 0], [0.8, 0.6, 0], [0.6, 0.8, 0]
    vectors = [torch.tensor(each) for each in (mia, mia_again, [0, 0, 1.0])] + [None, torch.tensor(mia_once_more)]
    put(root, "3.png", block(COLOURS["red"], 9))
    put(root, "4.png", block(COLOURS["red"], 12))
    by_place = dict(zip((2, 3, 4, 9, 12), vectors, strict=True))

    def face(picture, mask):
        return by_place[int(mask.any(dim=0).nonzero().min())]

    (group,), drops = sieved(root, identity=face)
    assert {file: reason for file, (reason, _) in drops.items()} == {"2.png": "wrong person", "3.png": "no face"}
    assert "cosine 0.00 to the others, least 0.35" in drops["2.png"][1]
    assert len(group.members) == 3


def test_a_character_is_shown_to_clip_whole_on_a_grey_square(root):
    shown = []

    def keep(picture):
        shown.append(picture)
        return look(picture)

    put(root, "x.png", block(COLOURS["red"], 12, size=(24, 40)).resize((24, 80)))
    sieved(root, look=keep)
    assert [tuple(picture.shape) for picture in shown] == [(8, 8, 3)] * 3 + [(16, 16, 3)]
    grey = (shown[3] == 0.5).all(dim=-1)
    assert grey[:, :4].all()
    assert grey[:, 12:].all()
    assert not grey[:, 4:12].any()


def test_captions_that_the_tokenizer_does_not_read_to_the_end(root):
    put(root, "x.png", block(COLOURS["red"], 12), "there is a tall woman at home")
    _, drops = sieved(root, tokenizer=Spaces())
    assert drops == {"x.png": ("caption too long", "9 tokens, 8 fit")}


def test_captions_in_which_the_tokenizer_glues_the_words_to_others(root):
    put(root, "3.png", block(COLOURS["red"], 9))
    put(root, "x.png", block(COLOURS["red"], 12), "a tall woman at home!")
    (group,), drops = sieved(root, tokenizer=Spaces())
    assert drops["x.png"][0] == "glued words"
    assert '"home" as a word of its own' in drops["x.png"][1]
    assert len(group.members) == 4


def test_a_captioner_that_miscounts_is_told_so(root):
    (root / "mia" / "0.txt").unlink()
    with pytest.raises(ValueError, match="gave 2 captions for 1 pictures"):
        sieved(root, caption=lambda paths: ["a woman", "a man"])


def test_loose_pictures_need_a_model_to_tell_them_apart(root):
    (source,), _ = find_sources(root)
    with pytest.raises(ValueError, match="neither is given"):
        GroupFilter(root, source, SETTINGS, Measures(Blocks())).vectors()


def test_median_likeness_by_hand():
    """Cosines 1-2: 0.8, 1-3: 0, 2-3: 0.6; of two numbers the lower is the median here."""
    vectors = torch.tensor([[1.0, 0], [0.8, 0.6], [0, 1.0]])
    assert median_likeness(vectors).tolist() == pytest.approx([0.0, 0.6, 0.0], abs=1e-6)


def test_a_minority_of_strangers_does_not_move_the_median_below_that_of_equals():
    vectors = torch.eye(5)[[0] * 6 + [1, 2, 3]]
    assert median_likeness(vectors).tolist() == [1.0] * 6 + [0.0] * 3


def test_clusters_of_planted_directions_whatever_the_order():
    random = np.random.default_rng(3)
    centres = np.eye(7)[:4]
    ids = random.permutation(np.repeat(np.arange(4), 5))
    vectors = torch.nn.functional.normalize(
        torch.tensor(centres[ids] + 0.1 * random.normal(size=(20, 7))), dim=1
    ).float()
    found = clusters(vectors, 0.6)
    assert len(set(zip(ids.tolist(), found.tolist(), strict=True))) == 4 == len(set(found.tolist()))
    assert list(dict.fromkeys(found.tolist())) == [0, 1, 2, 3]
    assert len(set(clusters(vectors, -1).tolist())) == 1
    assert len(set(clusters(vectors, 1).tolist())) == 20


def test_clusters_join_by_the_mean_cosine():
    """Cosines 0.8 (1 and 2), 0 (1 and 3), 0.6 (2 and 3): the pair and the third have a mean of 0.3."""
    vectors = torch.tensor([[1.0, 0], [0.8, 0.6], [0, 1.0]])
    assert clusters(vectors, 0.31).tolist() == [0, 0, 1]
    assert clusters(vectors, 0.29).tolist() == [0, 0, 0]
    assert clusters(vectors, 0.81).tolist() == [0, 1, 2]
    assert clusters(vectors[:1], 0.5).tolist() == [0]
    assert clusters(vectors[:0], 0.5).tolist() == []


def test_pictures_turned_by_a_tag_are_stored_upright(tmp_path):
    path, picture = tmp_path / "turned.jpg", block(COLOURS["red"], size=(40, 20))
    plain = tmp_path / "plain.jpg"
    picture.save(plain)
    assert stored_picture(plain) == ("jpg", plain.read_bytes())
    tag = Image.Exif()
    tag[0x0112] = 6
    picture.save(path, exif=tag)
    suffix, content = stored_picture(path)
    (tmp_path / "stored.png").write_bytes(content)
    assert suffix == "png"
    assert open_picture(tmp_path / "stored.png").size == open_picture(path).size == (20, 40)
    assert open_picture(tmp_path / "stored.png").tobytes() == open_picture(path).tobytes()


def test_what_is_transparent_becomes_white(tmp_path):
    Image.new("RGBA", (4, 4), (200, 0, 0, 0)).save(tmp_path / "clear.png")
    assert open_picture(tmp_path / "clear.png").getextrema() == ((255, 255),) * 3
    assert stored_picture(tmp_path / "clear.png")[0] == "png"
