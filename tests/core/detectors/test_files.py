import sys
from pathlib import Path

import pytest
import torch
from story_identity.core.detectors import load_box_detector, load_segmenter

from tests.stand_ins import detectors as stand_ins


def test_missing_weights_say_where_they_belong(files: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"GroundingDINO is missing.*no\.pth.*models/grounding-dino"):
        load_box_detector(tmp_path / "no.pth", files / "bert")
    with pytest.raises(FileNotFoundError, match=r"SAM is missing.*no\.pth.*models/sams"):
        load_segmenter(tmp_path / "no.pth")


def test_a_missing_tokenizer_says_where_it_belongs(files: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tokenizer of GroundingDINO is missing.*models/bert-base-uncased"):
        load_box_detector(files / "dino.pth", tmp_path)


def test_another_tokenizer_is_refused(files: Path, tmp_path: Path) -> None:
    stand_ins.write_tiny_bert_tokenizer(tmp_path)
    lines = (tmp_path / "vocab.txt").read_text().splitlines()
    (tmp_path / "vocab.txt").write_text("\n".join([*lines[3:], *lines[:3]]) + "\n")
    with pytest.raises(ValueError, match=r"another tokenizer than that of bert-base-uncased.*\(98, 99, 1009, 1026\)"):
        load_box_detector(files / "dino.pth", tmp_path)


def test_a_file_of_another_kind_is_named(files: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sam\.pth holds SAM; GroundingDINO in its authors' format was expected"):
        load_box_detector(files / "sam.pth", files / "bert")
    with pytest.raises(ValueError, match=r"dino\.pth holds GroundingDINO; SAM in its authors' format was expected"):
        load_segmenter(files / "dino.pth")
    torch.save({"vision_encoder.pos_embed": torch.rand(2)}, tmp_path / "hub.pth")
    with pytest.raises(ValueError, match="holds SAM in the format of transformers"):
        load_segmenter(tmp_path / "hub.pth")
    torch.save({"b": torch.rand(2), "a": torch.rand(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match='an unknown model with tensors such as "a", "b"'):
        load_segmenter(tmp_path / "other.pth")


@pytest.mark.parametrize("content", [[1, 2], {"model": 3}, {"epoch": 3}, torch.ones(2), {}])
def test_a_pickle_of_something_else_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match="SAM in its authors' format was expected"):
        load_segmenter(tmp_path / "odd.pth")


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
def test_a_broken_file_is_refused(name: str, files: Path, tmp_path: Path) -> None:
    for content in (b"", b"<html>404</html>", (files / "sam.pth").read_bytes()[:5000]):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} cannot be read as weights.* SAM in its authors' format was"):
            load_segmenter(tmp_path / name)


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    weights = stand_ins.sam_weights(0)
    weights["mask_decoder.iou_token.weight"] = weights["mask_decoder.iou_token.weight"].to(torch.int32)
    torch.save(weights, tmp_path / "whole.pth")
    with pytest.raises(ValueError, match=r"whole.pth holds whole numbers where SAM .*mask_decoder.iou_token.weight"):
        load_segmenter(tmp_path / "whole.pth")


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("image_encoder.pos_embed", (1, 8)),
        ("image_encoder.blocks.0.attn.rel_pos_h", (5, 0)),
        ("mask_decoder.iou_token.weight", (2, 32)),
        ("prompt_encoder.no_mask_embed.weight", (1, 30)),
    ],
)
def test_a_tensor_of_another_shape_is_named(key: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.save({**stand_ins.sam_weights(0), key: torch.zeros(shape)}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match="odd.pth") as caught:
        load_segmenter(tmp_path / "odd.pth")
    if shape[-1] != 30:  # from that one the sizes of many others are read, which are then the odd ones out
        assert key in str(caught.value)


def test_parts_that_do_not_count_from_zero_are_refused(tmp_path: Path) -> None:
    for number in (1, 10**12, "x"):
        torch.save(stand_ins.sam_weights(0) | {f"image_encoder.blocks.{number}7.x": torch.zeros(1)}, tmp_path / "s.pth")
        with pytest.raises(ValueError, match=rf"s.pth has the parts .*{number}7"):
            load_segmenter(tmp_path / "s.pth")


def test_a_damaged_tokenizer_is_named(files: Path, tmp_path: Path) -> None:
    for content in ("{", '{"model": 3}', "[" * 100_000):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(ValueError, match="holds no tokenizer that can be read"):
            load_box_detector(files / "dino.pth", tmp_path)


def test_a_file_without_any_layer_of_a_sort_is_refused(files: Path, tmp_path: Path) -> None:
    weights = stand_ins.grounding_dino_weights(0)
    torch.save({k: v for k, v in weights.items() if not k.startswith("input_proj.")}, tmp_path / "short.pth")
    with pytest.raises(ValueError, match=r"short.pth lacks all tensors input_proj\.\*"):
        load_box_detector(tmp_path / "short.pth", files / "bert")


def test_a_pickle_cannot_run_code(tmp_path: Path) -> None:
    torch.save({"image_encoder.pos_embed": Path("/")}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        load_segmenter(tmp_path / "code.pth")


@pytest.mark.parametrize(
    ("engine", "package", "advice"),
    [
        ("transformers", "transformers", "pip install transformers"),
        ("original", "segment_anything", "choose transformers to do without.* pip install segment-anything"),
    ],
)
def test_a_missing_package_says_what_to_install(
    engine: str, package: str, advice: str, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"{package}.* is missing.*{advice}"):
        load_segmenter(files / "sam.pth", engine)


def test_a_missing_groundingdino_says_what_to_install(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "groundingdino", None)
    with pytest.raises(ModuleNotFoundError, match="pip install groundingdino-py"):
        load_box_detector(files / "dino.pth", files / "bert", "original")
