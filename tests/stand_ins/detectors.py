"""Tiny random GroundingDINO and SAM files in their authors' format, and a tokenizer: real loading, useless answers."""

import json
from pathlib import Path

import torch

from tests.stand_ins.weights import Shapes, conv, join, linear, norm, random_weights

WIDTH = 256  # fixed in the code of GroundingDINO
QUERIES = 24
LEVELS = 4
POINTS = 2
HEADS = 8
FEED_FORWARD = 64
PATCH = 32
WINDOW = 4
SWIN_WIDTH = 8
SWIN_HEADS = (1, 2, 2)
SWIN_DEPTHS = (1, 2, 1)
BERT_WIDTH = 16
BERT_FEED_FORWARD = 24
POSITIONS = 64

SAM_PATCH = 8
SAM_GRID = 8
SAM_WIDTH = 24
SAM_HEAD_WIDTH = 12
SAM_WINDOW = 3
SAM_PROMPT_WIDTH = 32
SAM_FEED_FORWARD = 40
SAM_MASK_CHANNELS = 8

WORDS = """a an the of in on with and old young tall woman man girl boy person child people lady gentleman baby teenager
grandmother grandfather mother father king queen princess prince knight wizard witch doctor teacher chef artist pirate
robot astronaut dog cat horse bird dragon rabbit fox bear""".split()


def write_tiny_grounding_dino(path: Path, seed: int = 0) -> None:
    """Write a GroundingDINO of some 1.5 million parameters with 24 queries."""
    torch.save({"model": grounding_dino_weights(seed)}, path)


def write_tiny_sam(path: Path, seed: int = 0) -> None:
    """Write a SAM for inputs of 64 x 64 pixels."""
    torch.save(sam_weights(seed), path)


def write_tiny_bert_tokenizer(folder: Path) -> None:
    """Write a vocabulary of whole words and single letters whose special tokens have the numbers of the real one."""
    folder.mkdir(parents=True, exist_ok=True)
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    entries = [special.get(i, f"[unused{i}]") for i in range(1030)]
    entries += [*letters, *(f"##{letter}" for letter in letters), *(word for word in WORDS if len(word) > 1)]
    (folder / "vocab.txt").write_text("\n".join(entries) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "model_max_length": 512}))


def vocabulary_size() -> int:
    return 1030 + 2 * 36 + sum(len(word) > 1 for word in WORDS)


def grounding_dino_weights(seed: int) -> dict[str, torch.Tensor]:
    weights = random_weights(grounding_dino_shapes(), seed, torch.float32)
    # Scores that are neither all 0 nor all 1, boxes one can see, and an image that matters to the text and back.
    weights["transformer.decoder.norm.weight"] *= 0.06
    weights |= {
        f"{head}.layers.2.bias": torch.tensor([0.0, 0.0, 1.0, 1.0])
        for head in ("bbox_embed.0", "transformer.enc_out_bbox_embed")
    }
    weights |= {key: value + 0.5 for key, value in weights.items() if ".gamma_" in key}
    for layer in range(2):
        # The authors' network has one box head under many names.
        for part in [key for key in weights if key.startswith("bbox_embed.0.")]:
            end = part.removeprefix("bbox_embed.0.")
            weights[f"bbox_embed.{layer}.{end}"] = weights[part]
            weights[f"transformer.decoder.bbox_embed.{layer}.{end}"] = weights[part]
    for key in [key for key in weights if key.endswith("relative_position_index")]:
        weights[key] = relative_positions(WINDOW)
    return weights


def relative_positions(window: int) -> torch.Tensor:
    """Swin's row of the bias table for every pair of places in a window."""
    places = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    apart = places[:, None] - places[None] + window - 1
    return apart[..., 0] * (2 * window - 1) + apart[..., 1]


def grounding_dino_shapes() -> Shapes:
    decoder = [_decoder_layer(f"transformer.decoder.layers.{i}") for i in range(2)]
    box_heads = ["bbox_embed.0", "bbox_embed.1", "transformer.enc_out_bbox_embed"]
    box_heads += [f"transformer.decoder.bbox_embed.{i}" for i in range(2)]
    return join(
        _swin(),
        _bert(),
        _encoder_layer("transformer.encoder.{}.0"),
        *decoder,
        *(_perceptron(name, WIDTH, WIDTH, 4) for name in box_heads),
        {"transformer.level_embed": (LEVELS, WIDTH), "transformer.tgt_embed.weight": (QUERIES, WIDTH)},
        linear("transformer.enc_output", WIDTH, WIDTH),
        norm("transformer.enc_output_norm", WIDTH),
        norm("transformer.decoder.norm", WIDTH),
        linear("transformer.decoder.ref_point_head.layers.0", 2 * WIDTH, WIDTH),
        linear("transformer.decoder.ref_point_head.layers.1", WIDTH, WIDTH),
        linear("feat_map", BERT_WIDTH, WIDTH),
    )


