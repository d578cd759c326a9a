"""Boxes of what a word names, by GroundingDINO (Liu et al. 2023, arXiv:2303.05499)."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..quoting import printable, quote
from ..shapes import Bool, Float, Int
from ..state_dict import WeightFileError, refuse_notes, sizes_from
from . import Detections
from . import grounding_dino_keys as keys
from .files import read_state_dict, require_package
from .key_mapping import rename, without
from .pictures import normalised, scaled_colours

SHORTER_SIDE = 800
LONGER_SIDE = 1333
# Beyond this there are fewer image features than queries.
LARGEST_ASPECT = 16
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
# [CLS], [SEP], "." and "?" of bert-base-uncased: they mark where a phrase begins and ends.
SPECIAL_TOKENS = (101, 102, 1012, 1029)
LONGEST_PROMPT = 256


@dataclass(frozen=True)
class Prompt:
    """One word as the model reads it. `own` marks the tokens that are the word's, not the sentence's."""

    text: str
    ids: Int[Tensor, " t"]
    own: Bool[Tensor, " t"]


# (network, pixels, prompt) to one logit per query and prompt token, and boxes cx cy w h in [0, 1].
Forward = Callable[[torch.nn.Module, Float[Tensor, "3 h w"], Prompt], tuple[Tensor, Tensor]]


class GroundingDinoDetector:
    """GroundingDINO behind `BoxDetector`, whichever implementation `forward` calls."""

    def __init__(self, module: torch.nn.Module, forward: Forward, tokenizer: Any) -> None:
        self.module = module
        self._forward = forward
        self._tokenizer = tokenizer

    def find(self, image: Float[Tensor, "h w 3"], word: str) -> Detections:
        """Ask for everything in the image that the word may name.

        Args:
            image: In [0, 1]. It is scaled as in training: shorter side 800 pixels, longer side at most 1333.
            word: A word or a short phrase, in any case.

        Returns:
            One candidate per query of the model (900 in the published ones).

        Raises:
            ValueError: If there is no word, or it is too long, or one side of the image is over 16 times the other.
        """
        height, width, _ = image.shape
        prompt = read_word(word, self._tokenizer)
        device = next(self.module.parameters()).device
        with torch.no_grad():
            logits, boxes = self._forward(self.module, pixels_of(image).to(device), prompt)
        return rank(logits.float().cpu(), boxes.float().cpu(), prompt.own, height, width)


def resized(height: int, width: int) -> tuple[int, int]:
    """Height and width after scaling to a shorter side of 800 pixels, or to a longer side of 1333 if that is less.

    Raises:
        ValueError: If one side is over 16 times the other.
    """
    shorter, longer = min(height, width), max(height, width)
    if longer > LARGEST_ASPECT * shorter:
        raise ValueError(
            f"The image is {width} x {height} pixels; GroundingDINO needs sides that differ at most "
            f"{LARGEST_ASPECT} times: crop or pad it."
        )
    target = SHORTER_SIDE
    if longer / shorter * target > LONGER_SIDE:
        target = round(LONGER_SIDE * shorter / longer)
    other = int(target * longer / shorter)
    return (target, other) if height <= width else (other, target)


def pixels_of(image: Float[Tensor, "h w 3"]) -> Float[Tensor, "3 h2 w2"]:
    """Scale the image in 8 bits, as the authors do, and normalise its colours."""
    height, width = resized(image.shape[0], image.shape[1])
    return normalised(scaled_colours(image, height, width) / 255, MEAN, DEVIATION)


def read_word(word: str, tokenizer: Any) -> Prompt:
    """Make the prompt of one word: lower case, with a full stop.

    Raises:
        ValueError: If the word has nothing but full stops and question marks, or over 256 tokens.
    """
    text = f"{word.lower().strip().rstrip('.').rstrip()} ."
    ids = torch.tensor(tokenizer(text)["input_ids"], dtype=torch.int64)
    own = ~torch.isin(ids, torch.tensor(SPECIAL_TOKENS))
    if not own.any():
        raise ValueError(f"{quote(word)} is no word to look for.")
    if len(ids) > LONGEST_PROMPT:
        raise ValueError(f"{quote(word, 40)} has {len(ids)} tokens; at most {LONGEST_PROMPT} can be looked for.")
    return Prompt(text, ids, own)


def rank(
    logits: Float[Tensor, "n t"], boxes: Float[Tensor, "n 4"], own: Bool[Tensor, " t"], height: int, width: int
) -> Detections:
    """Score every candidate and sort by score, best first.

    Args:
        logits: One per prompt token.
        boxes: cx cy w h, relative to the image.
        own: The word's own tokens.
        height: The image's height in pixels.
        width: The image's width in pixels.
    """
    probabilities = logits.sigmoid()
    scores = probabilities.amax(dim=1)
    order = scores.argsort(descending=True, stable=True)
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    corners = torch.cat([centre - half, centre + half], dim=1) * torch.tensor([width, height, width, height])
    return Detections(corners[order], scores[order], probabilities[:, own].amax(dim=1)[order])


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of bert-base-uncased from its files.

    Raises:
        FileNotFoundError: If they are not there.
        ValueError: If it is another tokenizer, or cannot be read.
    """
    where = printable(str(folder))
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise FileNotFoundError(
            f"The tokenizer of GroundingDINO is missing: {where} has neither tokenizer.json nor vocab.txt; put these "
            "files of bert-base-uncased into models/bert-base-uncased."
        )
    with require_package("transformers", "the tokenizer of GroundingDINO"):
        transformers = import_module("transformers")
    try:
        tokenizer = transformers.BertTokenizerFast.from_pretrained(str(folder), local_files_only=True)
        found = tuple(tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", ".", "?"]))
    except Exception as error:  # the tokenizers package raises Exception itself
        reason = f"{type(error).__name__}: {printable(str(error), 200)}"
        raise WeightFileError(
            f"{where} holds no tokenizer that can be read ({reason}): fetch tokenizer.json and vocab.txt of "
            "bert-base-uncased again."
        ) from error
    if found != SPECIAL_TOKENS:
        raise ValueError(
            f"{where} holds another tokenizer than that of bert-base-uncased: its [CLS] [SEP] . ? are {found}, "
            f"{SPECIAL_TOKENS} was expected."
        )
    return tokenizer


def load_model(path: Path) -> tuple[torch.nn.Module, Forward]:
    """Build transformers' GroundingDINO around the file.

    Raises:
        ModuleNotFoundError: If transformers is not installed.
        ValueError: If the file is no GroundingDINO, or not all of it.
    """
    state = read_state_dict(path, "GroundingDINO")
    with require_package("transformers", "the engine transformers"):
        from transformers import GroundingDinoForObjectDetection
    name = printable(str(path))
    with sizes_from(name, "GroundingDINO"):
        config = config_of(keys.architecture_of(state, name))
        renamed = rename(without(state, (*keys.UNUSED, "bert.pooler.")), keys.TRANSFORMERS_NAMES)
        loaded: Any = GroundingDinoForObjectDetection.from_pretrained(
            None, config=config, state_dict=renamed, output_loading_info=True, ignore_mismatched_sizes=True
        )
    module, notes = loaded
    refuse_notes(notes, name, "GroundingDINO")
    return module.eval(), _run


def _run(module: torch.nn.Module, pixels: Float[Tensor, "3 h w"], prompt: Prompt) -> tuple[Tensor, Tensor]:
    output = module(pixel_values=pixels[None], input_ids=prompt.ids[None].to(pixels.device))
    return output.logits[0, :, : len(prompt.ids)], output.pred_boxes[0]


def config_of(architecture: keys.GroundingDinoArchitecture) -> Any:
    """What transformers builds the network from."""
    from transformers import GroundingDinoConfig

    swin = architecture.swin
    return GroundingDinoConfig(
        backbone_config=dict(
            model_type="swin",
            patch_size=swin.patch,
            embed_dim=swin.width,
            depths=list(swin.depths),
            num_heads=list(swin.heads),
            window_size=swin.window,
            mlp_ratio=swin.mlp_ratio,
            out_features=[f"stage{stage + 1}" for stage in swin.stages],
        ),
        text_config=bert_config(architecture.bert),
        d_model=architecture.width,
        num_queries=architecture.queries,
        num_feature_levels=architecture.levels,
        encoder_n_points=architecture.points,
        decoder_n_points=architecture.points,
        encoder_layers=architecture.encoder_layers,
        decoder_layers=architecture.decoder_layers,
        encoder_ffn_dim=architecture.feed_forward,
        decoder_ffn_dim=architecture.feed_forward,
        encoder_attention_heads=keys.ATTENTION_HEADS,
        decoder_attention_heads=keys.ATTENTION_HEADS,
    )


def bert_config(architecture: keys.BertArchitecture) -> Any:
    """What transformers builds the text encoder from, in either engine."""
    from transformers import BertConfig

    return BertConfig(
        vocab_size=architecture.vocabulary,
        hidden_size=architecture.width,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        intermediate_size=architecture.feed_forward,
        max_position_embeddings=architecture.positions,
        type_vocab_size=architecture.types,
    )
