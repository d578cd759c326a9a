"""The toy world's detector: who is where in a picture, pixel by pixel, for a class word. Nothing to download.

It has the two methods of the pack's detectors (`core.detectors.BoxDetector`, `core.detectors.MaskSegmenter`), so it
stands where GroundingDINO and SAM stand; and it says where the heads are, which Face-Sim needs. `training.detector`
makes the weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..detectors import Detections
from ..shapes import Bool, Float, Int
from .convolutions import Block, halve
from .identity_encoder import face_crops
from .models import WEIGHTS, load_network
from .sizes import TOY_WORLD
from .vocabulary import CLASS_WORDS

PEAK = 0.3
"""How sure a head must be."""
APART = 3
"""How far from a head there is no other, in every direction, in units of which a picture is 64 wide."""


@dataclass(frozen=True)
class Maps:
    """What the network says of every pixel of pictures of the toy world's size.

    Args:
        somebody: Logits of a person being here.
        heads: Logits of a head's middle being here.
        offsets: From the middle of the pixel to the middle of its person's head: x, y in pixels.
        sizes: Half the width and height of the head whose middle is here, in pixels.
    """

    somebody: Float[Tensor, "n h w"]
    heads: Float[Tensor, "n h w"]
    offsets: Float[Tensor, "n 2 h w"]
    sizes: Float[Tensor, "n 2 h w"]


@dataclass(frozen=True)
class Found:
    """Somebody in a picture; pixels are the picture's, all on the CPU.

    Args:
        mask: Where; no pixel belongs to two people, and every mask has some.
        box: x0 y0 x1 y1 around the mask.
        head: x0 y0 x1 y1 of the head, hair and hat included; may reach past the picture's edge.
        words: How probable each of `CLASS_WORDS` is; they add up to 1.
    """

    mask: Bool[Tensor, "h w"]
    box: Float[Tensor, " 4"]
    head: Float[Tensor, " 4"]
    words: Float[Tensor, " c"]


class DetectorNetwork(nn.Module):
    """Two small networks: one sees the whole picture, the other looks a found person in the face.

    The first is a U-Net (Ronneberger et al. 2015, arXiv:1505.04597) with outputs like Panoptic-DeepLab's (Cheng et al.
    2020, arXiv:1911.10194): what is a person, a heat map of middles, and a vote of every pixel for its middle. Here the
    middle is the head's, which no other person hides; its size is predicted too. The second reads the class word,
    because little but the face tells a man from a woman.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unit = TOY_WORLD.picture_side / 4  # the network's unit of length, in pixels
        patch, colours = TOY_WORLD.patch, 3 * TOY_WORLD.patch**2
        self.enter = nn.Sequential(nn.PixelUnshuffle(patch), nn.Conv2d(colours, 32, 3, padding=1), Block(32))
        self.middle = nn.Sequential(halve(32, 64), Block(64))
        self.deep = nn.Sequential(halve(64, 96), Block(96), nn.Conv2d(96, 64, 1))
        self.rise = nn.Sequential(Block(64), nn.Conv2d(64, 32, 1))
        self.leave = nn.Sequential(Block(32), nn.GroupNorm(8, 32), nn.SiLU())
        self.tell = nn.Sequential(nn.Conv2d(32, patch**2 * 6, 1), nn.PixelShuffle(patch))
        self.face = nn.Sequential(
            nn.PixelUnshuffle(patch),
            nn.Conv2d(colours, 40, 3, padding=1),
            Block(40),
            halve(40, 64),
            Block(64),
            halve(64, 64),
            nn.GroupNorm(8, 64),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(64 * 4**2, len(CLASS_WORDS)),
        )

    def forward(self, pictures: Float[Tensor, "n 3 h w"]) -> Maps:
        """Pictures in [0, 1] of the world's size."""
        fine = self.enter(pictures * 2 - 1)
        coarse = self.middle(fine)
        coarse = self.rise(coarse + F.interpolate(self.deep(coarse), scale_factor=2.0))
        outputs = self.tell(self.leave(fine + F.interpolate(coarse, scale_factor=2.0))).float()
        somebody, heads, offsets, sizes = outputs.split((1, 1, 2, 2), dim=1)
        return Maps(somebody[:, 0], heads[:, 0] - 4, self.unit * offsets, self.unit * (1 + sizes))

    def words(self, crops: Float[Tensor, "n 3 side side"]) -> Float[Tensor, "n c"]:
        """Logits of each of `CLASS_WORDS` for heads in [0, 1] from `identity_encoder.face_crops`."""
        return self.face(crops * 2 - 1).float()


