"""The tokenizer's files, and the text encoder."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from ....core.toyworld.sizes import TOY_WORLD
from ....core.toyworld.vocabulary import END, PATTERN, START, UNKNOWN, vocabulary


def write_tokenizer(folder: Path, vocabulary: Sequence[str] = tuple(vocabulary())) -> None:
    """Write a vocabulary as the files that transformers loads, 4.55 (whose class names they bear) and newer."""
    words = {word: number for number, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(WordLevel(words, unk_token=UNKNOWN))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Split(Regex(PATTERN), "removed", invert=True)
    tokenizer.post_processor = TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, words[START]), (END, words[END])]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        unk_token=UNKNOWN,
        model_max_length=TOY_WORLD.text_length,
    )
    fast.save_pretrained(folder)
    config = folder / "tokenizer_config.json"
    kept = json.loads(config.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    kept = {key: kept[key] for key in sorted(kept) if key not in ("backend", "is_local")}
    config.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def new_text_encoder(seed: int, vocabulary: Sequence[str] = tuple(vocabulary())) -> CLIPTextModel:
    torch.manual_seed(seed)
    return CLIPTextModel(CLIPTextConfig(vocab_size=len(vocabulary), **TOY_WORLD.text_encoder))