def _swin() -> Shapes:
    widths = [SWIN_WIDTH * 2**stage for stage in range(3)]
    parts = [conv("backbone.0.patch_embed.proj", 3, SWIN_WIDTH, PATCH), norm("backbone.0.patch_embed.norm", SWIN_WIDTH)]
    for stage, (width, depth, heads) in enumerate(zip(widths, SWIN_DEPTHS, SWIN_HEADS, strict=True)):
        name = f"backbone.0.layers.{stage}"
        parts += [_swin_block(f"{name}.blocks.{block}", width, heads) for block in range(depth)]
        if stage < 2:
            parts += [linear(f"{name}.downsample.reduction", 4 * width, 2 * width, bias=False)]
            parts += [norm(f"{name}.downsample.norm", 4 * width)]
    parts += [norm(f"backbone.0.norm{stage}", widths[stage]) for stage in (1, 2)]
    for level, (n_in, size) in enumerate([(widths[1], 1), (widths[2], 1), (widths[2], 3), (WIDTH, 3)]):
        parts += [conv(f"input_proj.{level}.0", n_in, WIDTH, size), norm(f"input_proj.{level}.1", WIDTH)]
    return join(*parts)


def _swin_block(name: str, width: int, heads: int) -> Shapes:
    return join(
        norm(f"{name}.norm1", width),
        {f"{name}.attn.relative_position_bias_table": ((2 * WINDOW - 1) ** 2, heads)},
        {f"{name}.attn.relative_position_index": (WINDOW**2, WINDOW**2)},
        linear(f"{name}.attn.qkv", width, 3 * width),
        linear(f"{name}.attn.proj", width, width),
        norm(f"{name}.norm2", width),
        linear(f"{name}.mlp.fc1", width, 4 * width),
        linear(f"{name}.mlp.fc2", 4 * width, width),
    )


def _bert() -> Shapes:
    embeddings, layer = "bert.embeddings", "bert.encoder.layer.0"
    sizes = {"word": vocabulary_size(), "position": POSITIONS, "token_type": 2}
    return join(
        {f"{embeddings}.{name}_embeddings.weight": (size, BERT_WIDTH) for name, size in sizes.items()},
        norm(f"{embeddings}.LayerNorm", BERT_WIDTH),
        *(linear(f"{layer}.attention.self.{part}", BERT_WIDTH, BERT_WIDTH) for part in ("query", "key", "value")),
        linear(f"{layer}.attention.output.dense", BERT_WIDTH, BERT_WIDTH),
        norm(f"{layer}.attention.output.LayerNorm", BERT_WIDTH),
        linear(f"{layer}.intermediate.dense", BERT_WIDTH, BERT_FEED_FORWARD),
        linear(f"{layer}.output.dense", BERT_FEED_FORWARD, BERT_WIDTH),
        norm(f"{layer}.output.LayerNorm", BERT_WIDTH),
        linear("bert.pooler.dense", BERT_WIDTH, BERT_WIDTH),
    )


def _encoder_layer(name: str) -> Shapes:
    image, text, fusion = (name.format(part) for part in ("layers", "text_layers", "fusion_layers"))
    both = FEED_FORWARD // 2
    inward = [linear(f"{fusion}.attn.{part}", WIDTH, both) for part in ("v_proj", "l_proj")]
    inward += [linear(f"{fusion}.attn.values_{part}", WIDTH, both) for part in ("v_proj", "l_proj")]
    return join(
        _deformable(f"{image}.self_attn"),
        _feed_forward(image, FEED_FORWARD),
        *(norm(f"{image}.norm{i}", WIDTH) for i in (1, 2)),
        _attention(f"{text}.self_attn"),
        _feed_forward(text, both),
        *(norm(f"{text}.norm{i}", WIDTH) for i in (1, 2)),
        {f"{fusion}.gamma_v": (WIDTH,), f"{fusion}.gamma_l": (WIDTH,)},
        *(norm(f"{fusion}.layer_norm_{part}", WIDTH) for part in "vl"),
        *inward,
        *(linear(f"{fusion}.attn.out_{part}", both, WIDTH) for part in ("v_proj", "l_proj")),
    )


def _decoder_layer(name: str) -> Shapes:
    return join(
        _deformable(f"{name}.cross_attn"),
        _attention(f"{name}.ca_text"),
        _attention(f"{name}.self_attn"),
        _feed_forward(name, FEED_FORWARD),
        *(norm(f"{name}.{part}", WIDTH) for part in ("norm1", "catext_norm", "norm2", "norm3")),
    )


def _deformable(name: str) -> Shapes:
    return join(
        linear(f"{name}.sampling_offsets", WIDTH, HEADS * LEVELS * POINTS * 2),
        linear(f"{name}.attention_weights", WIDTH, HEADS * LEVELS * POINTS),
        linear(f"{name}.value_proj", WIDTH, WIDTH),
        linear(f"{name}.output_proj", WIDTH, WIDTH),
    )


def _attention(name: str) -> Shapes:
    stacked = {f"{name}.in_proj_weight": (3 * WIDTH, WIDTH), f"{name}.in_proj_bias": (3 * WIDTH,)}
    return join(stacked, linear(f"{name}.out_proj", WIDTH, WIDTH))


