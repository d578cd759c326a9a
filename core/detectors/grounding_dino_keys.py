"""GroundingDINO's file: which architecture its tensors have, and what transformers calls them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import isqrt

from torch import Tensor

from ..state_dict import count_parts, shape_of
from .key_mapping import Rules

FILE_NAMES = "groundingdino_swint_ogc.pth or groundingdino_swinb_cogcoor.pth"

# In some files, used by neither implementation: the labels of the denoising training and an index BERT computes.
UNUSED = ("label_enc.", "bert.embeddings.position_ids")

# No shape tells these apart from their neighbours; all published files have them.
ATTENTION_HEADS = 8
TEXT_HEAD_WIDTH = 64


@dataclass(frozen=True)
class SwinArchitecture:
    """The image backbone. `stages` counts from 0 and names those whose features are used."""

    patch: int
    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int
    mlp_ratio: float
    stages: tuple[int, ...]


@dataclass(frozen=True)
class BertArchitecture:
    """The text encoder."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    feed_forward: int
    positions: int
    types: int


@dataclass(frozen=True)
class GroundingDinoArchitecture:
    """Everything that is needed to build the network around a file."""

    swin: SwinArchitecture
    bert: BertArchitecture
    width: int
    queries: int
    levels: int
    points: int
    encoder_layers: int
    decoder_layers: int
    feed_forward: int


def architecture_of(state: Mapping[str, Tensor], name: str = "The file") -> GroundingDinoArchitecture:
    """Read the architecture off the shapes.

    Args:
        state: What the file holds.
        name: What messages call the file.

    Raises:
        ValueError: If a tensor it needs is missing, or its shape is impossible.
    """
    shape = partial(shape_of, state, name=name)
    levels = count_parts(state, "input_proj.", name)
    offsets, width = shape("transformer.encoder.layers.0.self_attn.sampling_offsets.weight", 2)
    return GroundingDinoArchitecture(
        swin=_swin(state, name),
        bert=_bert(state, name),
        width=width,
        queries=shape("transformer.tgt_embed.weight", 2)[0],
        levels=levels,
        points=offsets // (ATTENTION_HEADS * levels * 2),
        encoder_layers=count_parts(state, "transformer.encoder.layers.", name),
        decoder_layers=count_parts(state, "transformer.decoder.layers.", name),
        feed_forward=shape("transformer.encoder.layers.0.linear1.weight", 2)[0],
    )


def _swin(state: Mapping[str, Tensor], name: str) -> SwinArchitecture:
    shape = partial(shape_of, state, name=name)
    width, _, patch, _ = shape("backbone.0.patch_embed.proj.weight", 4)
    stages = range(count_parts(state, "backbone.0.layers.", name))
    tables = [shape(f"backbone.0.layers.{i}.blocks.0.attn.relative_position_bias_table", 2) for i in stages]
    return SwinArchitecture(
        patch=patch,
        width=width,
        depths=tuple(count_parts(state, f"backbone.0.layers.{i}.blocks.", name) for i in stages),
        heads=tuple(heads for _, heads in tables),
        window=(isqrt(tables[0][0]) + 1) // 2,
        mlp_ratio=shape("backbone.0.layers.0.blocks.0.mlp.fc1.weight", 2)[0] / width,
        stages=tuple(i for i in stages if f"backbone.0.norm{i}.weight" in state),
    )


