"""AMSA, Layout from Attention and Preview Attention Masks as nodes, in the toy world with its own weights."""

from functools import cache

import setting
import torch
from frames import on_two_gpus
from setting import refused
from story_identity.core.identity import Identity
from story_identity.core.story import Story
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.nodes.amsa import AMSANode, LayoutFromAttentionNode, PreviewAttentionMasksNode
from story_identity.nodes.identity import IdentityConditioningNode
from story_identity.nodes.sampling import CastNode, NoisyLatentCacheNode, RedenoiseNode
from story_identity.nodes.story import EncodeFrameNode, EncodeStoryNode
from story_identity.nodes.toyworld import ToyWorldLoaderNode

import nodes
from tests.closeness import assert_close, largest_difference

MODEL, IDENTITY_MODEL, CLIP, VAE, PHOTOMAKER = range(5)
SIDE = TOY_WORLD.picture_side
PEOPLE = [
    {"name": "Mira", "word": "woman", "description": "a woman with red hair"},
    {"name": "Tom", "word": "boy", "description": "a boy with black hair"},
]
CAPTIONS = ("Mira waving on a beach", "Mira and Tom in the snow", "a beach")


@cache
def world():
    """What the loader gives; one for all checks of this file, so none may leave anything on it."""
    return ToyWorldLoaderNode.execute().result


def story(*captions):
    return Story.parse({"characters": PEOPLE, "frames": list(captions or CAPTIONS)})


def draw(model, told, seed=4, steps=8):
    positive, negative, frames = EncodeStoryNode.execute(world()[CLIP], told).result
    (empty,) = nodes.EmptyLatentImage().generate(SIDE, SIDE, frames)
    return nodes.KSampler().sample(model, seed, steps, 4.0, "euler", "simple", positive, negative, empty)[0]


def amsa(told, strength=1.0, layers="all", anchors=0):
    return AMSANode.execute(world()[MODEL], told, strength, layers, 0.0, 1.0, True, anchors, 0.0, 0.5).result[0]


def template(frame, keep=True, positive=None, model=None):
    own, negative = EncodeFrameNode.execute(world()[CLIP], frame).result
    (empty,) = nodes.EmptyLatentImage().generate(SIDE, SIDE, 1)
    settings = {"sampler_name": "euler", "scheduler": "simple", "denoise": 1.0, "precision": "float32"}
    return NoisyLatentCacheNode.execute(
        model or world()[MODEL],
        positive or own,
        negative,
        empty,
        4,
        8,
        4.0,
        **settings,
        keep_from_step=2,
        keep_attention_maps=keep,
    ).result


def check_a_story_drawn_with_amsa_differs_from_one_without():
    told = story()
    plain = draw(world()[MODEL], told)["samples"]
    assert torch.equal(draw(amsa(told, strength=0.0), told)["samples"], plain)
    shared = draw(amsa(told), told)["samples"]
    assert torch.equal(draw(amsa(told), told)["samples"], shared)
    moved = (shared - plain).abs().amax(dim=(1, 2, 3))
    assert moved[0] > 1e-2
    assert moved[1] > 1e-2
    assert moved[2] < 1e-4  # nobody is there, and a background sees nobody
    smaller = draw(amsa(told, layers="without the largest"), told)["samples"]
    assert 1e-3 < largest_difference(smaller, plain) != largest_difference(shared, plain)
    grouped = draw(amsa(told, anchors=2), told)["samples"]
    assert grouped.shape == plain.shape
    assert nodes.VAEDecode().decode(world()[VAE], {"samples": grouped})[0].shape == (3, SIDE, SIDE, 3)


def check_keeping_maps_changes_nothing_else():
    frame = story().frames[1]
    latent, cache = template(frame)
    without, plain = template(frame, keep=False)
    assert torch.equal(latent["samples"], without["samples"])
    assert plain.maps is None
    assert list(cache.maps) == ["Mira", "Tom"]
    for each in cache.maps.values():
        assert each.shape == (TOY_WORLD.latent_side, TOY_WORLD.latent_side)
        assert each.dtype == torch.float32
        assert 0 <= each.min() < each.max() <= 1
    assert largest_difference(cache.maps["Mira"], cache.maps["Tom"]) > 1e-3
    assert template(story().frames[2])[1].maps == {}
    assert "wrappers" not in world()[MODEL].model_options["transformer_options"]


