from pathlib import Path

import pytest
import torch
from story_identity.core import detectors

from tests.stand_ins import detectors as stand_ins


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with dino.pth, sam.pth and bert/."""
    folder = tmp_path_factory.mktemp("detectors")
    stand_ins.write_tiny_grounding_dino(folder / "dino.pth")
    stand_ins.write_tiny_sam(folder / "sam.pth")
    stand_ins.write_tiny_bert_tokenizer(folder / "bert")
    return folder


@pytest.fixture(scope="session")
def detector(files: Path) -> detectors.BoxDetector:
    return detectors.load_box_detector(files / "dino.pth", files / "bert")


@pytest.fixture(scope="session")
def segmenter(files: Path) -> detectors.MaskSegmenter:
    return detectors.load_segmenter(files / "sam.pth")


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(67, 101, 3, generator=torch.Generator().manual_seed(0))
