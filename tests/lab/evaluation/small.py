"""A small evaluation: random weights, few steps, and a detector that knows where to look."""

import torch
from story_identity.core.detectors import Detections
from story_identity.core.toyworld.detector import DetectorNetwork, Found, ToyDetector
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
        masks = torch.zeros(2, 64, 64, dtype=torch.bool)
        masks[0, 20:50, 9:23], masks[1, 22:50, 39:54] = True, True
        boxes = torch.tensor([[9.0, 20, 23, 50], [39, 22, 54, 50]])
        heads = torch.tensor([[9.0, 18, 23, 32], [39, 20, 54, 35]])
        likely = 0.2 * torch.ones(2, len(CLASS_WORDS))
        return [Found(*each) for each in zip(masks, boxes, heads, likely, strict=True)]

    def find(self, image, word):
        box = self.people(image)[self.words.index(word)].box[None]
        return Detections(box, torch.ones(1), torch.ones(1))

    def segment(self, image, boxes):
        by_side = [self.people(image)[int(box[0] > 30)].mask for box in boxes]
        return torch.stack(by_side)

    def heads_of(self, images, masks):
        return [self.people(image)[int(mask[:, 32:].any())].head for image, mask in zip(images, masks, strict=True)]


class KnowsTheAnswers(Probe):
    """Reads what the test gives it."""

    def __init__(self, scene, person):
        super().__init__()
        self.scene, self.person = scene, person

    def read_scene(self, image):
        return self.scene

    def read_person(self, image, mask):
        return self.person
