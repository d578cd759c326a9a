"""The toy world's transformer in the host, with random weights: recognised, sampled, shared, re-denoised."""

import json
import shutil
from functools import cache
from pathlib import Path

import comfy.model_base
import comfy.supported_models
import folder_paths
import torch
from families import Family, sixteen_channels
from frames import masks_noted, warnings
from frames import story as random_story
from safetensors.torch import load_file, save_file
from setting import refused
from story_identity.core.identity import Identity
from story_identity.core.layout import Layout
from story_identity.core.redenoise import ProgressiveMasks, to_latent_grid
from story_identity.core.story import Story
from story_identity.core.toyworld.flux_layout import shapes_of
from story_identity.core.toyworld.models import PREVIEW_COLOURS
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.core.toyworld.transformer import TRANSFORMER
from story_identity.core.toyworld.vocabulary import UNKNOWN
from story_identity.nodes.amsa import AMSANode, LayoutFromAttentionNode
from story_identity.nodes.host.references import with_references
from story_identity.nodes.host.shared_attention import SharedAttention, Sharing
from story_identity.nodes.host.toy_transformer import load_transformer, load_transformer_clip
from story_identity.nodes.sampling import CastNode, NoisyLatentCacheNode, RedenoiseNode
from story_identity.nodes.story import EncodeFrameNode, EncodeStoryNode
from transformer_frames import sample, written_out

import nodes
from tests.closeness import assert_close, largest_difference
from tests.stand_ins.toy_transformer import make_random_transformer

SIDE = 128
PEOPLE = [
    {"name": "Mira", "word": "woman", "description": "a woman with red hair"},
    {"name": "Tom", "word": "boy", "description": "a boy with black hair"},
]


@cache
def folder():
    return make_random_transformer(Path(folder_paths.get_temp_directory()) / "toy_transformer")


@cache
def world():
    """MODEL and CLIP; one for all checks of this file, so none may leave anything on it."""
    return load_transformer(folder(), vae=folder()), load_transformer_clip(folder())


def story(*frames):
    return Story.parse({"characters": PEOPLE, "frames": list(frames)})


def encode(text):
    return nodes.CLIPTextEncode().encode(world()[1], text)[0]


def with_reference(conditioning, seed=5, side=18):
    """The conditioning with a latent of another size than the picture's, as Reference Latent adds one."""
    random = torch.Generator().manual_seed(seed)
    return with_references(conditioning, [torch.randn(1, 16, side, side, generator=random)], "the model's own")


def draw(positive, model=None, steps=3, width=SIDE, **more):
    settings = ("euler", "simple", positive, encode(""), sixteen_channels(SIDE, width, 1))
    return nodes.KSampler().sample(model or world()[0], 1, steps, 3.0, *settings, **more)[0]["samples"]


def check_the_host_knows_it_by_its_weights_alone():
    """By the stock node too, which draws the same: nothing of the model is ours."""
    model = world()[0].model
    assert type(model.model_config) is comfy.supported_models.FluxSchnell
    assert type(model) is comfy.model_base.Flux
    assert model.model_type == comfy.model_base.ModelType.FLOW
    params = model.diffusion_model.params
    assert (params.hidden_size, params.num_heads, params.depth, params.depth_single_blocks) == (256, 2, 1, 4)
    assert (params.context_in_dim, params.vec_in_dim, params.in_channels) == (
        TOY_WORLD.text_width,
        TOY_WORLD.text_width,
        16,
    )
    held, stored = model.diffusion_model.state_dict(), load_file(folder() / "transformer.safetensors")
    assert {key: tuple(each.shape) for key, each in stored.items()} == shapes_of(TRANSFORMER.layers())
    assert len(held) == len(stored)
    assert all(torch.equal(held[key.replace("norm.scale", "norm.weight")], each) for key, each in stored.items())
    place = Path(folder_paths.get_folder_paths("diffusion_models")[0])
    place.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder() / "transformer.safetensors", place / "toy.safetensors")
    (stock,) = nodes.UNETLoader().load_unet("toy.safetensors", "default")
    positive = encode("a woman on a beach")
    assert_close(draw(positive, stock), draw(positive), 1e-2)  # in half precision, as it is stored


