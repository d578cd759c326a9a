from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from story_identity.core.detectors import MaskSegmenter, load_segmenter, sam
from story_identity.core.detectors.sam_keys import architecture_of

from tests.closeness import assert_close
from tests.stand_ins import detectors as stand_ins

BOXES = torch.tensor([[3.0, 5.0, 40.0, 60.0], [50.0, 2.0, 99.0, 31.0], [0.0, 0.0, 101.0, 67.0]])


def test_one_mask_per_box_in_their_order(segmenter: MaskSegmenter, image: torch.Tensor) -> None:
    masks = segmenter.segment(image, BOXES)
    assert masks.shape == (3, 67, 101)
    assert masks.dtype == torch.bool
    assert masks.any(dim=(1, 2)).all()
    assert not masks.all(dim=(1, 2)).any()
    assert segmenter.segment(image, BOXES.flip(0)).equal(masks.flip(0))


def test_a_box_is_answered_as_if_it_were_alone(segmenter: MaskSegmenter, image: torch.Tensor) -> None:
    together = segmenter.segment(image, BOXES)
    alone = torch.cat([segmenter.segment(image, box[None]) for box in BOXES])
    assert (together != alone).float().mean() < 1e-3


def test_no_box_gives_no_mask(segmenter: MaskSegmenter, image: torch.Tensor) -> None:
    assert segmenter.segment(image, torch.zeros(0, 4)).shape == (0, 67, 101)


def test_inputs_are_left_alone_and_matter(segmenter: MaskSegmenter, image: torch.Tensor) -> None:
    before, boxes = image.clone(), BOXES.clone()
    masks = segmenter.segment(image, boxes)
    assert image.equal(before)
    assert boxes.equal(BOXES)
    assert not segmenter.segment(image.flip(0), boxes).equal(masks)
    assert not segmenter.segment(image, boxes + 20).equal(masks)


def test_it_loads_and_runs_in_inference_mode(files: Path, image: torch.Tensor, segmenter: MaskSegmenter) -> None:
    with torch.inference_mode():
        masks = load_segmenter(files / "sam.pth").segment(image, BOXES)
    assert masks.equal(segmenter.segment(image, BOXES))


def test_safetensors_give_the_same(tmp_path: Path, image: torch.Tensor, segmenter: MaskSegmenter) -> None:
    save_file(stand_ins.sam_weights(0), tmp_path / "sam.safetensors")
    assert load_segmenter(tmp_path / "sam.safetensors").segment(image, BOXES).equal(segmenter.segment(image, BOXES))


def test_every_tensor_of_the_file_is_used(segmenter: MaskSegmenter) -> None:
    loaded = {value.sum().item() for value in segmenter.module.state_dict().values()}
    assert [key for key, value in stand_ins.sam_weights(0).items() if value.sum().item() not in loaded] == []


@pytest.mark.parametrize("lost", ["mask_decoder.iou_token.weight", "image_encoder.blocks.1.attn.rel_pos_h"])
def test_a_file_with_a_tensor_missing_is_refused(lost: str, tmp_path: Path) -> None:
    weights = stand_ins.sam_weights(0)
    del weights[lost]
    torch.save(weights, tmp_path / "short.pth")
    with pytest.raises(ValueError, match=lost):
        load_segmenter(tmp_path / "short.pth")


def test_a_file_with_a_tensor_too_many_is_refused(tmp_path: Path) -> None:
    torch.save(stand_ins.sam_weights(0) | {"mask_decoder.hf_token.weight": torch.rand(1, 32)}, tmp_path / "hq.pth")
    with pytest.raises(ValueError, match='hq.pth does not fit SAM. Not part of it: "mask_decoder.hf_token.weight"'):
        load_segmenter(tmp_path / "hq.pth")


def test_the_architecture_is_read_off_the_shapes() -> None:
    found = architecture_of(stand_ins.sam_weights(0))
    assert (found.image, found.patch, found.grid, found.width, found.layers, found.heads) == (64, 8, 8, 24, 2, 2)
    assert (found.window, found.global_layers, found.feed_forward) == (3, (1,), 40)
    assert (found.prompt_width, found.mask_channels, found.masks, found.score_width) == (32, 8, 3, 20)
    assert (found.decoder_layers, found.decoder_feed_forward, found.attention_downsampling) == (2, 40, 2)


def test_resizing_by_hand() -> None:
    assert sam.resized(480, 640, 1024) == (768, 1024)
    assert sam.resized(1333, 1000, 1024) == (1024, 768)  # 768.19
    assert sam.resized(100, 300, 64) == (21, 64)  # 21.33


def test_pixels_are_normalised_and_padded_with_zeros() -> None:
    grey = torch.tensor(sam.MEAN) / 255 + torch.tensor([58.395, 0.0, 0.0]) / 255
    pixels = sam.pixels_of(grey.expand(30, 60, 3), 64)
    assert_close(pixels[:, :32].mean(dim=(1, 2)), torch.tensor([1.0, 0.0, 0.0]), 0.01)
    assert not pixels[:, 32:].any()


def test_enlarging_drops_the_padding() -> None:
    coarse = torch.full((1, 16, 16), -1.0)
    coarse[:, :8] = 1.0
    large = sam.enlarge(coarse, side=64, inner=(32, 64), outer=(50, 100))
    assert large.shape == (1, 50, 100)
    assert (large[:, :46] > 0).all()
