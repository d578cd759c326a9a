"""Choose Takes and Load Caption Encoder in the host."""

from functools import cache
from pathlib import Path

import folder_paths
import numpy as np
import torch
from comfy_execution.graph import ExecutionBlocker
from setting import refused
from story_identity.core.identity import Identity
from story_identity.core.layout import Layout
from story_identity.core.story import Story
from story_identity.lab.toyworld.people import sample_person
from story_identity.lab.toyworld.plan import Plan
from story_identity.lab.toyworld.world import draw
from story_identity.nodes.host.folders import register_folders
from story_identity.nodes.scores import LoadCaptionEncoderNode, ScoreStoryNode
from story_identity.nodes.takes import BY_LIKENESS, BY_NUMBER, ChooseTakesNode
from story_identity.nodes.toyworld import ToyWorldLoaderNode

from tests.stand_ins.image_text import write_image_text

register_folders()

STORY = Story.from_lines(
    "Mira | woman | a woman with red hair\nTom | boy | a boy with black hair",
    "Mira on a beach\nMira and Tom in a forest\nMira in the snow\na garden\nTom in a garden",
)
PLACES = ("beach", "forest", "snow", "garden", "garden")
TAKES = 3
GOOD = (1, 0, 2, 0, 1)
"""Which take of each frame shows the same people as the others; in every other take there are strangers."""


@cache
def drawn():
    pictures, frames, layouts = [], [], []
    for frame, place, good in zip(STORY.frames, PLACES, GOOD, strict=True):
        for take in range(TAKES):
            people = people_of(5 if take == good else 100 + 7 * frame.index + take)
            cast = tuple(people[character.name] for character in frame.cast)
            plan = plan_of(cast, place)
            scene = draw(plan, np.random.default_rng(frame.index))
            pictures.append(torch.from_numpy(scene.image).float()[None] / 255)
            frames.append(frame)
            layouts.append(Layout([each.name for each in frame.cast], torch.from_numpy(scene.masks), frame.label))
    return pictures, frames, layouts


def plan_of(cast, place):
    count = len(cast)
    return Plan(cast, ("standing",) * count, place, names_clothes=(False,) * count, names_hair=(True,) * count)


def people_of(seed):
    random = np.random.default_rng(seed)
    looks = {"Mira": ("woman", "red"), "Tom": ("boy", "black")}
    return {name: sample_person(random, held_out=True, word=word, hair=hair) for name, (word, hair) in looks.items()}


@cache
def recogniser():
    return ToyWorldLoaderNode.execute().result[-1]


def choose(**more):
    pictures, frames, layouts = drawn()
    given = {"images": pictures, "frames": frames, "layouts": layouts, "by": [BY_NUMBER], "takes": [""]}
    return ChooseTakesNode.execute(**{**given, "caption_floor": [0.0], **more}).result


def check_the_takes_that_show_the_same_people_are_kept():
    images, frames, layouts, also, report, kept = choose(by=[BY_LIKENESS], recogniser=[recogniser()])
    assert kept == "1: 2, 2: 1, 3: 3, 4: 1, 5: 2", report
    pictures, _, given = drawn()
    for row, (image, layout, good) in enumerate(zip(images, layouts, GOOD, strict=True)):
        assert torch.equal(image, pictures[row * TAKES + good])
        assert layout is given[row * TAKES + good]
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    assert isinstance(also, ExecutionBlocker)
    assert "Frame 3: take 3 of 3, which is the most alike." in report, report
    assert "Frame 4: take 1 of 3, the first." in report, report


def check_one_batch_is_as_good_as_a_list_and_the_report_may_be_pasted():
    pictures, _, _ = drawn()
    *_, kept = choose(by=[BY_LIKENESS], recogniser=[recogniser()], images=[torch.cat(pictures)])
    *_, report, again = choose(takes=[kept])
    assert again == kept
    assert "as written in takes" in report


def check_by_number_the_first_is_kept_unless_another_is_written():
    images, *_, kept = choose(takes=["3: 2"], also=list("abcdefghijklmno"))
    assert kept == "1: 1, 2: 1, 3: 2, 4: 1, 5: 1"
    assert torch.equal(images[2], drawn()[0][2 * TAKES + 1])
    assert choose(takes=["3: 2"], also=list("abcdefghijklmno"))[3] == list("adhjm")


def check_a_written_take_holds_by_likeness_too():
    *_, kept = choose(by=[BY_LIKENESS], recogniser=[recogniser()], takes=["1: 1"])
    assert kept.startswith("1: 1, 2: 1, 3: 3"), kept


