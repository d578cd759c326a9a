"""The layout nodes: detectors through the host's memory management, and what they refuse."""

import comfy.model_management
import folder_paths
import torch
from setting import refused
from story_identity.core.detectors import Detections
from story_identity.core.story import Story
from story_identity.nodes.host.detector import Detector
from story_identity.nodes.host.folders import register_folders
from story_identity.nodes.layout import (
    GroundedSAMLayoutNode,
    GroundedSAMLoaderNode,
    LayoutFromMasksNode,
    PreviewLayoutNode,
)
from story_identity.nodes.sheet import StorySheetNode
from story_identity.nodes.story import StoryFramesNode, StoryNode, frame_numbers

register_folders()
DINO, SAM = "groundingdino_swinb_cogcoor.pth", "sam_vit_h_4b8939.pth"
SIDE = 96


def story(*frames):
    people = [
        {"name": "Mira", "word": "woman", "description": "a young woman with short red hair"},
        {"name": "Ana", "word": "woman", "description": "a tall woman in a green coat"},
        {"name": "Ben", "word": "man", "description": "an old man in a raincoat"},
    ]
    return Story.parse({"characters": people, "frames": list(frames)})


def picture(count=1):
    return torch.rand(count, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(1))


class PlannedBoxes:
    """A detector that finds what the test says, best first."""

    def __init__(self, found):
        self.module = torch.nn.Linear(1, 1)
        self.found = found
        self.asked = []

    def find(self, image, word):
        self.asked.append(word)
        rows = sorted(self.found.get(word, []), key=lambda row: -row[4])
        table = torch.tensor(rows).reshape(-1, 6)
        return Detections(table[:, :4], table[:, 4], table[:, 5])


class WholeBoxes:
    """A segmenter whose mask is the box."""

    def __init__(self):
        self.module = torch.nn.Linear(1, 1)

    def segment(self, image, boxes):
        masks = torch.zeros(len(boxes), *image.shape[:2], dtype=torch.bool)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = True
        return masks


def planned(**found):
    boxes, masks = PlannedBoxes(found), WholeBoxes()
    return Detector(boxes, masks, ())


def layout_of(detector, frame=None, words="", **settings):
    settings = {"box_threshold": 0.3, "text_threshold": 0.25, "dilate_px": 0, "on_missing": "error", **settings}
    loaded = comfy.model_management.load_models_gpu
    comfy.model_management.load_models_gpu = lambda _, **__: None  # a planned detector has no patchers
    try:
        return GroundedSAMLayoutNode.execute(picture(), _with_patchers(detector), frame=frame, words=words, **settings)
    finally:
        comfy.model_management.load_models_gpu = loaded


def _with_patchers(detector):
    return Detector(detector.boxes, detector.masks, (None, None))


LEFT, MIDDLE, RIGHT = (2, 20, 22, 80), (40, 20, 60, 80), (70, 20, 94, 80)


def check_real_classes_run_from_files_under_the_hosts_memory_management():
    (detector,) = GroundedSAMLoaderNode.execute(DINO, SAM, "transformers").result
    settings = {"box_threshold": 0.0, "text_threshold": 0.0, "dilate_px": 2, "on_missing": "skip"}
    frame = story("Mira waits for Ben").frames[0]
    layout, masks, preview = GroundedSAMLayoutNode.execute(picture(), detector, frame=frame, **settings).result
    assert layout.names == ("Mira", "Ben")
    assert layout.label == "frame 1"
    assert masks.shape == (2, SIDE, SIDE)
    assert preview.shape == (1, SIDE, SIDE, 3)
    again, _, _ = GroundedSAMLayoutNode.execute(picture(), detector, frame=frame, **settings).result
    assert torch.equal(layout.masks, again.masks)
    loaded = {id(entry.model) for entry in comfy.model_management.current_loaded_models}
    assert {id(patcher) for patcher in detector.patchers} <= loaded
    for patcher in detector.patchers:
        comfy.model_management.unload_model_and_clones(patcher)
    loaded = {id(entry.model) for entry in comfy.model_management.current_loaded_models}
    assert not {id(patcher) for patcher in detector.patchers} & loaded
    after, _, _ = GroundedSAMLayoutNode.execute(picture(), detector, frame=frame, **settings).result
    assert torch.equal(layout.masks, after.masks)


