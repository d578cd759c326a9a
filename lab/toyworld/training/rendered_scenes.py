"""Scenes of the toy world to train on, rendered once and kept on disk."""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ....core.atomic_files import atomic_write
from ....core.toyworld.sizes import TOY_WORLD
from ....core.toyworld.vocabulary import tokenize
from ..world import sample_scene

_CHUNK = 500


def scenes(count: int, seed: int, folder: Path, held_out: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Pictures `(count, side, side, 3)` uint8, memory-mapped, and token ids `(count, 40)` int16 of their captions."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"scenes_{seed}_{count}_{int(held_out)}_{part}.npy" for part in ("pictures", "tokens")]
    if not all(path.is_file() for path in paths):
        pictures, tokens = (
            np.empty((count, TOY_WORLD.picture_side, TOY_WORLD.picture_side, 3), np.uint8),
            np.empty((count, TOY_WORLD.text_length), np.int16),
        )
        starts = range(0, count, _CHUNK)
        with ProcessPoolExecutor() as pool:
            for start, (images, ids) in zip(
                starts, pool.map(partial(_chunk, count, seed, held_out), starts), strict=True
            ):
                pictures[start : start + len(images)] = images
                tokens[start : start + len(ids)] = ids
        for path, array in zip(paths, (pictures, tokens), strict=True):
            with atomic_write(path) as temporary, temporary.open("wb") as file:
                np.save(file, array)
    return np.load(paths[0], mmap_mode="r"), np.load(paths[1])


def _chunk(count: int, seed: int, held_out: bool, start: int) -> tuple[np.ndarray, np.ndarray]:
    numbers = range(start, min(start + _CHUNK, count))
    drawn = [sample_scene(seed * 10_000_019 + number, held_out) for number in numbers]
    tokens = np.asarray([tokenize(scene.caption, TOY_WORLD.text_length) for scene in drawn], np.int16)
    return np.stack([scene.image for scene in drawn]), tokens


def to_pixels(pictures: np.ndarray) -> Tensor:
    """Pictures `(n, h, w, 3)` uint8 as `(n, 3, h, w)` float32 in [-1, 1]."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
