"""Attention maps of diffusion transformers are the direct softmax; Layout from Attention and the preview use them."""

import setting
import torch
from families import FAMILIES
from frames import WORDS, story
from setting import refused
from story_identity.nodes.amsa import LayoutFromAttentionNode, PreviewAttentionMasksNode
from story_identity.nodes.host.story_prompts import NAMED
from story_identity.nodes.host.token_maps import look_at_latents
from story_identity.nodes.sampling import NoisyLatentCacheNode
from transformer_frames import (
    ALL,
    GRID,
    PICTURE_FIRST,
    REFUSED,
    SIDE,
    TOKENS,
    first_of_picture,
    latents,
    overridden,
    prompts,
    text_tokens,
)

from tests.closeness import assert_close

LENGTHS = (12, 17, 33)


def latents_of(family, model, count):
    empty = latents(family, model, count)
    return torch.randn(empty.shape, generator=torch.Generator().manual_seed(0))


def direct(name, model, lengths):
    """A clone that notes, per joint layer, the softmax of the picture's queries over the text's keys, in float64.

    Each is `(rows, picture, text)`; the rows are those of the call.
    """
    noted = []
    picture = GRID[0] * GRID[1]

    def override(q, k, v, mask, sigma, options, plain):
        text = {text_tokens(name, given) + picture: text_tokens(name, given) for given in lengths}.get(q.shape[1])
        first, start = first_of_picture(name, text), picture if name in PICTURE_FIRST else 0
        if name == "Anima" and k.shape[1] != q.shape[1] == picture:
            text, first, start = k.shape[1], 0, 0
        if text:
            scores = torch.einsum(
                "nqhe,nthe->nhqt", q[:, first : first + picture].double(), k[:, start : start + text].double()
            )
            scores /= q.shape[-1] ** 0.5
            if mask is not None:
                scores += mask[:, None, :, :text].double()
            noted.append(scores.softmax(dim=3).mean(dim=1))
        return plain()

    return overridden(model, override), noted


def mean_over(noted, row, places, before):
    return torch.stack([each[row][:, [before + place for place in places]].mean(dim=1) for each in noted]).mean(dim=0)


def check_maps_are_the_direct_softmax_over_the_text():
    for name in ALL:
        family, told = FAMILIES[name], story()
        watched, noted = direct(name, family.make(), [TOKENS])
        positive, _ = prompts(family, told)
        names, maps = look_at_latents(watched, positive, latents_of(family, watched, 3), 0.5, 1)
        assert names == list(WORDS)
        assert noted, name
        before = {"Flux.2": 512 - TOKENS, "Flux.2 klein": 512 - TOKENS, "AuraFlow": 8}.get(name, 0)
        for number, places in enumerate(positive[0][1][NAMED]["positions"]):
            for row in range(3):
                wanted = mean_over(noted, row, places[row], before) if places[row] else torch.zeros(GRID).flatten()
                assert_close(maps[row, number].flatten().double(), wanted.double(), 1e-6)


def check_prompts_of_different_lengths_are_read_one_by_one():
    for name in ("Z-Image", "Krea 2", "Lumina2", "Flux.2"):
        family, told = FAMILIES[name], story()
        watched, noted = direct(name, family.make(), LENGTHS)
        positive, _ = prompts(family, told, LENGTHS)
        samples = latents_of(family, watched, 3)
        _, maps = look_at_latents(watched, positive, samples, 0.5, 1)
        layers = len(noted) // 3
        for row, length in enumerate(LENGTHS):
            own = noted[row * layers : (row + 1) * layers]
            for number, places in enumerate(positive[0][1][NAMED]["positions"]):
                if places[row]:
                    before = 512 - length if name == "Flux.2" else 0
                    wanted = mean_over(own, 0, places[row], before)
                    assert_close(maps[row, number].flatten().double(), wanted, 1e-6)


def check_masked_tokens_are_no_part_of_the_softmax():
    family, told = FAMILIES["Qwen-Image"], story()
    watched, noted = direct("Qwen-Image", family.make(), [TOKENS])
    positive, _ = prompts(family, told)
    mask = torch.ones(3, TOKENS, dtype=torch.long)
    mask[:, 10:] = 0
    masked = [[positive[0][0], {**positive[0][1], "attention_mask": mask}]]
    _, maps = look_at_latents(watched, masked, latents_of(family, watched, 3), 0.5, 1)
    assert_close(maps[1, 1].flatten().double(), mean_over(noted, 1, WORDS["Ben"], 0), 1e-6)
    assert all(each[:, :, 10:].abs().max() == 0 for each in noted)


def check_a_layout_comes_from_the_templates_own_maps():
    for name in ("Flux.1", "Z-Image"):
        family, told = FAMILIES[name], story()
        model, frame = family.make(), told.frames[1]
        positive, negative = prompts(family, told)
        own = [[positive[0][0][1:2], {**row_of(positive[0][1], 1)}]]
        out = NoisyLatentCacheNode.execute(
            model,
            own,
            [[negative[0][0][1:2], row_of(negative[0][1], 1)]],
            family.latent(SIDE, SIDE),
            1,
            4,
            3.0,
            "euler",
            "simple",
            1.0,
            0,
            "float32",
            True,
        ).result
        cache = out[1]
        assert set(cache.maps) == {"Mira", "Ben"}
        layout, masks, preview = LayoutFromAttentionNode.execute(
            cache, torch.rand(1, SIDE, SIDE, 3), frame, 0.0, 2, "skip"
        ).result
        assert layout.names == ("Mira", "Ben")
        assert masks.shape == (2, SIDE, SIDE)
        assert not (masks[0] * masks[1]).any()
        assert masks.any()


def row_of(extras, row):
    cut = {key: value[row : row + 1] if isinstance(value, torch.Tensor) else value for key, value in extras.items()}
    if NAMED in cut:
        named = cut[NAMED]
        cut[NAMED] = {
            **named,
            "prompts": named["prompts"][row : row + 1],
            "positions": [places[row : row + 1] for places in named["positions"]],
        }
    return cut


def check_the_preview_draws_every_frame():
    family, told = FAMILIES["Krea 2"], story()
    model = family.make()
    positive, _ = prompts(family, told, LENGTHS)
    samples = {"samples": latents_of(family, model, 3)}
    drawn = PreviewAttentionMasksNode.execute(model, positive, samples, torch.rand(3, 64, 64, 3), 0.5, 1).result[0]
    assert drawn.shape == (3, 64, 64, 3)


def check_all_other_transformers_are_refused_by_name():
    refused(lambda: look(named("PixArtSigma")), "Reading attention maps: PixArt computes", "the host's hook", "Z-Image")
    for name, words in REFUSED.items():
        model = FAMILIES[name].make()
        refused(lambda m=model: look(m), "Reading attention maps", words, "Z-Image")


def look(model):
    return look_at_latents(model, [], torch.zeros(1, 4, 8, 8), 0.5, 1)


def named(kind):
    """A MODEL of one of the host's configurations, without its network."""
    model = setting.tiny_one_grid()
    model.model = torch.nn.Module()
    model.model.diffusion_model, model.model.model_config = torch.nn.Linear(1, 1), type(kind, (), {})()
    return model
