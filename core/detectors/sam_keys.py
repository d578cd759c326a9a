"""SAM's file: which architecture its tensors have, and what transformers calls them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ..state_dict import count_parts, shape_of
from .key_mapping import Rules

FILE_NAMES = "sam_vit_h_4b8939.pth, sam_vit_l_0b3195.pth or sam_vit_b_01ec64.pth"

# No shape tells it; all published files have it.
DECODER_HEADS = 8


@dataclass(frozen=True)
class SamArchitecture:
    """Everything that is needed to build the network around a file. `image` is the side of its input in pixels."""

    image: int
    patch: int
    width: int
    layers: int
    heads: int
    feed_forward: int
    window: int
    global_layers: tuple[int, ...]
    prompt_width: int
    mask_channels: int
    decoder_layers: int
    decoder_feed_forward: int
    attention_downsampling: int
    masks: int
    score_width: int

    @property
    def grid(self) -> int:
        """The side of the input in patches."""
        return self.image // self.patch


def architecture_of(state: Mapping[str, Tensor], name: str = "The file") -> SamArchitecture:
    """Read the architecture off the shapes.

    Args:
        state: What the file holds.
        name: What messages call the file.

    Raises:
        ValueError: If a tensor it needs is missing, or its shape is impossible.
    """
    shape = partial(shape_of, state, name=name)
    width, _, patch, _ = shape("image_encoder.patch_embed.proj.weight", 4)
    grid = shape("image_encoder.pos_embed", 4)[1]
    layers = count_parts(state, "image_encoder.blocks.", name)
    # A block's table of relative positions has 2 n - 1 rows for attention within n x n patches.
    spans = [(shape(f"image_encoder.blocks.{i}.attn.rel_pos_h", 2)[0] + 1) // 2 for i in range(layers)]
    prompt_width = shape("prompt_encoder.no_mask_embed.weight", 2)[1]
    decoder = "mask_decoder.transformer.layers"
    return SamArchitecture(
        image=grid * patch,
        patch=patch,
        width=width,
        layers=layers,
        heads=width // shape("image_encoder.blocks.0.attn.rel_pos_h", 2)[1],
        feed_forward=shape("image_encoder.blocks.0.mlp.lin1.weight", 2)[0],
        window=min(spans),
        global_layers=tuple(i for i, span in enumerate(spans) if span == grid),
        prompt_width=prompt_width,
        mask_channels=shape("prompt_encoder.mask_downscaling.3.weight", 4)[0],
        decoder_layers=count_parts(state, f"{decoder}.", name),
        decoder_feed_forward=shape(f"{decoder}.0.mlp.lin1.weight", 2)[0],
        attention_downsampling=prompt_width // shape(f"{decoder}.0.cross_attn_token_to_image.q_proj.weight", 2)[0],
        masks=shape("mask_decoder.mask_tokens.weight", 2)[0] - 1,
        score_width=shape("mask_decoder.iou_prediction_head.layers.0.weight", 2)[0],
    )


_MLP = r"mask_decoder\.(output_hypernetworks_mlps\.\d+|iou_prediction_head)\.layers"

TRANSFORMERS_NAMES: Rules = (
    (r"image_encoder\.pos_embed", "vision_encoder.pos_embed"),
    (r"image_encoder\.patch_embed\.proj\.(.+)", r"vision_encoder.patch_embed.projection.\1"),
    (r"image_encoder\.blocks\.(\d+)\.norm(\d)\.(.+)", r"vision_encoder.layers.\1.layer_norm\2.\3"),
    (r"image_encoder\.blocks\.(.+)", r"vision_encoder.layers.\1"),
    (r"image_encoder\.neck\.0\.(.+)", r"vision_encoder.neck.conv1.\1"),
    (r"image_encoder\.neck\.1\.(.+)", r"vision_encoder.neck.layer_norm1.\1"),
    (r"image_encoder\.neck\.2\.(.+)", r"vision_encoder.neck.conv2.\1"),
    (r"image_encoder\.neck\.3\.(.+)", r"vision_encoder.neck.layer_norm2.\1"),
    (
        r"prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix",
        "prompt_encoder.shared_embedding.positional_embedding",
    ),
    (r"prompt_encoder\.point_embeddings\.(.+)", r"prompt_encoder.point_embed.\1"),
    (r"prompt_encoder\.mask_downscaling\.0\.(.+)", r"prompt_encoder.mask_embed.conv1.\1"),
    (r"prompt_encoder\.mask_downscaling\.1\.(.+)", r"prompt_encoder.mask_embed.layer_norm1.\1"),
    (r"prompt_encoder\.mask_downscaling\.3\.(.+)", r"prompt_encoder.mask_embed.conv2.\1"),
    (r"prompt_encoder\.mask_downscaling\.4\.(.+)", r"prompt_encoder.mask_embed.layer_norm2.\1"),
    (r"prompt_encoder\.mask_downscaling\.6\.(.+)", r"prompt_encoder.mask_embed.conv3.\1"),
    (
        r"mask_decoder\.transformer\.layers\.(\d+)\.norm(\d)\.(.+)",
        r"mask_decoder.transformer.layers.\1.layer_norm\2.\3",
    ),
    (r"mask_decoder\.transformer\.norm_final_attn\.(.+)", r"mask_decoder.transformer.layer_norm_final_attn.\1"),
    (r"mask_decoder\.output_upscaling\.0\.(.+)", r"mask_decoder.upscale_conv1.\1"),
    (r"mask_decoder\.output_upscaling\.1\.(.+)", r"mask_decoder.upscale_layer_norm.\1"),
    (r"mask_decoder\.output_upscaling\.3\.(.+)", r"mask_decoder.upscale_conv2.\1"),
    # The small perceptrons have three layers: in, between, out.
    (rf"{_MLP}\.0\.(.+)", r"mask_decoder.\1.proj_in.\2"),
    (rf"{_MLP}\.1\.(.+)", r"mask_decoder.\1.layers.0.\2"),
    (rf"{_MLP}\.2\.(.+)", r"mask_decoder.\1.proj_out.\2"),
)

# transformers keeps the matrix of the file's `pe_layer` twice.
PROMPT_POSITIONS = "prompt_encoder.shared_embedding.positional_embedding"
IMAGE_POSITIONS = "shared_image_embedding.positional_embedding"
