"""Identity tokens from reference pictures, and the cross-attention that reads them (Storynizor, section 3.2).

The networks are those of IP-Adapter (Ye et al. 2023, arXiv:2308.06721, section 3.2): plus-face, FaceID, FaceID-Plus
and FaceID-Plus v2. A weight is called here what it is called in the public files, so `Injector.state_dict()` is such a
file; `adapter_file` reads them. In shapes, r is a reference, k a token, n a row of the batch, l a place on the grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .attention import Attend, plain_attention
from .shapes import Float

HEAD_WIDTH = 64
"""The width of one head of the resampler's attention, in every public IP-Adapter file."""
_FEED_FORWARD = 4
_FACE_HIDDEN = 2


@dataclass(frozen=True)
class ResamplerConfig:
    """Sizes of the network that turns an image encoder's tokens into identity tokens.

    Args:
        clip_width: The width of the image encoder's hidden states; 1280 for CLIP ViT-H.
        width: The resampler's width; a multiple of 64 in public files.
        heads: The number of attention heads.
        depth: Attention layers.
        head_width: The width of one head; 64 in IP-Adapter's files, 128 in PhotoMaker v2's.
    """

    clip_width: int
    width: int
    heads: int
    depth: int = 4
    head_width: int = HEAD_WIDTH


@dataclass(frozen=True)
class AdapterConfig:
    """Sizes of an adapter. It has a resampler (plus-face), a face projector (FaceID) or both (FaceID-Plus).

    Args:
        tokens: Identity tokens per reference.
        cross_width: The width of the tokens and of the model's prompts: 768 for SD1.5, 2048 for SDXL.
        layer_widths: The widths of the model's cross-attention layers, in the order of `adapter_file.number_layers`.
        resampler: None for FaceID.
        face_width: The width of the face recogniser's embedding, 512 for ArcFace; None for plus-face.
        shortcut: FaceID-Plus v2: what the resampler finds is added to the face's tokens, and can be scaled.
    """

    tokens: int
    cross_width: int
    layer_widths: tuple[int, ...]
    resampler: ResamplerConfig | None = None
    face_width: int | None = None
    shortcut: bool = False

    def __post_init__(self) -> None:
        if self.resampler is None and self.face_width is None:
            raise ValueError("An adapter needs a resampler, a face width, or both.")
        if self.shortcut and (self.resampler is None or self.face_width is None):
            raise ValueError("Only an adapter with a resampler and a face width (FaceID-Plus) has a shortcut.")
        if self.resampler and self.face_width and self.resampler.width != self.cross_width:
            raise ValueError(
                f"The resampler of FaceID-Plus is {self.resampler.width} wide, its tokens {self.cross_width}; the two "
                "widths must be equal."
            )

    @property
    def kind(self) -> str:
        """What the public files of this kind are called."""
        if self.face_width is None:
            return "plus-face"
        if self.resampler is None:
            return "FaceID"
        return "FaceID-Plus v2" if self.shortcut else "FaceID-Plus"


@dataclass(frozen=True)
class ReferenceFeatures:
    """What an image encoder and a face recogniser make of reference pictures; None where the adapter does not need it.

    Args:
        clip: The image encoder's hidden states before its last layer, class token included.
        blank_clip: The same of pixels that are 0 *after* normalisation, a picture in CLIP's mean colour, as the
            adapters were trained with for "no picture".
        face: Face embeddings of unit length.
    """

    clip: Float[Tensor, "r t c"] | None = None
    blank_clip: Float[Tensor, "1 t c"] | None = None
    face: Float[Tensor, "r d"] | None = None


class PerceiverAttention(nn.Module):
    """Tokens attend to the picture and to themselves."""

    def __init__(self, config: ResamplerConfig, operations: Any) -> None:
        super().__init__()
        width, inner = config.width, config.heads * config.head_width
        self.heads = config.heads
        self.norm1 = operations.LayerNorm(width)
        self.norm2 = operations.LayerNorm(width)
        self.to_q = operations.Linear(width, inner, bias=False)
        self.to_kv = operations.Linear(width, 2 * inner, bias=False)
        self.to_out = operations.Linear(inner, width, bias=False)

    def forward(self, picture: Float[Tensor, "r t w"], tokens: Float[Tensor, "r k w"]) -> Float[Tensor, "r k w"]:
        picture, tokens = self.norm1(picture), self.norm2(tokens)
        k, v = self.to_kv(torch.cat([picture, tokens], dim=1)).chunk(2, dim=-1)
        return self.to_out(plain_attention(self.to_q(tokens), k, v, self.heads))


