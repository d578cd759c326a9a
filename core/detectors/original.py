"""The engine `original`: the authors' own packages, groundingdino-py and segment-anything."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..quoting import printable
from ..shapes import Float
from ..state_dict import load_exactly, sizes_from
from . import grounding_dino, grounding_dino_keys, sam, sam_keys
from .files import read_state_dict, require_package
from .key_mapping import without

PURPOSE = "the engine original (choose transformers to do without)"


def load_grounding_dino(path: Path, tokenizer: Any) -> tuple[torch.nn.Module, grounding_dino.Forward]:
    """Build the authors' GroundingDINO around the file.

    Raises:
        ModuleNotFoundError: If groundingdino or something it needs is not installed.
        ValueError: If the file is no GroundingDINO, or not all of it.
    """
    state = without(read_state_dict(path, "GroundingDINO"), grounding_dino_keys.UNUSED)
    with require_package("groundingdino-py", PURPOSE):
        package = import_module("groundingdino.models.GroundingDINO.groundingdino")
    name = printable(str(path))
    architecture = grounding_dino_keys.architecture_of(state, name)
    # The constructor downloads BERT and its tokenizer, and wraps BERT in a class that transformers 5 broke.
    with sizes_from(name, "GroundingDINO"):
        bert = _text_encoder(architecture.bert)
    with (
        sizes_from(name, "GroundingDINO"),
        _replaced(package.get_tokenlizer, "get_tokenlizer", lambda _: tokenizer),
        _replaced(package.get_tokenlizer, "get_pretrained_language_model", lambda _: bert),
        _replaced(package, "BertModelWarper", lambda bert_model: bert_model),
    ):
        module = _grounding_dino(package, architecture)
    load_exactly(module, state, name, "GroundingDINO")
    module.eval()
    return module, _run_grounding_dino


def load_sam(path: Path) -> tuple[torch.nn.Module, sam.Forward, int]:
    """Build the authors' SAM around the file; also the side of its input in pixels.

    Raises:
        ModuleNotFoundError: If segment_anything or something it needs is not installed.
        ValueError: If the file is no SAM, or not all of it.
    """
    state = read_state_dict(path, "SAM")
    with require_package("segment-anything", PURPOSE):
        modeling = import_module("segment_anything.modeling")
    name = printable(str(path))
    with sizes_from(name, "SAM"):
        architecture = sam_keys.architecture_of(state, name)
        module = _sam(modeling, architecture)
    load_exactly(module, state, name, "SAM")
    module.eval()
    return module, _run_sam, architecture.image


@contextmanager
def _replaced(owner: ModuleType, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _text_encoder(architecture: grounding_dino_keys.BertArchitecture) -> torch.nn.Module:
    """BERT without weights, that takes the (b t t) masks with which GroundingDINO keeps phrases apart."""
    from transformers import BertModel

    bert = BertModel(grounding_dino.bert_config(architecture))
    bert.register_forward_pre_hook(_add_head_axis, with_kwargs=True)
    return bert


def _add_head_axis(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, kwargs | {"attention_mask": kwargs["attention_mask"][:, None]}


def _grounding_dino(package: ModuleType, architecture: grounding_dino_keys.GroundingDinoArchitecture) -> Any:
    parts = import_module("groundingdino.models.GroundingDINO.backbone")
    swin = architecture.swin
    image_encoder = parts.swin_transformer.SwinTransformer(
        patch_size=swin.patch,
        embed_dim=swin.width,
        depths=list(swin.depths),
        num_heads=list(swin.heads),
        window_size=swin.window,
        mlp_ratio=swin.mlp_ratio,
        out_indices=swin.stages,
    )
    positions = parts.position_encoding.PositionEmbeddingSineHW(
        architecture.width // 2, temperatureH=20, temperatureW=20, normalize=True
    )
    backbone = parts.backbone.Joiner(image_encoder, positions)
    backbone.num_channels = [image_encoder.num_features[stage] for stage in swin.stages]
    return package.GroundingDINO(
        backbone,
        _transformer(architecture),
        num_queries=architecture.queries,
        iter_update=True,
        query_dim=4,
        num_feature_levels=architecture.levels,
        nheads=grounding_dino_keys.ATTENTION_HEADS,
        two_stage_type="standard",
        two_stage_class_embed_share=False,
        two_stage_bbox_embed_share=False,
    )


def _transformer(architecture: grounding_dino_keys.GroundingDinoArchitecture) -> torch.nn.Module:
    return import_module("groundingdino.models.GroundingDINO.transformer").Transformer(
        d_model=architecture.width,
        nhead=grounding_dino_keys.ATTENTION_HEADS,
        num_queries=architecture.queries,
        num_encoder_layers=architecture.encoder_layers,
        num_decoder_layers=architecture.decoder_layers,
        dim_feedforward=architecture.feed_forward,
        return_intermediate_dec=True,
        query_dim=4,
        num_feature_levels=architecture.levels,
        enc_n_points=architecture.points,
        dec_n_points=architecture.points,
        learnable_tgt_init=True,
        two_stage_type="standard",
        embed_init_tgt=True,
        use_text_enhancer=True,
        use_fusion_layer=True,
        use_text_cross_attention=True,
        text_dropout=0.0,
        fusion_dropout=0.0,
        fusion_droppath=0.1,
    )


def _run_grounding_dino(
    module: torch.nn.Module, pixels: Float[Tensor, "3 h w"], prompt: grounding_dino.Prompt
) -> tuple[Tensor, Tensor]:
    output = module(pixels[None], captions=[prompt.text])
    return output["pred_logits"][0, :, : len(prompt.ids)], output["pred_boxes"][0]


def _sam(modeling: ModuleType, architecture: sam_keys.SamArchitecture) -> Any:
    image_encoder = modeling.ImageEncoderViT(
        img_size=architecture.image,
        patch_size=architecture.patch,
        embed_dim=architecture.width,
        depth=architecture.layers,
        num_heads=architecture.heads,
        mlp_ratio=architecture.feed_forward / architecture.width,
        out_chans=architecture.prompt_width,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=architecture.window,
        global_attn_indexes=architecture.global_layers,
    )
    prompt_encoder = modeling.PromptEncoder(
        embed_dim=architecture.prompt_width,
        image_embedding_size=(architecture.grid, architecture.grid),
        input_image_size=(architecture.image, architecture.image),
        mask_in_chans=architecture.mask_channels,
    )
    mask_decoder = modeling.MaskDecoder(
        num_multimask_outputs=architecture.masks,
        transformer=modeling.TwoWayTransformer(
            depth=architecture.decoder_layers,
            embedding_dim=architecture.prompt_width,
            num_heads=sam_keys.DECODER_HEADS,
            mlp_dim=architecture.decoder_feed_forward,
            attention_downsample_rate=architecture.attention_downsampling,
        ),
        transformer_dim=architecture.prompt_width,
        iou_head_hidden_dim=architecture.score_width,
    )
    return modeling.Sam(image_encoder, prompt_encoder, mask_decoder)


def _run_sam(module: Any, pixels: Float[Tensor, "3 side side"], boxes: Float[Tensor, "n 4"]) -> Tensor:
    sparse, dense = module.prompt_encoder(points=None, boxes=boxes, masks=None)
    coarse, _ = module.mask_decoder(
        image_embeddings=module.image_encoder(pixels[None]),
        image_pe=module.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    return coarse[:, 0]
