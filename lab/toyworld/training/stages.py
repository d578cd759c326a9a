"""The order in which the networks are made, what each needs of the others, and the card that tells how it went."""

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ....core.atomic_files import atomic_write
from ....core.locking import locked
from ....core.quoting import printable
from ....core.toyworld.flux_layout import to_published
from ....core.toyworld.identity_encoder import load_identity_encoder
from ....core.toyworld.models import PREVIEW_COLOURS, load_weights, store
from ....core.toyworld.recogniser import load_recogniser
from ....core.toyworld.transformer import TRANSFORMER, transformer_vocabulary
from ....core.toyworld.vae import load_vae
from ..ldm_keys import unet_to_ldm
from ..weight_files import weight_file
from .recipes import RECIPE
from .starting_weights import check_start
from .text_encoder import write_tokenizer
from .train_base import load_base, text_keys, train_base
from .train_network import Settings
from .train_photomaker import Adapter, FaceJudge, draw_examples, photomaker_file, train_photomaker
from .train_tower import IdEncoder, measure_tower, train_tower
from .train_vae import measure_vae, train_vae

Weights = dict[str, dict[str, Tensor]]
CARD = "card.json"


@dataclass(frozen=True)
class Made:
    """What a stage gives: the weights by file name, the losses, and what was measured."""

    weights: Weights
    losses: dict[str, list[float]]
    measured: dict[str, Any]


def _make_vae(settings: Settings, out: Path) -> Made:
    from .preview_colours import fit_preview_colours

    vae, losses = train_vae(settings)
    factors, bias = fit_preview_colours(vae.cpu())
    out.mkdir(parents=True, exist_ok=True)
    (out / PREVIEW_COLOURS).write_text(json.dumps({"factors": factors, "bias": bias}, indent=1) + "\n", "utf-8")
    return Made({"vae": vae.state_dict()}, {"vae": losses}, measure_vae(vae))


def _make_base(settings: Settings, out: Path) -> Made:
    model, losses = train_base(load_vae(out).to(settings.device), settings)
    write_tokenizer(out / "tokenizer")
    weights = {"unet": unet_to_ldm(model.unet.state_dict()), "text_encoder": text_keys(model.text.state_dict())}
    return Made(weights, {"base": losses}, {})


def _make_decoder(settings: Settings, out: Path) -> Made:
    from .train_decoder import measure_redrawn, train_decoder

    vae, base = load_vae(out).to(settings.device), load_base(out, settings.seed)
    losses = train_decoder(vae, base, settings)
    measured = {**measure_vae(vae.eval()), "psnr_db_redrawn": measure_redrawn(vae, base, settings)}
    return Made({"vae": vae.state_dict()}, {"decoder": losses}, measured)


def _make_tower(settings: Settings, out: Path) -> Made:
    if settings.start is not None or "photomaker" in _read_card(out / CARD):
        raise ValueError(
            "The tower is only trained anew, and its file is that of the identity generator: leave --continue-from "
            "out, and give an --out in which there is no finished identity generator."
        )
    base = load_base(out, settings.seed)
    encoder, losses = tower_of(settings, settings.minutes)
    measured = measure_tower(encoder)
    return Made({"photomaker": photomaker_file(Adapter(base, encoder))}, {"tower": losses}, measured)


def _make_photomaker(settings: Settings, out: Path) -> Made:
    from .measure_photomaker import measure_photomaker

    encoder, tower_losses = tower_of(settings)
    vae = load_vae(out).to(settings.device)
    examples = draw_examples(vae, settings, RECIPE.examples)
    judge = FaceJudge(vae, load_identity_encoder(out).to(settings.device), examples)
    adapter, losses = train_photomaker(load_base(out, settings.seed), encoder, examples, settings, judge)
    measured = measure_tower(adapter.encoder)
    if all(weight_file(name, out).is_file() for name in ("detector", "identity_encoder")):
        measured |= measure_photomaker(adapter, vae.cpu(), load_recogniser(out))
    of_tower = {"tower": tower_losses} if tower_losses else {}
    return Made({"photomaker": photomaker_file(adapter)}, of_tower | {"photomaker": losses}, measured)


def tower_of(settings: Settings, minutes: float | int = 0) -> tuple[IdEncoder, list[float]]:
    """The vision tower, trained for so long (0: all its steps), or one for the weights in the settings' `start`."""
    if settings.start is not None:
        return IdEncoder(settings.seed), []
    return train_tower(_with(settings, steps=RECIPE.tower_steps, batch=32, minutes=minutes))


def _make_identity(settings: Settings, out: Path) -> Made:
    from .train_identity_encoder import measure_identity_encoder, train_identity_encoder

    network, losses = train_identity_encoder(settings)
    return Made({"identity_encoder": network.state_dict()}, {"identity": losses}, measure_identity_encoder(network))


def _make_detector(settings: Settings, out: Path) -> Made:
    from .train_detector import measure_detector, train_detector

    network, losses = train_detector(settings)
    return Made({"detector": network.state_dict()}, {"detector": losses}, measure_detector(network))