class Perceiver(nn.Module):
    """Refines given tokens by looking at a picture, then brings them to the width of prompts."""

    def __init__(self, config: ResamplerConfig, cross_width: int, operations: Any = nn) -> None:
        super().__init__()
        width = config.width
        self.proj_in = operations.Linear(config.clip_width, width)
        self.proj_out = operations.Linear(width, cross_width)
        self.norm_out = operations.LayerNorm(cross_width)
        self.layers = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(config, operations), _feed_forward(width, operations)])
            for _ in range(config.depth)
        )

    def refine(self, tokens: Float[Tensor, "r k w"], clip: Float[Tensor, "r t c"]) -> Float[Tensor, "r k d"]:
        picture = self.proj_in(clip)
        for layer in self.layers:
            attend, feed_forward = layer.children()
            tokens = tokens + attend(picture, tokens)
            tokens = tokens + feed_forward(tokens)
        return self.norm_out(self.proj_out(tokens))


class Resampler(Perceiver):
    """Identity tokens of a picture, from learned ones (plus-face)."""

    def __init__(self, config: ResamplerConfig, cross_width: int, tokens: int, operations: Any = nn) -> None:
        super().__init__(config, cross_width, operations)
        self.latents = nn.Parameter(torch.randn(1, tokens, config.width) / config.width**0.5)

    def forward(self, clip: Float[Tensor, "r t c"]) -> Float[Tensor, "r k d"]:
        return self.refine(self.latents.to(clip).expand(len(clip), -1, -1), clip)


class FaceTokens(nn.Module):
    """Tokens of a face embedding."""

    def __init__(self, face_width: int, cross_width: int, tokens: int, operations: Any = nn) -> None:
        super().__init__()
        hidden = _FACE_HIDDEN * face_width
        self.proj = nn.Sequential(
            operations.Linear(face_width, hidden), nn.GELU(), operations.Linear(hidden, tokens * cross_width)
        )
        self.norm = operations.LayerNorm(cross_width)
        self.tokens = tokens

    def from_face(self, face: Float[Tensor, "r w"]) -> Float[Tensor, "r k d"]:
        return self.norm(self.proj(face).unflatten(-1, (self.tokens, -1)))


class FaceProjector(FaceTokens):
    """Identity tokens of a face embedding (FaceID)."""

    def forward(self, face: Float[Tensor, "r w"]) -> Float[Tensor, "r k d"]:
        return self.from_face(face)


class FacePlusProjector(FaceTokens):
    """Identity tokens of a face embedding, refined by looking at the picture (FaceID-Plus)."""

    def __init__(self, config: AdapterConfig, operations: Any = nn) -> None:
        assert config.face_width is not None
        assert config.resampler is not None
        super().__init__(config.face_width, config.cross_width, config.tokens, operations)
        self.perceiver_resampler = Perceiver(config.resampler, config.cross_width, operations)
        self.shortcut = config.shortcut

    def forward(
        self, face: Float[Tensor, "r w"], clip: Float[Tensor, "r t c"], shortcut_scale: int | float = 1.0
    ) -> Float[Tensor, "r k d"]:
        """`shortcut_scale`: the weight of the picture in addition to the face; version 1 has none."""
        tokens = self.from_face(face)
        refined = self.perceiver_resampler.refine(tokens, clip)
        return tokens + shortcut_scale * refined if self.shortcut else refined


class KeysAndValues(nn.Module):
    """The projections of one cross-attention layer."""

    def __init__(self, cross_width: int, width: int, operations: Any = nn) -> None:
        super().__init__()
        self.to_k_ip = operations.Linear(cross_width, width, bias=False)
        self.to_v_ip = operations.Linear(cross_width, width, bias=False)

    def forward(self, tokens: Float[Tensor, "r k c"]) -> tuple[Float[Tensor, "r k d"], Float[Tensor, "r k d"]]:
        """Keys and values of identity tokens. No noise level is in them, so a sampling makes them once."""
        return self.to_k_ip(tokens), self.to_v_ip(tokens)