def check_identities_decide_whom_faces_are_compared_with():
    """The portraits are of a stranger who is in one other take, so that take is kept there."""
    stranger = people_of(100 + 7 * 2 + 0)["Mira"]
    scenes = [draw(plan_of((stranger,), place), np.random.default_rng(9)) for place in ("city", "kitchen")]
    portraits = torch.stack([torch.from_numpy(scene.image) for scene in scenes])
    identity = Identity("Mira", "a woman", "any", torch.ones(4), portraits=portraits)
    measured = {"by": [BY_LIKENESS], "recogniser": [recogniser()]}
    report, kept = choose(**measured, identities=[identity])[-2:]
    assert "3: 1" in kept, report
    nobody = Identity("Mria", "a woman", "any", torch.ones(4), portraits=portraits)
    bare = Identity("Mira", "a woman", "any", torch.ones(4))
    without = choose(**measured)
    for left_out, said in ((nobody, '"Mria" is of nobody'), (bare, "carries no portraits")):
        *_, report, kept = choose(**measured, identities=[left_out])
        assert said in report
        assert kept == without[-1]


class Brightness:
    """A picture agrees with its prompt as much as it is bright."""

    name = "brightness"

    def embed_images(self, images):
        light = torch.stack([image.mean() for image in images])
        return torch.stack([light, (1 - light.square()).sqrt()], dim=1)

    def embed_texts(self, texts):
        return torch.tensor([[1.0, 0.0]]).repeat(len(texts), 1)

    def tokens_over(self, text):
        return 0


def check_a_floor_on_agreement_comes_first():
    pictures, _, _ = drawn()
    darker = list(pictures)
    darker[0 * TAKES + GOOD[0]] = pictures[GOOD[0]] * 0.2
    measured = {"by": [BY_LIKENESS], "recogniser": [recogniser()], "encoder": [Brightness()], "images": darker}
    levels = [float(each.mean()) for each in pictures]
    floor = 100 * (min(levels) - 0.01)
    report, kept = choose(**measured, caption_floor=[floor])[-2:]
    assert not kept.startswith(f"1: {GOOD[0] + 1}"), report
    assert f"of those that agree with the caption by {floor:.1f} or more" in report, report
    *_, report, _ = choose(**measured, caption_floor=[99.0])
    assert "no take agrees with the caption as much as 99.0" in report, report


def check_what_cannot_be_chosen_by_is_refused_before_anything_runs():
    def said(by=BY_NUMBER, takes="", floor=0.0, types=None):
        return ChooseTakesNode.validate_inputs([by], [takes], [floor], [types or {}])

    assert said() is True
    assert said(None, None, None, {"by": "STRING"}) is True
    assert "connect recogniser" in said(BY_LIKENESS)
    faces = {"recogniser": "FACE_RECOGNISER"}
    assert said(BY_LIKENESS, types=faces) is True
    assert "caption_floor needs an encoder" in said(BY_LIKENESS, floor=20.0, types=faces)
    assert said(BY_LIKENESS, floor=20.0, types={**faces, "encoder": "IMAGE_TEXT_ENCODER"}) is True
    assert "is no frame with its take" in said(takes="1, 3, 1")
    pictures, frames, layouts = drawn()
    refused(lambda: choose(images=pictures[:4]), "4 pictures and 15 frames", "Collect Frames")
    refused(lambda: choose(layouts=layouts[:2]), "15 pictures and 2 layouts")
    refused(lambda: choose(takes=["9: 1"]), "frame 9 is not among the pictures")
    refused(lambda: choose(takes=["2: 4"]), "take 4 of frame 2 is not there; it has 3")
    refused(lambda: choose(also=[1]), "also has 1 values for 15 pictures")
    faces = {"by": [BY_LIKENESS], "recogniser": [recogniser()]}
    refused(lambda: choose(**faces, layouts=None), "frame 2", '"Tom"', "whose face is whose")
    small = [torch.nn.functional.interpolate(each.movedim(-1, 1), scale_factor=0.5).movedim(1, -1) for each in pictures]
    refused(lambda: choose(**faces, images=small), "frame 1: the layout is 128x128, but the picture is 64x64")
    refused(lambda: choose(frames=frames[:2]), "2 frames")


def check_a_caption_encoder_is_a_folder_of_transformers():
    missing = LoadCaptionEncoderNode.validate_inputs("tiny")
    assert "put CLIP, as transformers keeps it" in missing, missing
    folder = Path(folder_paths.get_folder_paths("image_text")[0]) / "tiny"
    write_image_text(folder)
    folder_paths.filename_list_cache.clear()
    assert LoadCaptionEncoderNode.validate_inputs("tiny") is True
    (encoder,) = LoadCaptionEncoderNode.execute("tiny").result
    *_, report, _ = choose(by=[BY_LIKENESS], recogniser=[recogniser()], encoder=[encoder], caption_floor=[1.0])
    assert "agreement with the caption:" in report, report
    pictures = drawn()[0][::TAKES]
    assert "CLIP-T " in ScoreStoryNode.execute(images=pictures, story=[STORY], encoder=[encoder]).result[0]