class ToyDetector:
    """Boxes from a word and masks from boxes. `module` holds the weights; it runs where they are."""

    def __init__(self, module: DetectorNetwork) -> None:
        self.module = module
        self.side = TOY_WORLD.picture_side

    def find(self, image: Float[Tensor, "h w 3"], word: str) -> Detections:
        """One box per person in the picture, scored by the fourth root of how probable the word is of that person.

        The root keeps the order and brings a word that is unlikely, but not out of the question, above the usual
        thresholds: in a model's soft pictures a man, a woman, a boy and a girl are hard to tell apart.

        Args:
            image: In [0, 1], of any size; it is scaled to the world's.
            word: One of `vocabulary.CLASS_WORDS`, in any case. Of other words nothing is found.

        Raises:
            ValueError: If nobody is in a picture smaller than the world's, in which people are drawn in part only.
        """
        word = word.strip().lower()
        people = self.people(image) if word in CLASS_WORDS else []
        height, width = image.shape[:2]
        if word in CLASS_WORDS and not people and max(height, width) < self.side:
            raise ValueError(
                f"Nobody is found in this picture of {width} x {height} pixels: the toy world draws people as a whole "
                f"only from {self.side} x {self.side} on. Set width and height to {self.side} where it is drawn (Empty "
                "Latent Image)."
            )
        if not people:
            return Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0))
        scores = torch.stack([person.words[CLASS_WORDS.index(word)] for person in people]) ** 0.25
        order = scores.argsort(descending=True, stable=True)
        boxes = torch.stack([person.box for person in people])[order]
        return Detections(boxes, scores[order], scores[order])

    def segment(self, image: Float[Tensor, "h w 3"], boxes: Float[Tensor, "n 4"]) -> Bool[Tensor, "n h w"]:
        """Masks of the people whose boxes fit the given ones best; empty where nobody's box overlaps."""
        people = self.people(image)
        masks = torch.zeros(len(boxes), *image.shape[:2], dtype=torch.bool)
        if people:
            fits = box_overlap(boxes.detach().cpu().float(), torch.stack([person.box for person in people]))
            for row, (fit, best) in enumerate(zip(*fits.max(dim=1), strict=True)):
                if fit > 0:
                    masks[row] = people[int(best)].mask
        return masks

    def head_of(self, image: Float[Tensor, "h w 3"], mask: Bool[Tensor, "h w"]) -> Float[Tensor, " 4"] | None:
        """The head of whoever covers the mask best (highest intersection over union), or None where nobody does."""
        return self.heads_of(image.unsqueeze(0), [mask])[0]

    def heads_of(
        self, images: Float[Tensor, "n h w 3"], masks: Sequence[Bool[Tensor, "h w"] | None]
    ) -> list[Float[Tensor, " 4"] | None]:
        """`head_of` for many pictures at once; without a mask, the largest head."""
        heads, (height, width) = [], images.shape[1:3]
        for mask, (found, boxes) in zip(masks, self._heads(self._scaled(images)), strict=True):
            if mask is None:
                fits = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).tolist()
            else:
                fits = [mask_overlap(each, mask.cpu()) for each in _at_size(found, height, width)]
            fit, best = max(zip(fits, boxes, strict=True), key=lambda pair: pair[0], default=(0.0, None))
            scale = torch.tensor([width, height] * 2) / self.side
            heads.append(best * scale if best is not None and fit > 0 else None)
        return heads

    @torch.no_grad()
    def people(self, image: Float[Tensor, "h w 3"]) -> list[Found]:
        """Everybody in a picture, from left to right by their heads."""
        height, width, _ = image.shape
        picture = self._scaled(image.unsqueeze(0))
        ((masks, heads),) = self._heads(picture)
        if not len(masks):
            return []
        crops = face_crops(picture[0].permute(1, 2, 0), heads.to(picture), TOY_WORLD.crop_side)
        words = self.module.words(crops).softmax(dim=1).cpu()
        masks = _at_size(masks, height, width)
        heads = heads * (torch.tensor([width, height] * 2) / self.side)
        seen = zip(masks, heads, words, strict=True)
        return [Found(mask, box_around(mask), head, word) for mask, head, word in seen if mask.any()]

    def _scaled(self, images: Float[Tensor, "n h w 3"]) -> Float[Tensor, "n 3 side side"]:
        """Pictures as the network takes them, where it is."""
        pictures = images.permute(0, 3, 1, 2).to(next(self.module.parameters()))
        if tuple(pictures.shape[2:]) != (self.side, self.side):
            pictures = F.interpolate(pictures, (self.side, self.side), mode="bilinear", antialias=True)
        return pictures

    @torch.no_grad()
    def _heads(
        self, pictures: Float[Tensor, "n 3 side side"]
    ) -> list[tuple[Bool[Tensor, "m side side"], Float[Tensor, "m 4"]]]:
        """Masks and heads in each picture, by `read_maps`."""
        maps = {name: value.cpu() for name, value in vars(self.module(pictures)).items()}
        rows = range(len(pictures))
        return [read_maps(Maps(**{name: value[row : row + 1] for name, value in maps.items()})) for row in rows]