def _make_words(settings: Settings, out: Path) -> Made:
    from ....core.toyworld.detector import DetectorNetwork
    from .train_detector import measure_detector
    from .train_words import teach_words

    network = DetectorNetwork()
    network.load_state_dict(load_weights("detector", out))
    losses, measured = teach_words(network, load_base(out, settings.seed), load_vae(out), settings)
    return Made({"detector": network.state_dict()}, {"words": losses}, measured | measure_detector(network))


def _make_probe(settings: Settings, out: Path) -> Made:
    from .train_probe import measure_probe, train_probe

    network, losses = train_probe(settings)
    return Made({"probe": network.state_dict()}, {"probe": losses}, measure_probe(network))


def _make_transformer(settings: Settings, out: Path) -> Made:
    from .train_dit import measure_dit, train_dit

    vae = load_vae(out).to(settings.device)
    model, losses = train_dit(vae, settings, words=out)
    write_tokenizer(out / "transformer" / "tokenizer", transformer_vocabulary())
    weights = {
        "transformer/transformer": to_published(model.transformer.state_dict(), TRANSFORMER.layers()),
        "transformer/text_encoder": text_keys(model.text.state_dict()),
    }
    return Made(weights, {"transformer": losses}, measure_dit(model, vae, settings))


@dataclass(frozen=True)
class Stage:
    """One training, and its own settings.

    Args:
        make: Trains.
        steps: Optimizer steps at most.
        batch: Pictures per step.
        rate: The highest learning rate.
        minutes: Its time limit where none is asked for.
        extra: Not one of `all`, only done by name.
    """

    make: Callable[[Settings, Path], Made]
    steps: int
    batch: int
    rate: float
    minutes: int | float
    extra: bool = False


STAGES: dict[str, Stage] = {
    "vae": Stage(_make_vae, 12_000, 4, 2e-3, 60),
    "base": Stage(_make_base, 24_000, 32, 1e-3, 400),
    "decoder": Stage(_make_decoder, 3_000, 16, 5e-4, 15),
    "identity": Stage(_make_identity, 700, 128, 2e-3, 15),
    "detector": Stage(_make_detector, 1_300, 32, 2e-3, 20),
    "tower": Stage(_make_tower, 1_000, 32, 1e-3, 0, extra=True),
    "photomaker": Stage(_make_photomaker, 8_000, 32, 1e-3, 200),
    "words": Stage(_make_words, 600, 32, 1e-3, 8),
    "probe": Stage(_make_probe, 3_500, 32, 2e-3, 15),
    "transformer": Stage(_make_transformer, 40_000, 32, 1e-3, 180, extra=True),
}
"""In the order in which they need each other. The minutes are for two CPU cores; a longer run draws better.

The photomaker stage begins with the tower's. Alone, the tower's stage leaves a file of an identity generator whose LoRA
adds nothing yet, to be continued from.
"""


def run_stage(
    name: str,
    *,
    device: str,
    seed: int,
    minutes: float,
    work: Path,
    out: Path,
    start: Path | None = None,
    compile: bool = False,
) -> None:
    """Train one stage, write its weights and add it to the card.

    Raises:
        ValueError: If another training is at work.
    """
    stage = STAGES[name]
    settings = Settings(
        stage.steps,
        stage.batch,
        stage.rate,
        minutes or stage.minutes,
        device,
        seed,
        work,
        start=start,
        compile=compile,
    )
    check_start(settings)
    refusal = f"Another training is at work in {printable(str(work))}. Wait for it, or give another --work."
    with locked(work, refusal):
        card, started = _read_card(out / CARD), time.monotonic()
        made = stage.make(settings, out)
        for file, weights in made.weights.items():
            with atomic_write(weight_file(file, out)) as temporary:
                save_file(store(weights), temporary)
        card[name] = _entry(name, settings, made, (time.monotonic() - started) / 60)
        with atomic_write(out / CARD) as temporary:
            temporary.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def _with(settings: Settings, **changes: Any) -> Settings:
    return Settings(**(settings.__dict__ | changes))


def _read_card(path: Path) -> dict[str, Any]:
    """What is known of the other stages' weights.

    Raises:
        ValueError: If the file is no card.
    """
    try:
        card = json.loads(path.read_text(encoding="utf-8-sig")) if path.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {printable(str(error), 300)}") from error
    if not isinstance(card, dict):
        raise ValueError(f"{path} is not a card of weights; move it away.")
    return card


def _entry(name: str, settings: Settings, made: Made, minutes: float | int) -> dict[str, Any]:
    return {
        "command": f"python -m story_identity.lab.toyworld.training {name} --seed {settings.seed}"
        f" --minutes {settings.minutes:g} --device {settings.device}"
        f"{' --compile' if settings.compile else ''}{' --continue-from ...' if settings.start else ''}",
        "files": sorted(made.weights),
        "parameters": {file: sum(t.numel() for t in weights.values()) for file, weights in made.weights.items()},
        "batch": settings.batch,
        "minutes": round(minutes, 1),
        "torch": torch.__version__,
        "machine": f"{os.cpu_count()} x {platform.machine()}" if settings.device == "cpu" else settings.device,
        "losses": {key: [round(loss, 5) for loss in losses] for key, losses in made.losses.items()},
        "measured": made.measured,
        "licence": "Apache-2.0, as the code; trained only on pictures drawn by this package",
    }