def check_a_word_is_asked_once_and_its_people_are_matched_left_to_right():
    detector = planned(woman=[(*RIGHT, 0.9, 0.9), (*LEFT, 0.5, 0.5), (*MIDDLE, 0.4, 0.4)], man=[(*MIDDLE, 0.8, 0.8)])
    layout, masks, _ = layout_of(detector, story("Ana, Mira and Ben").frames[0]).result
    assert detector.boxes.asked == ["woman", "man"]
    assert layout.names == ("Ana", "Mira", "Ben")
    columns = [masks[row].any(dim=0).nonzero().flatten().tolist() for row in range(3)]
    assert [(c[0], c[-1] + 1) for c in columns] == [(2, 22), (70, 94), (40, 60)]


def check_what_is_not_found_is_an_error_that_says_what_was_seen():
    frame = story("rain", "Ben sees Mira and Ana").frames[1]
    one = planned(woman=[(*LEFT, 0.5, 0.5), (*RIGHT, 0.28, 0.5)], man=[(*MIDDLE, 0.8, 0.8)])
    refused(
        lambda: layout_of(one, frame),
        "frame 2",
        "found 1 of 2",
        '"woman"',
        '"Mira", "Ana"',
        "0.50",
        "0.30",
        "on_missing",
    )
    nobody = planned(man=[])
    refused(lambda: layout_of(nobody, frame), "frame 2", '"man"', "best score was none")
    unworded = planned(woman=[(*LEFT, 0.9, 0.2), (*RIGHT, 0.9, 0.9)], man=[(*MIDDLE, 0.8, 0.8)])
    refused(lambda: layout_of(unworded, frame), "found 1 of 2", "text_threshold 0.25")


def check_what_is_not_found_can_be_left_out():
    frame = story("Ben sees Mira and Ana").frames[0]
    one = planned(woman=[(*LEFT, 0.5, 0.5)], man=[])
    layout, masks, _ = layout_of(one, frame, on_missing="skip").result
    assert layout.names == ("Ben", "Mira", "Ana")
    assert [bool(mask.any()) for mask in masks] == [False, True, False]


def check_two_boxes_around_one_person_are_no_two_people():
    frame = story("Mira and Ana").frames[0]
    same = planned(woman=[(*LEFT, 0.9, 0.9), (*LEFT, 0.8, 0.8)])
    refused(lambda: layout_of(same, frame), "frame 1", "found 1 of 2", '"Mira", "Ana"')
    layout, _, _ = layout_of(same, frame, on_missing="skip").result
    assert sum(bool(mask.any()) for mask in layout.masks) == 1


def check_a_frame_with_nobody_gives_an_empty_layout_without_asking():
    detector = planned()
    layout, masks, _ = layout_of(detector, story("an empty beach").frames[0]).result
    assert layout.names == ()
    assert masks.shape == (0, SIDE, SIDE)
    assert detector.boxes.asked == []


def check_words_do_without_a_frame():
    detector = planned(woman=[(*LEFT, 0.9, 0.9), (*RIGHT, 0.8, 0.8)], man=[(*MIDDLE, 0.8, 0.8)])
    layout, _, _ = layout_of(detector, None, "woman, man, woman").result
    assert layout.names == ("woman 1", "man", "woman 2")
    refused(lambda: layout_of(detector, None, " , "), "connect a frame")


def check_batches_are_refused():
    detector = _with_patchers(planned())
    settings = {"box_threshold": 0.3, "text_threshold": 0.25, "dilate_px": 0, "on_missing": "error"}
    refused(lambda: GroundedSAMLayoutNode.execute(picture(2), detector, words="man", **settings), "2 pictures")


def check_layouts_from_masks():
    masks = torch.zeros(2, SIDE, SIDE)
    masks[0, 10:50, 10:50] = 0.9
    masks[1, 40:90, 40:90] = 1
    frame = story("Mira waits for Ben").frames[0]
    layout, background = LayoutFromMasksNode.execute(masks, 0, frame).result
    assert layout.names == ("Mira", "Ben")
    assert layout.masks[0, 45, 45]
    assert not layout.masks[1, 45, 45]
    assert torch.equal(background[0].bool(), ~layout.masks.any(dim=0))
    named, _ = LayoutFromMasksNode.execute(masks, 0, None, "one, other").result
    assert named.names == ("one", "other")
    nobody, everywhere = LayoutFromMasksNode.execute(masks, 0, story("an empty beach").frames[0]).result
    assert nobody.names == ()
    assert everywhere.all()
    refused(
        lambda: LayoutFromMasksNode.execute(masks[:1], 0, frame),
        "frame 1",
        "masks given: 1, characters: 2",
        '"Mira", "Ben"',
    )
    refused(lambda: LayoutFromMasksNode.execute(masks, 0, None, "one"), "masks given: 2, characters: 1")
    small = LayoutFromMasksNode.execute(masks[:, :48], 0, frame).result[0]
    refused(lambda: PreviewLayoutNode.execute(small, picture()), "frame 1", "96x96", "96x48")