def check_damaged_files_are_refused_by_file_and_name():
    copy = Path(folder_paths.get_temp_directory()) / "damaged transformer"
    shutil.copytree(folder(), copy, dirs_exist_ok=True)
    path = copy / "transformer.safetensors"
    whole = load_file(path)
    for key in sorted(whole)[3::30]:
        rest = {each: value for each, value in whole.items() if each != key}
        for changed in (rest, {**rest, f"{key}x": whole[key]}, {**rest, key: whole[key].to(torch.int16)}):
            save_file(changed, path)
            refused(lambda: load_transformer(copy, vae=copy), key, "transformer.safetensors")
    path.unlink()
    refused(lambda: load_transformer(copy, vae=copy), "transformer is missing", "damaged transformer")
    (copy / PREVIEW_COLOURS).write_text(json.dumps({"factors": [[0.1, 0.2, 0.3]] * 8, "bias": [0, 0, 0]}))
    refused(lambda: load_transformer(folder(), vae=copy), "16 channels", "gives 8")


def check_previews_have_the_colours_of_the_toy_worlds_vae():
    copy = Path(folder_paths.get_temp_directory()) / "colours"
    copy.mkdir()
    factors = [[0.1 * row, 0.2, 0.3] for row in range(16)]
    (copy / PREVIEW_COLOURS).write_text(json.dumps({"factors": factors, "bias": [0.5, 0.0, 0.0]}))
    formats = [load_transformer(folder(), vae).get_model_object("latent_format") for vae in (copy, folder())]
    assert formats[0].latent_rgb_factors == factors
    assert formats[1].latent_rgb_factors != factors
    latent = torch.randn(1, 16, 4, 4)
    assert torch.equal(formats[0].process_in(latent), formats[1].process_in(latent))


def check_prompts_have_a_summary_and_the_words_for_references():
    [[text, extras]] = encode("the woman in image 1 and a boy, the boy in images 1 to 3, on a beach")
    assert text.shape == (1, TOY_WORLD.text_length, TOY_WORLD.text_width)
    assert extras["pooled_output"].shape == (1, TOY_WORLD.text_width)
    clip = world()[1]
    ids = [token for token, _ in clip.tokenize("in images 1 to 3 and image 2")["l"][0]]
    assert clip.tokenizer.clip_l.tokenizer.convert_tokens_to_ids(UNKNOWN) not in ids
    pictures = [draw(encode(words)) for words in ("a woman", "a boy")]
    assert largest_difference(*pictures) > 1e-3


def check_it_reads_reference_latents_of_any_size():
    plain = encode("the woman in image 1 waves")
    without, one, other, small = (
        draw(each) for each in (plain, with_reference(plain), with_reference(plain, 6), with_reference(plain, side=12))
    )
    assert largest_difference(without, one) > 1e-3
    assert largest_difference(one, other) > 1e-4
    assert small.shape == without.shape
    assert draw(with_reference(plain), width=192).shape == (1, 16, 16, 24)
    assert torch.equal(without, draw(plain))


def check_a_copy_whose_weights_stay_put_draws_the_same():
    load, arguments = world()[0].cached_patcher_init
    positive = encode("a robot in the snow")
    assert torch.equal(draw(positive), draw(positive, load(*arguments, disable_dynamic=True)))


def template(frame, keep_maps=False):
    (positive,) = EncodeFrameNode.execute(world()[1], frame).result[:1]
    settings = {"sampler_name": "euler", "scheduler": "simple", "denoise": 1.0, "precision": "float32"}
    settings |= {"latent_image": sixteen_channels(SIDE, SIDE, 1), "keep_attention_maps": keep_maps}
    return NoisyLatentCacheNode.execute(
        world()[0], positive, encode(""), seed=4, steps=6, cfg=3.0, keep_from_step=2, **settings
    ).result