class Injector(nn.Module):
    """An adapter's networks: `image_proj`, and per cross-attention layer its keys and values.

    Args:
        config: The sizes.
        operations: Where LayerNorm and Linear come from; ComfyUI has its own.
    """

    def __init__(self, config: AdapterConfig, operations: Any = nn) -> None:
        super().__init__()
        self.config = config
        self.image_proj = _projector(config, operations)
        self.ip_adapter = nn.ModuleDict(
            {
                str(2 * index + 1): KeysAndValues(config.cross_width, width, operations)
                for index, width in enumerate(config.layer_widths)
            }
        )

    def layer(self, number: int) -> KeysAndValues:
        """The projections under this number, odd, as `adapter_file.number_layers` counts."""
        layer = self.ip_adapter[str(number)]
        assert isinstance(layer, KeysAndValues)
        return layer

    def identity_tokens(
        self, features: ReferenceFeatures, shortcut_scale: int | float = 1.0
    ) -> tuple[Float[Tensor, "r k d"], Float[Tensor, "r k d"]]:
        """Tokens of every reference for the conditional rows, and as many of no reference for the unconditional ones.

        "No reference" is what the adapters were trained with: a face embedding of zeros, and `blank_clip`.

        Args:
            features: What the adapter's kind needs (see `AdapterConfig`); on its device, in the dtype to work in.
            shortcut_scale: For FaceID-Plus v2, how much of the picture is added to the face, 0 or more.

        Raises:
            ValueError: If features are missing, or are not of the width that the adapter reads.
        """
        self._check(features)
        clip, blank, face = features.clip, features.blank_clip, features.face
        no_face = None if face is None else torch.zeros_like(face[:1])
        tokens = self._project(clip, face, shortcut_scale)
        return tokens, self._project(blank, no_face, shortcut_scale).expand_as(tokens)

    def _project(self, clip: Tensor | None, face: Tensor | None, shortcut_scale: int | float) -> Tensor:
        if self.config.face_width is None:
            return self.image_proj(clip)
        if self.config.resampler is None:
            return self.image_proj(face)
        return self.image_proj(face, clip, shortcut_scale)

    def _check(self, features: ReferenceFeatures) -> None:
        resampler = self.config.resampler
        if resampler is not None:
            encoder = "Connect Load CLIP Vision to Face Features"
            self._check_one("hidden states of an image encoder", features.clip, resampler.clip_width, encoder)
            self._check_one("hidden states of a blank picture", features.blank_clip, resampler.clip_width, encoder)
        if self.config.face_width is not None:
            recogniser = "Choose face_models in Face Features (plus-face adapters need none)"
            self._check_one("face embeddings", features.face, self.config.face_width, recogniser)

    def _check_one(self, what: str, found: Tensor | None, width: int, remedy: str) -> None:
        if found is None:
            raise ValueError(
                f"A {self.config.kind} adapter needs {what} ({width} wide), and none were given. {remedy}."
            )
        if found.shape[-1] != width:
            hint = " CLIP ViT-H has 1280, CLIP ViT-bigG 1664, CLIP ViT-L 1024." if "image" in what else ""
            raise ValueError(
                f"The {what} are {found.shape[-1]} wide; this {self.config.kind} adapter reads {width}. Use the model "
                f"it was trained with.{hint}"
            )


def decoupled_attention(
    text: Float[Tensor, "n l d"],
    q: Float[Tensor, "n l d"],
    characters: Sequence[tuple[Float[Tensor, "n _ d"], Float[Tensor, "n _ d"], Float[Tensor, "n l"] | None]],
    heads: int,
    scale: int | float,
    attend: Attend = plain_attention,
) -> Float[Tensor, "n l d"]:
    """Add attention to identity tokens to attention to the prompt (Storynizor, equation 13).

    Z' = Z + scale * sum_j M_j Attn(Q, K_j, V_j). The sum and the masks are ours: several characters in one picture
    each keep their own face where their mask is.

    Args:
        text: Z, the layer's own cross-attention, before its output projection. At scale 0 it is returned as it is.
        q: The layer's queries.
        characters: For each the keys and values of its tokens (`KeysAndValues`), one set per row, and its mask in
            [0, 1] on the layer's grid (None: everywhere). A row that a character is not in has a mask of zeros.
        heads: The layer's number of attention heads.
        scale: The adapter's weight; 1 is as trained.
        attend: The host's attention.
    """
    if scale == 0:
        return text
    for k, v, mask in characters:
        found = attend(q, k, v, heads)
        text = text + scale * (found if mask is None else mask.to(q).unsqueeze(-1) * found)
    return text


def _feed_forward(width: int, operations: Any) -> nn.Sequential:
    return nn.Sequential(
        operations.LayerNorm(width),
        operations.Linear(width, _FEED_FORWARD * width, bias=False),
        nn.GELU(),
        operations.Linear(_FEED_FORWARD * width, width, bias=False),
    )


def _projector(config: AdapterConfig, operations: Any) -> nn.Module:
    if config.face_width is None:
        assert config.resampler is not None
        return Resampler(config.resampler, config.cross_width, config.tokens, operations)
    if config.resampler is None:
        return FaceProjector(config.face_width, config.cross_width, config.tokens, operations)
    return FacePlusProjector(config, operations)
