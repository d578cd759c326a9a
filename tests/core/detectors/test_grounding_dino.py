from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from story_identity.core.detectors import BoxDetector, Detections, load_box_detector
from story_identity.core.detectors import grounding_dino as gd
from story_identity.core.detectors.grounding_dino_keys import architecture_of

from tests.closeness import assert_close
from tests.stand_ins import detectors as stand_ins


def same(first: Detections, second: Detections) -> bool:
    return all(torch.equal(getattr(first, part), getattr(second, part)) for part in ("boxes", "scores", "text_scores"))


def test_candidates_come_best_first_one_per_query(detector: BoxDetector, image: torch.Tensor) -> None:
    found = detector.find(image, "woman")
    assert found.boxes.shape == (stand_ins.QUERIES, 4)
    assert found.scores.equal(found.scores.sort(descending=True).values)
    assert (found.text_scores <= found.scores).all()
    assert ((found.scores > 0) & (found.scores < 1)).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    assert found.boxes.device.type == "cpu"


def test_the_same_question_has_the_same_answer(detector: BoxDetector, image: torch.Tensor) -> None:
    before = image.clone()
    first = detector.find(image, "woman")
    detector.find(image.flip(0), "dog")
    assert same(first, detector.find(image, "woman"))
    assert image.equal(before)


def test_the_word_and_the_image_matter_but_case_and_a_full_stop_do_not(
    detector: BoxDetector, image: torch.Tensor
) -> None:
    woman = detector.find(image, "woman")
    assert same(woman, detector.find(image, " Woman. "))
    assert not same(woman, detector.find(image, "dog"))
    assert not same(woman, detector.find(image.flip(1), "woman"))


@pytest.mark.parametrize("size", [(64, 64), (16, 16), (256, 160), (20, 300)])
def test_any_size_works(detector: BoxDetector, size: tuple[int, int]) -> None:
    assert torch.isfinite(detector.find(torch.rand(*size, 3), "old man").boxes).all()


def test_it_loads_and_runs_in_inference_mode(files: Path, image: torch.Tensor, detector: BoxDetector) -> None:
    with torch.inference_mode():
        found = load_box_detector(files / "dino.pth", files / "bert").find(image, "woman")
    assert same(found, detector.find(image, "woman"))


@pytest.mark.parametrize("form", ["safetensors", "bare", "parallel", "with unused tensors", "tokenizer without config"])
def test_other_forms_of_the_file_give_the_same(
    form: str, files: Path, tmp_path: Path, image: torch.Tensor, detector: BoxDetector
) -> None:
    weights, path, folder = stand_ins.grounding_dino_weights(0), tmp_path / "other.pth", files / "bert"
    if form == "safetensors":
        path = tmp_path / "other.safetensors"
        save_file({key: value.clone() for key, value in weights.items()}, path)
    elif form == "tokenizer without config":
        stand_ins.write_tiny_bert_tokenizer(folder := tmp_path / "bert")
        (folder / "tokenizer_config.json").unlink()
        torch.save(weights, path)
    elif form == "bare":
        torch.save(weights, path)
    elif form == "parallel":
        torch.save({"model": {f"module.{key}": value for key, value in weights.items()}, "epoch": 3}, path)
    else:
        unused = {"label_enc.weight": torch.rand(5, 256), "bert.embeddings.position_ids": torch.arange(64)[None]}
        torch.save({"model": weights | unused}, path)
    assert same(load_box_detector(path, folder).find(image, "woman"), detector.find(image, "woman"))


def test_half_precision_weights_run_in_float32(files: Path, tmp_path: Path, image: torch.Tensor) -> None:
    weights = stand_ins.grounding_dino_weights(0)
    half = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    torch.save(half, tmp_path / "half.pth")
    half_detector = load_box_detector(tmp_path / "half.pth", files / "bert")
    assert next(half_detector.module.parameters()).dtype == torch.float32
    assert half_detector.find(image, "woman").scores.dtype == torch.float32


def test_every_tensor_of_the_file_is_used(files: Path, tmp_path: Path, detector: BoxDetector) -> None:
    weights = stand_ins.grounding_dino_weights(0)
    loaded = {value.sum().item() for value in detector.module.state_dict().values() if value.is_floating_point()}
    split = ("qkv.weight", "qkv.bias", "in_proj_weight", "in_proj_bias")
    for key, value in weights.items():
        if key.startswith("bert.pooler") or not value.is_floating_point():
            continue
        parts = value.chunk(3) if key.endswith(split) else [value]
        assert all(part.sum().item() in loaded for part in parts), key