def check_a_layout_from_attention_serves_the_second_pass():
    loaded, frame = world(), story().frames[1]
    latent, cache = template(frame)
    (picture,) = nodes.VAEDecode().decode(loaded[VAE], latent)
    layout, masks, preview = LayoutFromAttentionNode.execute(cache, picture, frame, 0.0, 1, "error").result
    assert layout.names == ("Mira", "Tom")
    assert layout.size == (SIDE, SIDE)
    assert torch.equal(masks, layout.masks.float())
    assert preview.shape == picture.shape
    assert all(0.01 < mask.float().mean() < 0.6 for mask in layout.masks)
    cast = ()
    for name in ("Mira", "Tom"):
        who = Identity(
            name, "", TOY_WORLD.name, torch.randn(TOY_WORLD.text_width, generator=torch.Generator().manual_seed(9))
        )
        (positive,) = IdentityConditioningNode.execute(loaded[CLIP], loaded[PHOTOMAKER], who, frame).result
        _, negative = EncodeFrameNode.execute(loaded[CLIP], frame).result
        (cast,) = CastNode.execute(who, positive, negative, cast).result
    final = RedenoiseNode.execute(loaded[IDENTITY_MODEL], cast, cache, layout, 2, 0, 4.0, "hard").result[0]["samples"]
    changed = (final != latent["samples"]).any(dim=1)[0]
    cells = torch.nn.functional.interpolate(masks[:, None], size=(16, 16))[:, 0].any(dim=0)
    assert torch.equal(changed, cells)


def check_layouts_ask_for_their_maps():
    told = story()
    latent, cache = template(told.frames[1])
    (picture,) = nodes.VAEDecode().decode(world()[VAE], latent)
    _, plain = template(told.frames[1], keep=False)

    def layout(source, frame, threshold=0.0, on_missing="error"):
        return LayoutFromAttentionNode.execute(source, picture, frame, threshold, 0, on_missing).result

    refused(lambda: layout(plain, told.frames[1]), "frame 2", "keep_attention_maps", "Encode Frame")
    refused(lambda: layout(cache, told.frames[0]), "frame 1", 'of "Mira", "Tom"', 'shows "Mira".')
    areas = [float(layout(cache, told.frames[1], height, "skip")[1].mean()) for height in (0.3, 0.8)]
    assert areas[0] > areas[1]
    nobody, masks, _ = layout(template(told.frames[2])[1], told.frames[2])
    assert nobody.names == ()
    assert masks.shape == (0, SIDE, SIDE)


def check_maps_need_a_prompt_that_names_people_before_the_first_unet_call():
    frame = story().frames[0]
    (stock,) = nodes.CLIPTextEncode().encode(world()[CLIP], frame.prompt)
    whole, _, _ = EncodeStoryNode.execute(world()[CLIP], story()).result
    with setting.counted(world()[MODEL]) as count:
        refused(lambda: template(frame, positive=stock), "Encode Story", "Encode Frame")
        refused(lambda: template(frame, positive=whole), "3 frames", "holds 1", "Encode Frame")
        refused(
            lambda: template(frame, model=on_two_gpus(world()[MODEL])), "attention maps works on one GPU", "MultiGPU"
        )
    assert count.calls == 0


def check_previews_show_where_the_words_are():
    told = story()
    latent = draw(world()[MODEL], told)
    (pictures,) = nodes.VAEDecode().decode(world()[VAE], latent)
    positive, _, _ = EncodeStoryNode.execute(world()[CLIP], told).result
    with setting.counted(world()[MODEL]) as count:
        (shown,) = PreviewAttentionMasksNode.execute(world()[MODEL], positive, latent, pictures, 0.6, 1).result
    assert (count.calls, count.samples) == (1, 3)
    assert shown.shape == pictures.shape
    dark = (0.35 * pictures[2] * 255).round() / 255
    assert_close(shown[2], dark, tolerance=3 / 255, scale=1)  # nobody is there; pictures are in [0, 1]
    assert largest_difference(shown[1], 0.35 * pictures[1], scale=1) > 0.1
    refused(
        lambda: PreviewAttentionMasksNode.execute(world()[MODEL], positive, latent, pictures[:2], 0.6, 1),
        "2 images for 3 latents",
    )