def _feed_forward(name: str, width: int) -> Shapes:
    return join(linear(f"{name}.linear1", WIDTH, width), linear(f"{name}.linear2", width, WIDTH))


def _perceptron(name: str, n_in: int, width: int, n_out: int) -> Shapes:
    sizes = [(n_in, width), (width, width), (width, n_out)]
    return join(*(linear(f"{name}.layers.{i}", *size) for i, size in enumerate(sizes)))


def sam_weights(seed: int) -> dict[str, torch.Tensor]:
    return random_weights(sam_shapes(), seed, torch.float32)


def sam_shapes() -> Shapes:
    width, encoder = SAM_PROMPT_WIDTH, "image_encoder"
    return join(
        {f"{encoder}.pos_embed": (1, SAM_GRID, SAM_GRID, SAM_WIDTH)},
        conv(f"{encoder}.patch_embed.proj", 3, SAM_WIDTH, SAM_PATCH),
        *(_sam_block(f"{encoder}.blocks.{i}", span) for i, span in enumerate((SAM_WINDOW, SAM_GRID))),
        conv(f"{encoder}.neck.0", SAM_WIDTH, width, 1, bias=False),
        norm(f"{encoder}.neck.1", width),
        conv(f"{encoder}.neck.2", width, width, 3, bias=False),
        norm(f"{encoder}.neck.3", width),
        _sam_prompts(),
        _sam_decoder(),
    )


def _sam_block(name: str, span: int) -> Shapes:
    return join(
        norm(f"{name}.norm1", SAM_WIDTH),
        {f"{name}.attn.rel_pos_{axis}": (2 * span - 1, SAM_HEAD_WIDTH) for axis in "hw"},
        linear(f"{name}.attn.qkv", SAM_WIDTH, 3 * SAM_WIDTH),
        linear(f"{name}.attn.proj", SAM_WIDTH, SAM_WIDTH),
        norm(f"{name}.norm2", SAM_WIDTH),
        linear(f"{name}.mlp.lin1", SAM_WIDTH, SAM_FEED_FORWARD),
        linear(f"{name}.mlp.lin2", SAM_FEED_FORWARD, SAM_WIDTH),
    )


def _sam_prompts() -> Shapes:
    name, width, channels = "prompt_encoder", SAM_PROMPT_WIDTH, SAM_MASK_CHANNELS
    points = {f"{name}.point_embeddings.{i}.weight": (1, width) for i in range(4)}
    return join(
        {f"{name}.pe_layer.positional_encoding_gaussian_matrix": (2, width // 2)},
        points,
        {f"{name}.not_a_point_embed.weight": (1, width), f"{name}.no_mask_embed.weight": (1, width)},
        conv(f"{name}.mask_downscaling.0", 1, channels // 4, 2),
        norm(f"{name}.mask_downscaling.1", channels // 4),
        conv(f"{name}.mask_downscaling.3", channels // 4, channels, 2),
        norm(f"{name}.mask_downscaling.4", channels),
        conv(f"{name}.mask_downscaling.6", channels, width, 1),
    )


def _sam_decoder() -> Shapes:
    name, width = "mask_decoder", SAM_PROMPT_WIDTH
    transformer = f"{name}.transformer"
    upscaling = {f"{name}.output_upscaling.0.weight": (width, width // 4, 2, 2)}
    upscaling |= {f"{name}.output_upscaling.3.weight": (width // 4, width // 8, 2, 2)}
    upscaling |= {f"{name}.output_upscaling.0.bias": (width // 4,), f"{name}.output_upscaling.3.bias": (width // 8,)}
    return join(
        *(_two_way_block(f"{transformer}.layers.{i}") for i in range(2)),
        _sam_attention(f"{transformer}.final_attn_token_to_image", width // 2),
        norm(f"{transformer}.norm_final_attn", width),
        {f"{name}.iou_token.weight": (1, width), f"{name}.mask_tokens.weight": (4, width)},
        upscaling,
        norm(f"{name}.output_upscaling.1", width // 4),
        *(_perceptron(f"{name}.output_hypernetworks_mlps.{i}", width, width, width // 8) for i in range(4)),
        _perceptron(f"{name}.iou_prediction_head", width, 20, 4),
    )


def _two_way_block(name: str) -> Shapes:
    width = SAM_PROMPT_WIDTH
    crossed = ("cross_attn_token_to_image", "cross_attn_image_to_token")
    return join(
        _sam_attention(f"{name}.self_attn", width),
        *(_sam_attention(f"{name}.{part}", width // 2) for part in crossed),
        *(norm(f"{name}.norm{i}", width) for i in (1, 2, 3, 4)),
        linear(f"{name}.mlp.lin1", width, SAM_FEED_FORWARD),
        linear(f"{name}.mlp.lin2", SAM_FEED_FORWARD, width),
    )


def _sam_attention(name: str, inner: int) -> Shapes:
    width = SAM_PROMPT_WIDTH
    inward = (linear(f"{name}.{part}_proj", width, inner) for part in "qkv")
    return join(*inward, linear(f"{name}.out_proj", inner, width))
