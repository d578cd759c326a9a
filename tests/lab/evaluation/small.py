"""A small evaluation: random weights, few steps, and a detector that knows where to look."""

import torch
from story_identity.core.detectors import Detections
from story_identity.core.toyworld.detector import DetectorNetwork, Found, ToyDetector
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.core.toyworld.vocabulary import CLASS_WORDS
from story_identity.lab.toyworld.probe import Probe

T, START, PORTRAITS, PORTRAIT_STEPS = 4, 1, 4, 2
STORY = 2  # of two people


class SeesTwo(ToyDetector):
    """Somebody on the left and somebody on the right, in any picture; a word is the one or the other."""

    def __init__(self, words):
        super().__init__(DetectorNetwork())
        self.words = words

    def people(self, image):
        boxes = torch.tensor([[9.0, 20, 23, 50], [39, 22, 54, 50]]) * TOY_WORLD.scale
        heads = torch.tensor([[9.0, 18, 23, 32], [39, 20, 54, 35]]) * TOY_WORLD.scale
        masks = torch.zeros(2, TOY_WORLD.picture_side, TOY_WORLD.picture_side, dtype=torch.bool)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = True
        likely = 0.2 * torch.ones(2, len(CLASS_WORDS))
        return [Found(*each) for each in zip(masks, boxes, heads, likely, strict=True)]

    def find(self, image, word):
        box = self.people(image)[self.words.index(word)].box[None]
        return Detections(box, torch.ones(1), torch.ones(1))

    def segment(self, image, boxes):
        by_side = [self.people(image)[int(box[0] > 30 * TOY_WORLD.scale)].mask for box in boxes]
        return torch.stack(by_side)

    def heads_of(self, images, masks):
        middle = TOY_WORLD.picture_side // 2
        right = [int(mask[:, middle:].any()) for mask in masks]
        return [self.people(image)[side].head for image, side in zip(images, right, strict=True)]


class KnowsTheAnswers(Probe):
    """Reads what the test gives it."""

    def __init__(self, scene, person):
        super().__init__()
        self.scene, self.person = scene, person

    def read_scene(self, image):
        return self.scene

    def read_person(self, image, mask):
        return self.person