def check_the_two_passes_change_what_the_masks_have_and_nothing_else():
    """The template by the text alone, the second pass by the same MODEL with each character's reference."""
    frame = story("Mira waving and Tom on a beach").frames[0]
    latent, cached = template(frame)
    masks = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    masks[0, 40:100, 16:56] = True
    layout, cast = Layout(("Mira", "Tom"), masks, frame.label), ()
    for seed, name in enumerate(layout.names):
        positive = with_reference(encode(frame.prompt), seed)
        (cast,) = CastNode.execute(Identity(name, "", "toy", torch.ones(1)), positive, encode(""), cast).result
    again, unchanged = (
        RedenoiseNode.execute(world()[0], cast, cached, each, 2, 50, 3.0, "hard").result[0]["samples"]
        for each in (layout, Layout(layout.names, torch.zeros_like(masks), frame.label))
    )
    assert torch.equal(unchanged, latent["samples"])
    schedule = ProgressiveMasks(masks[:1], cached.steps, 2, 50 * SIDE / 1024)
    changed = to_latent_grid(schedule.at(cached.steps - 1), 16, 16).any(dim=0)[0]
    assert torch.equal(again[..., ~changed], latent["samples"][..., ~changed])
    assert largest_difference(again[..., changed], latent["samples"][..., changed]) > 1e-2


def check_layouts_come_from_its_attention():
    frame = story("Mira waving and Tom on a beach").frames[0]
    _, cached = template(frame, keep_maps=True)
    picture = torch.rand(1, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0))
    layout, masks, _ = LayoutFromAttentionNode.execute(cached, picture, frame, 0.0, 0, "error").result
    assert layout.names == ("Mira", "Tom")
    assert 0 < masks[0].mean() < 1
    assert 0 < masks[1].mean() < 1
    assert not (masks[0].bool() & masks[1].bool()).any()


def check_amsa_is_dense_masked_attention_over_the_frames():
    family = Family(
        "Flux.1 schnell",
        lambda seed: world()[0],
        TOY_WORLD.text_width,
        sixteen_channels,
        pooled=TOY_WORLD.text_width,
    )
    told, model = random_story(), world()[0]
    with masks_noted() as noted, warnings() as said:
        ours = sample(family, SharedAttention(told, Sharing()).added_to(model), told)
    assert said == []
    assert_close(ours, sample(family, written_out(family.name, model, noted), told), 1e-5)
    assert largest_difference(ours, sample(family, model, told)) > 1e-4


def check_amsa_shares_between_frames_of_a_story_and_matches_positions():
    model, clip = world()
    told = story("Mira waving and Tom on a beach", "Tom in the snow", "Mira sitting in a kitchen")
    positive, negative, count = EncodeStoryNode.execute(clip, told).result
    empty = sixteen_channels(SIDE, SIDE, count)

    def drawn(**more):
        sharing = {"strength": 1.0, "layers": "all", "start_percent": 0.0, "end_percent": 1.0, "decay": 0.5}
        sharing |= {"same_character": True, "anchors": 0, "threshold": 0.0, **more}
        (patched,) = AMSANode.execute(model, told, **sharing).result
        settings = (3, 3.0, "euler", "simple", positive, negative, empty)
        return nodes.KSampler().sample(patched, 2, *settings)[0]["samples"]

    with warnings() as said:
        apart, together, matched, anchored = (
            drawn(strength=0.0), drawn(), drawn(positions="matched"), drawn(anchors=1)
        )  # fmt: skip
    assert said == []
    assert largest_difference(apart, together) > 1e-4
    assert largest_difference(together, matched) > 1e-5
    assert largest_difference(apart, anchored) > 1e-4
