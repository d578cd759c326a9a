"""Tiny SD1.5 and SDXL models of random weights, in diffusers' folders and in single files of the original layout."""

import json
import re

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers import UNet2DConditionModel as UNet
from safetensors.torch import save_file
from story_identity.lab.toyworld.ldm_keys import unet_to_ldm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789,.-'"
SPECIAL = ["<|startoftext|>", "<|endoftext|>"]
WIDTH, SECOND_WIDTH = 32, 48  # of the text encoders; diffusers tells them apart by it
LAYERS = 2
UNET = {
    "sample_size": 8,
    "layers_per_block": 1,
    "block_out_channels": (32, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 2,
    "norm_num_groups": 32,
}
VAE = {
    "latent_channels": 4,
    "block_out_channels": (32, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 32,
}
SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def write_sd15(folder):
    """A diffusers folder; returns it."""
    torch.manual_seed(1)
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL(**VAE),
        text_encoder=CLIPTextModel(_text_config()),
        tokenizer=clip_tokenizer(folder),
        unet=UNet(**UNET, cross_attention_dim=WIDTH),
        scheduler=EulerDiscreteScheduler(**SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    return folder


def write_sdxl(folder):
    """A diffusers folder of the SDXL shape: two text encoders, pooled prompt and size conditioning; returns it."""
    torch.manual_seed(2)
    unet = UNet(
        **UNET,
        cross_attention_dim=WIDTH + SECOND_WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=SECOND_WIDTH + 6 * 8,
        transformer_layers_per_block=(1, 1),
        use_linear_projection=True,
    )
    pipe = StableDiffusionXLPipeline(
        vae=AutoencoderKL(**VAE, scaling_factor=0.13025),
        text_encoder=CLIPTextModel(_text_config()),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(SECOND_WIDTH)),
        tokenizer=clip_tokenizer(folder),
        tokenizer_2=clip_tokenizer(folder),
        unet=unet,
        scheduler=EulerDiscreteScheduler(**SCHEDULER),
    )
    pipe.save_pretrained(folder)
    return folder


def write_single_file(path, pipe):
    """A pipeline's weights in one file, named as the original code names them; returns the path."""
    unet = {key: value for key, value in pipe.unet.state_dict().items() if not key.startswith("add_embedding.")}
    state = {f"model.diffusion_model.{key}": value for key, value in unet_to_ldm(unet).items()}
    for number in (1, 2):
        for kind in ("weight", "bias"):
            if (key := f"add_embedding.linear_{number}.{kind}") in pipe.unet.state_dict():
                label = f"model.diffusion_model.label_emb.0.{2 * number - 2}.{kind}"
                state[label] = pipe.unet.state_dict()[key]
    state |= {f"first_stage_model.{key}": value for key, value in _vae_to_ldm(pipe.vae.state_dict()).items()}
    second = getattr(pipe, "text_encoder_2", None)
    root = "cond_stage_model.transformer" if second is None else "conditioner.embedders.0.transformer"
    for key, value in pipe.text_encoder.state_dict().items():
        state[f"{root}.text_model.{key.removeprefix('text_model.')}"] = value
    if second is not None:
        state |= {f"conditioner.embedders.1.model.{key}": v for key, v in _to_open_clip(second.state_dict()).items()}
    state = {key: value.contiguous() for key, value in state.items()}
    if path.suffix == ".ckpt":
        torch.save({"state_dict": state}, path)
    else:
        save_file(state, path)
    return path


def write_lora(path, unet, seed=0, rank=2):
    """A LoRA on the queries and keys of a UNet's attention, in diffusers' format; returns the path."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, module in unet.named_modules():
        if name.endswith(("to_q", "to_k")):
            state[f"unet.{name}.lora_A.weight"] = torch.randn(rank, module.in_features, generator=generator)
            state[f"unet.{name}.lora_B.weight"] = torch.randn(module.out_features, rank, generator=generator)
    save_file(state, path)
    return path


def with_ip_adapter(unet, content):
    """A UNet with an IP-Adapter on it, loaded the way users of diffusers load one; returns the UNet.

    Args:
        unet: Whose layers have the widths of the adapter's.
        content: What a .bin file of an IP-Adapter holds, a LoRA included.
    """
    nothing = dict.fromkeys(("vae", "text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    scheduler = EulerDiscreteScheduler(**SCHEDULER)
    pipe = StableDiffusionPipeline(**nothing, unet=unet, scheduler=scheduler, requires_safety_checker=False)
    pipe.load_ip_adapter(content, subfolder="", weight_name="", image_encoder_folder=None)
    return pipe.unet


def _vae_to_ldm(state):
    """Two levels, one layer each; the decoder's levels are counted the other way round."""
    renamed = {}
    for key, value in state.items():
        new = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        new = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", new)
        new = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", new)
        new = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{1 - int(m[1])}.block.{m[2]}", new)
        new = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{1 - int(m[1])}.upsample", new)
        if "mid_block.attentions.0" in new:
            new = new.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
            new = new.replace("to_out.0", "proj_out").replace("to_", "")
            value = value[:, :, None, None] if value.ndim == 2 else value
        renamed[new] = value
    return renamed


def _to_open_clip(state):
    """The second text encoder as open_clip has it: one matrix for queries, keys and values."""
    state = {key.removeprefix("text_model."): value for key, value in state.items()}
    renamed = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "text_projection": state["text_projection.weight"].T,
    }
    for kind in ("weight", "bias"):
        renamed[f"ln_final.{kind}"] = state[f"final_layer_norm.{kind}"]
        for layer in range(LAYERS):
            old, new = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
            parts = [state[f"{old}.self_attn.{part}_proj.{kind}"] for part in ("q", "k", "v")]
            renamed[f"{new}.attn.in_proj_{kind}"] = torch.cat(parts)
            renamed[f"{new}.attn.out_proj.{kind}"] = state[f"{old}.self_attn.out_proj.{kind}"]
            for theirs, ours in {"layer_norm1": "ln_1", "layer_norm2": "ln_2"}.items():
                renamed[f"{new}.{ours}.{kind}"] = state[f"{old}.{theirs}.{kind}"]
            for theirs, ours in {"fc1": "c_fc", "fc2": "c_proj"}.items():
                renamed[f"{new}.mlp.{ours}.{kind}"] = state[f"{old}.mlp.{theirs}.{kind}"]
    return renamed


def _text_config(width=WIDTH):
    return CLIPTextConfig(
        vocab_size=len(SPECIAL) + 2 * len(LETTERS),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        projection_dim=width,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def clip_tokenizer(folder):
    """CLIP's own kind, with a vocabulary of single letters: inside a word and at its end."""
    words = [*SPECIAL, *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    place = folder / "letters"
    place.mkdir(parents=True, exist_ok=True)
    (place / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (place / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(place, model_max_length=77)