def _bert(state: Mapping[str, Tensor], name: str) -> BertArchitecture:
    shape = partial(shape_of, state, name=name)
    vocabulary, width = shape("bert.embeddings.word_embeddings.weight", 2)
    return BertArchitecture(
        vocabulary=vocabulary,
        width=width,
        layers=count_parts(state, "bert.encoder.layer.", name),
        heads=max(width // TEXT_HEAD_WIDTH, 1),
        feed_forward=shape("bert.encoder.layer.0.intermediate.dense.weight", 2)[0],
        positions=shape("bert.embeddings.position_embeddings.weight", 2)[0],
        types=shape("bert.embeddings.token_type_embeddings.weight", 2)[0],
    )


_SWIN = "model.backbone.conv_encoder.model"
_BLOCK = rf"{_SWIN}.encoder.layers.\1.blocks.\2"
_IMAGE = r"model.encoder.layers.\1.deformable_layer"
_TEXT = r"model.encoder.layers.\1.text_enhancer_layer"
_FUSION = r"model.encoder.layers.\1.fusion_layer"
_DECODER = r"model.decoder.layers.\1"

# The names transformers 4 uses, which are also those of the files on the hub; transformers 5 renames them on loading.
TRANSFORMERS_NAMES: Rules = (
    # image backbone
    (r"backbone\.0\.patch_embed\.proj\.(.+)", rf"{_SWIN}.embeddings.patch_embeddings.projection.\1"),
    (r"backbone\.0\.patch_embed\.norm\.(.+)", rf"{_SWIN}.embeddings.norm.\1"),
    (r"backbone\.0\.layers\.(\d+)\.blocks\.(\d+)\.norm1\.(.+)", rf"{_BLOCK}.layernorm_before.\3"),
    (r"backbone\.0\.layers\.(\d+)\.blocks\.(\d+)\.norm2\.(.+)", rf"{_BLOCK}.layernorm_after.\3"),
    (r"backbone\.0\.layers\.(\d+)\.blocks\.(\d+)\.attn\.qkv\.(.+)", rf"{_BLOCK}.attention.self.{{}}.\3"),
    (r"backbone\.0\.layers\.(\d+)\.blocks\.(\d+)\.attn\.proj\.(.+)", rf"{_BLOCK}.attention.output.dense.\3"),
    (r"backbone\.0\.layers\.(\d+)\.blocks\.(\d+)\.attn\.(relative_position_.+)", rf"{_BLOCK}.attention.self.\3"),
    (r"backbone\.0\.layers\.(\d+)\.blocks\.(\d+)\.mlp\.fc1\.(.+)", rf"{_BLOCK}.intermediate.dense.\3"),
    (r"backbone\.0\.layers\.(\d+)\.blocks\.(\d+)\.mlp\.fc2\.(.+)", rf"{_BLOCK}.output.dense.\3"),
    (r"backbone\.0\.layers\.(\d+)\.downsample\.(.+)", rf"{_SWIN}.encoder.layers.\1.downsample.\2"),
    *((rf"backbone\.0\.norm{i}\.(.+)", rf"{_SWIN}.hidden_states_norms.stage{i + 1}.\1") for i in range(4)),
    (r"input_proj\.(.+)", r"model.input_proj_vision.\1"),
    # text encoder
    (r"bert\.(.+)", r"model.text_backbone.\1"),
    (r"feat_map\.(.+)", r"model.text_projection.\1"),
    # encoder: image layers, text layers and what fuses the two
    (r"transformer\.level_embed", "model.level_embed"),
    (r"transformer\.encoder\.layers\.(\d+)\.self_attn\.(.+)", rf"{_IMAGE}.self_attn.\2"),
    (r"transformer\.encoder\.layers\.(\d+)\.norm1\.(.+)", rf"{_IMAGE}.self_attn_layer_norm.\2"),
    (r"transformer\.encoder\.layers\.(\d+)\.linear(\d)\.(.+)", rf"{_IMAGE}.fc\2.\3"),
    (r"transformer\.encoder\.layers\.(\d+)\.norm2\.(.+)", rf"{_IMAGE}.final_layer_norm.\2"),
    (
        r"transformer\.encoder\.text_layers\.(\d+)\.self_attn\.in_proj_(.+)",
        rf"{_TEXT}.self_attn.{{}}.\2",
    ),
    (
        r"transformer\.encoder\.text_layers\.(\d+)\.self_attn\.out_proj\.(.+)",
        rf"{_TEXT}.self_attn.out_proj.\2",
    ),
    (r"transformer\.encoder\.text_layers\.(\d+)\.linear(\d)\.(.+)", rf"{_TEXT}.fc\2.\3"),
    (r"transformer\.encoder\.text_layers\.(\d+)\.norm1\.(.+)", rf"{_TEXT}.layer_norm_before.\2"),
    (r"transformer\.encoder\.text_layers\.(\d+)\.norm2\.(.+)", rf"{_TEXT}.layer_norm_after.\2"),
    (r"transformer\.encoder\.fusion_layers\.(\d+)\.gamma_v", rf"{_FUSION}.vision_param"),
    (r"transformer\.encoder\.fusion_layers\.(\d+)\.gamma_l", rf"{_FUSION}.text_param"),
    (r"transformer\.encoder\.fusion_layers\.(\d+)\.layer_norm_v\.(.+)", rf"{_FUSION}.layer_norm_vision.\2"),
    (r"transformer\.encoder\.fusion_layers\.(\d+)\.layer_norm_l\.(.+)", rf"{_FUSION}.layer_norm_text.\2"),
    (r"transformer\.encoder\.fusion_layers\.(\d+)\.attn\.(.*)v_proj\.(.+)", rf"{_FUSION}.attn.\2vision_proj.\3"),
    (r"transformer\.encoder\.fusion_layers\.(\d+)\.attn\.(.*)l_proj\.(.+)", rf"{_FUSION}.attn.\2text_proj.\3"),
    # queries
    (r"transformer\.tgt_embed\.(.+)", r"model.query_position_embeddings.\1"),
    (r"transformer\.(enc_output(?:_norm)?)\.(.+)", r"model.\1.\2"),
    (r"transformer\.enc_out_bbox_embed\.(.+)", r"model.encoder_output_bbox_embed.\1"),
    # decoder
    (r"transformer\.decoder\.layers\.(\d+)\.self_attn\.in_proj_(.+)", rf"{_DECODER}.self_attn.{{}}.\2"),
    (r"transformer\.decoder\.layers\.(\d+)\.self_attn\.out_proj\.(.+)", rf"{_DECODER}.self_attn.out_proj.\2"),
    (r"transformer\.decoder\.layers\.(\d+)\.norm2\.(.+)", rf"{_DECODER}.self_attn_layer_norm.\2"),
    (r"transformer\.decoder\.layers\.(\d+)\.ca_text\.in_proj_(.+)", rf"{_DECODER}.encoder_attn_text.{{}}.\2"),
    (r"transformer\.decoder\.layers\.(\d+)\.ca_text\.out_proj\.(.+)", rf"{_DECODER}.encoder_attn_text.out_proj.\2"),
    (r"transformer\.decoder\.layers\.(\d+)\.catext_norm\.(.+)", rf"{_DECODER}.encoder_attn_text_layer_norm.\2"),
    (r"transformer\.decoder\.layers\.(\d+)\.cross_attn\.(.+)", rf"{_DECODER}.encoder_attn.\2"),
    (r"transformer\.decoder\.layers\.(\d+)\.norm1\.(.+)", rf"{_DECODER}.encoder_attn_layer_norm.\2"),
    (r"transformer\.decoder\.layers\.(\d+)\.linear(\d)\.(.+)", rf"{_DECODER}.fc\2.\3"),
    (r"transformer\.decoder\.layers\.(\d+)\.norm3\.(.+)", rf"{_DECODER}.final_layer_norm.\2"),
    (r"transformer\.decoder\.norm\.(.+)", r"model.decoder.layer_norm.\1"),
    (r"transformer\.decoder\.ref_point_head\.(.+)", r"model.decoder.reference_points_head.\1"),
    (r"transformer\.decoder\.bbox_embed\.(.+)", r"model.decoder.bbox_embed.\1"),
)