def check_painted_masks_keep_all_their_pieces():
    masks = torch.zeros(1, SIDE, SIDE)
    masks[0, 5:20, 5:20] = masks[0, 60:70, 60:70] = 1
    layout, _ = LayoutFromMasksNode.execute(masks, 0, None, "Mira").result
    assert torch.equal(layout.masks, masks.bool())
    grown, _ = LayoutFromMasksNode.execute(masks[0], 3, None, "Mira").result  # a mask without a batch axis
    assert grown.masks[0, 2, 2]
    assert grown.masks.sum() == 21 * 21 + 16 * 16


def check_words_are_told_apart_without_regard_to_case():
    detector = planned(woman=[(*RIGHT, 0.9, 0.9), (*LEFT, 0.5, 0.5)])
    layout, _, _ = layout_of(detector, None, "woman, Woman").result
    assert [bool(mask.any()) for mask in layout.masks] == [True, True]


def check_missing_files_are_named_before_anything_runs():
    message = GroundedSAMLoaderNode.validate_inputs("gone.pth", SAM)
    assert all(word in message for word in ("gone.pth", "grounding-dino"))
    swint = GroundedSAMLoaderNode.validate_inputs("groundingdino_swint_ogc.pth", SAM)
    assert all(word in swint for word in ("https://", "694 MB", "download", "Apache-2.0")), swint
    assert GroundedSAMLoaderNode.validate_inputs(DINO, SAM) is True
    both = GroundedSAMLoaderNode.validate_inputs("groundingdino_swint_ogc.pth", "sam_vit_b_01ec64.pth")
    assert all(word in both for word in ("groundingdino_swint_ogc.pth", "sam_vit_b_01ec64.pth"))
    refused(lambda: GroundedSAMLoaderNode.execute("gone.pth", SAM, "transformers"), "gone.pth")


def check_story_frames_are_lists_with_seeds_of_their_own():
    parsed = story("Mira waits", {"prompt": "rain", "seed": 77}, "Ben runs")
    frames, prompts, negatives, seeds = StoryFramesNode.execute(parsed, "all", 2**64 - 2).result
    assert seeds == [2**64 - 2, 77, 0]
    assert prompts == [frame.prompt for frame in frames]
    assert negatives == ["", "", ""]
    only, _, _, seed = StoryFramesNode.execute(parsed, "3", 5).result
    assert (only[0].index, seed) == (2, [7])
    assert frame_numbers("1-3, 7,2,", 9) == [0, 1, 2, 6]
    for text, words in (
        ("0", ("outside", "1 to 3")),
        ("2-1", ("counts down", "1-2")),
        ("x", ('"x"', "number")),
        ("1-9", ("1-9",)),
    ):
        refused(lambda text=text: StoryFramesNode.execute(parsed, text, 0), *words)


def check_story_files_are_read_from_the_input_folder_only():
    from pathlib import Path

    folder = Path(folder_paths.get_input_directory())
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "mine.json").write_text(
        '{"character": "a tall woman", "token": "woman", "prompts": ["a tall woman reads"]}'
    )
    (parsed,) = StoryNode.execute("mine.json", "", "", "", "").result
    assert parsed.frames[0].prompt == "a tall woman reads"
    assert StoryNode.validate_inputs("mine.json", "", "", "", "") is True
    refused(lambda: StoryNode.execute("../secret.json", "", "", "", ""), "not in the input folder")
    assert "gone.json" in StoryNode.validate_inputs("gone.json", "", "", "", "")
    first = StoryNode.fingerprint_inputs("mine.json")
    (folder / "mine.json").write_text("{}")
    assert StoryNode.fingerprint_inputs("mine.json") != first
    assert "neither" in StoryNode.validate_inputs("mine.json", "", "", "", "")
    bad = StoryNode.validate_inputs("(typed in below)", "Mira, woman", "Mira waits", "", "")
    assert "Character line 1" in bad
    assert "no frames" in StoryNode.validate_inputs("(typed in below)", "Mira | woman | a woman", " ", "", "")


def check_sheets_take_lists_and_batches():
    pictures = [torch.rand(1, 32, 48, 3), torch.rand(2, 32, 48, 3)]
    frames = list(story("Mira waits", "rain", "Ben runs").frames)
    (sheet,) = StorySheetNode.execute(pictures, [2], [48], [True], frames).result
    assert sheet.shape[2] == 2 * 48 + 3 * 16
    refused(lambda: StorySheetNode.execute(pictures, [2], [48], [True], frames[:2]), "3 pictures but 2 frames")