def load_detector(folder: Path = WEIGHTS) -> ToyDetector:
    """The detector with its trained weights, on the CPU.

    Raises:
        FileNotFoundError: If the weights are not there.
        ValueError: If the file cannot be read, or has other tensors.
    """
    network = DetectorNetwork()
    load_network(network, "detector", folder)
    return ToyDetector(network)


def read_maps(maps: Maps) -> tuple[Bool[Tensor, "n h w"], Float[Tensor, "n 4"]]:
    """Masks and heads out of the maps of one picture, from left to right by the heads.

    A peak of the heat map is a head. Every pixel that is somebody's belongs to the head nearest to its vote. Nobody is
    left without a pixel.
    """
    rows, columns = _peaks(maps.heads[0])
    side = maps.heads.shape[-1]
    places = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="xy")) + 0.5
    votes = places + maps.offsets[0]
    middles, halves = votes[:, rows, columns], maps.sizes[0][:, rows, columns]
    order = middles[0].argsort(stable=True)
    middles, halves = middles[:, order], halves[:, order]
    distances = (votes[:, None] - middles[:, :, None, None]).square().sum(dim=0)
    mine = distances == distances.amin(dim=0, keepdim=True) if len(rows) else distances.bool()
    masks = mine & (mine.cumsum(dim=0) == 1) & (maps.somebody[0] > 0)
    seen = masks.flatten(1).any(dim=1)
    return masks[seen], torch.cat([middles - halves, middles + halves]).T[seen]


def _peaks(heads: Float[Tensor, "h w"]) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Rows and columns of the heat map's peaks."""
    apart = APART * heads.shape[-1] // 64
    side = 2 * apart + 1
    along = F.max_pool2d(heads[None], (1, side), stride=1, padding=(0, apart))  # twice a row costs less than a square
    highest = F.max_pool2d(along, (side, 1), stride=1, padding=(apart, 0))[0]
    rows, columns = ((heads == highest) & (heads.sigmoid() > PEAK)).nonzero(as_tuple=True)
    return rows, columns


def _at_size(masks: Bool[Tensor, "n _ _"], height: int, width: int) -> Bool[Tensor, "n {height} {width}"]:
    if not len(masks):  # which torch does not interpolate
        return masks.new_zeros(0, height, width)
    return F.interpolate(masks[None].float(), (height, width), mode="bilinear")[0] > 0.5


def box_around(mask: Bool[Tensor, "h w"]) -> Float[Tensor, " 4"]:
    """x0 y0 x1 y1 of the smallest box that holds a mask, which must not be empty."""
    rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
    return torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=torch.float32)


def mask_overlap(mask: Bool[Tensor, "h w"], other: Bool[Tensor, "h w"]) -> float:
    """Intersection over union; 0 where both are empty."""
    return float((mask & other).sum() / (mask | other).sum().clamp(min=1))


def box_overlap(boxes: Float[Tensor, "n 4"], others: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """Intersection over union of every two boxes."""
    low, high = torch.maximum(boxes[:, None, :2], others[:, :2]), torch.minimum(boxes[:, None, 2:], others[:, 2:])
    both = (high - low).clamp(min=0).prod(dim=-1)
    areas, other_areas = ((b[:, 2:] - b[:, :2]).prod(dim=-1) for b in (boxes, others))
    return both / (areas[:, None] + other_areas - both)
