"""The toy world's diffusion transformer: its sizes, where its weights lie, and how it takes latents and time.

It is a small network of the Flux.1 family, which draws by flow matching and reads text, picture and reference pictures
as one sequence. ComfyUI knows such a file by its tensors' names and reads all sizes from their shapes, but for those
that the family fixes: heads 128 wide, patches of 2 x 2 cells, latents of 16 channels. Without the family's embedding of
a guidance scale (as in Flux.1 schnell) it is sampled with ordinary guidance over evenly spaced times.

It has a text encoder of its own, of the sizes of the UNet's; only the vocabulary has more words, those that say which
picture shows whom. Both lie in a folder of their own with the tokenizer, so that one loader reads either text encoder.
"""

from dataclasses import dataclass
from math import log
from pathlib import Path

from torch import Tensor

from ..quoting import printable
from ..shapes import Float
from ..state_dict import check_tensors, meta
from .flux_layout import Layer, layers_of, shapes_of
from .models import WEIGHTS, load_weights
from .sizes import TOY_WORLD
from .vocabulary import vocabulary

TRANSFORMER_WEIGHTS = WEIGHTS / "transformer"
NAME = "transformer"
"""The file in that folder; beside it are `text_encoder.safetensors` and `tokenizer`."""

LATENT_SHIFT, LATENT_SCALE = 0.1159, 0.3611
"""What the family takes from latents, and then multiplies them by."""

TIME_LOCATION = log(LATENT_SCALE)
"""Where the middle of all times lies, as a logit: there noise is as strong as latents whose deviation was 1."""

REFERENCE_WORDS = ("image", "images", "1", "2", "3", "4", "to")
"""The words of `core.reference_words` that no caption of the world has."""


@dataclass(frozen=True)
class TransformerSizes:
    """The sizes of a network of the Flux.1 family.

    Args:
        width: Of every token; a multiple of 128, which is the width of a head.
        double_blocks: Blocks with weights of their own for text and picture; they come first.
        single_blocks: Blocks in which text and picture share the weights.
        context: Width of the text's tokens.
        pooled: Width of the text's summary.
    """

    width: int = 256
    double_blocks: int = 1
    single_blocks: int = 4
    context: int = TOY_WORLD.text_width
    pooled: int = TOY_WORLD.text_width
    channels: int = 16
    patch: int = 2
    axes: tuple[int, int, int] = (16, 56, 56)

    def __post_init__(self) -> None:
        if self.width < 1 or self.width % sum(self.axes):
            raise ValueError(f"width is {self.width}; it must be a multiple of {sum(self.axes)}, one head's width.")
        if self.double_blocks < 1 or self.single_blocks < 1:
            raise ValueError(
                f"There are {self.double_blocks} double and {self.single_blocks} single blocks; the family has at "
                "least one of each."
            )

    @property
    def heads(self) -> int:
        return self.width // sum(self.axes)

    @property
    def cell(self) -> int:
        """Numbers in one token of the picture."""
        return self.channels * self.patch**2

    def layers(self) -> list[Layer]:
        """Its layers, by which its file is checked and its weights are renamed."""
        return layers_of(self.width, self.cell, self.context, self.pooled, self.double_blocks, self.single_blocks)


TRANSFORMER = TransformerSizes()


def transformer_weights(folder: Path = TRANSFORMER_WEIGHTS, sizes: TransformerSizes = TRANSFORMER) -> dict[str, Tensor]:
    """The transformer's weights, all of them and no more, as float32 and in the family's published names.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it cannot be read, or has other tensors.
    """
    weights = load_weights(NAME, folder)
    where = printable(str(folder / f"{NAME}.safetensors"))
    check_tensors(weights, meta(shapes_of(sizes.layers())), where, "the toy world's transformer")
    return weights


def transformer_vocabulary() -> list[str]:
    """The toy world's words, and after them those by which a prompt refers to reference pictures."""
    known = vocabulary()
    return [*known, *(word for word in REFERENCE_WORDS if word not in known)]


def to_model_scale(latents: Float[Tensor, "*b c h w"]) -> Float[Tensor, "*b c h w"]:
    """From the VAE's latents to what the network works on."""
    return (latents - LATENT_SHIFT) * LATENT_SCALE


def to_vae_scale(latents: Float[Tensor, "*b c h w"]) -> Float[Tensor, "*b c h w"]:
    """The inverse of `to_model_scale`."""
    return latents / LATENT_SCALE + LATENT_SHIFT


def check_channels(channels: int) -> None:
    """Raise a ValueError if a VAE's latents are not of the kind that the family takes."""
    if channels != TRANSFORMER.channels:
        raise ValueError(
            f"The transformer takes latents of {TRANSFORMER.channels} channels, as all of the Flux.1 family, but this "
            f"VAE gives {channels}. Train a VAE of {TRANSFORMER.channels} channels first."
        )