@pytest.mark.parametrize(
    "lost", ["feat_map.bias", "transformer.tgt_embed.weight", "backbone.0.layers.1.blocks.1.attn.qkv.weight"]
)
def test_a_file_with_a_tensor_missing_is_refused(lost: str, files: Path, tmp_path: Path) -> None:
    weights = stand_ins.grounding_dino_weights(0)
    del weights[lost]
    torch.save(weights, tmp_path / "short.pth")
    with pytest.raises(ValueError, match=r"short.pth (lacks the tensor|does not fit GroundingDINO. Missing:)"):
        load_box_detector(tmp_path / "short.pth", files / "bert")


def test_a_file_with_a_tensor_too_many_is_refused(files: Path, tmp_path: Path) -> None:
    torch.save(stand_ins.grounding_dino_weights(0) | {"mask_head.weight": torch.rand(3)}, tmp_path / "more.pth")
    with pytest.raises(ValueError, match='more.pth does not fit GroundingDINO. Not part of it: "mask_head.weight"'):
        load_box_detector(tmp_path / "more.pth", files / "bert")


def test_the_architecture_is_read_off_the_shapes() -> None:
    found = architecture_of(stand_ins.grounding_dino_weights(0))
    assert (found.encoder_layers, found.decoder_layers, found.levels, found.points) == (1, 2, 4, 2)
    assert (found.width, found.queries, found.feed_forward) == (256, 24, 64)
    assert (found.swin.patch, found.swin.width, found.swin.window, found.swin.mlp_ratio) == (32, 8, 4, 4.0)
    assert (found.swin.depths, found.swin.heads, found.swin.stages) == ((1, 2, 1), (1, 2, 2), (1, 2))
    assert (found.bert.width, found.bert.layers, found.bert.heads, found.bert.feed_forward) == (16, 1, 1, 24)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1066)),  # 1066.67 is cut
        ((640, 480), (1066, 800)),
        ((1024, 1024), (800, 800)),
        ((500, 1000), (666, 1332)),  # 800 x 1600 is too long: round(1333 / 2) = 666
        ((100, 1600), (83, 1328)),
    ],
)
def test_resizing_by_hand(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert gd.resized(*size) == expected


def test_a_strip_is_refused() -> None:
    with pytest.raises(ValueError, match="1700 x 100 pixels"):
        gd.resized(100, 1700)


def test_ranking_by_hand() -> None:
    logits = torch.tensor([[0.0, -1.0, 2.0, 3.0], [5.0, 1.0, 0.0, -9.0]])
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.1, 0.2, 0.2, 0.2]])
    found = gd.rank(logits, boxes, torch.tensor([False, True, True, False]), height=100, width=200)
    assert_close(found.boxes, torch.tensor([[0.0, 10.0, 40.0, 30.0], [80.0, 30.0, 120.0, 70.0]]))
    assert_close(found.scores, torch.tensor([5.0, 3.0]).sigmoid())
    assert_close(found.text_scores, torch.tensor([1.0, 2.0]).sigmoid())


def test_the_prompt_is_the_word_and_a_full_stop(files: Path) -> None:
    tokenizer = gd.load_tokenizer(files / "bert")
    prompt = gd.read_word("Old WOMAN", tokenizer)
    assert prompt.text == "old woman ."
    assert tokenizer.convert_ids_to_tokens(prompt.ids.tolist()) == ["[CLS]", "old", "woman", ".", "[SEP]"]
    assert prompt.own.tolist() == [False, True, True, False, False]
    spelled = gd.read_word("xy", tokenizer)
    assert tokenizer.convert_ids_to_tokens(spelled.ids.tolist()) == ["[CLS]", "x", "##y", ".", "[SEP]"]


def test_words_that_cannot_be_asked_for(files: Path) -> None:
    tokenizer = gd.load_tokenizer(files / "bert")
    for word in ("", " . ", "?"):
        with pytest.raises(ValueError, match="is no word to look for"):
            gd.read_word(word, tokenizer)
    with pytest.raises(ValueError, match="has 304 tokens; at most 256"):
        gd.read_word("woman " * 301, tokenizer)
