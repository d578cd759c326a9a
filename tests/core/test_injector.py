"""Identity tokens and decoupled attention against the formulas written out, and against diffusers."""

import math

import pytest
import torch
from diffusers import UNet2DConditionModel as UNet
from diffusers.models.attention_processor import Attention, IPAdapterAttnProcessor2_0
from story_identity.core.adapter_file import adapter_of
from story_identity.core.attention import plain_attention
from story_identity.core.injector import (
    AdapterConfig,
    Injector,
    KeysAndValues,
    ReferenceFeatures,
    ResamplerConfig,
    decoupled_attention,
)

from tests.closeness import assert_close, largest_difference
from tests.stand_ins.diffusers_models import UNET, with_ip_adapter
from tests.stand_ins.ip_adapters import CLIP, CROSS, FACE, image_side, layer_side, nested

KINDS = ["plus-face", "FaceID", "FaceID-Plus", "FaceID-Plus v2"]
HEADS = {"plus-face": 2, "FaceID-Plus": 1}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layout(kind: str) -> str:
    return kind.removesuffix(" v2")


def injector(kind: str) -> Injector:
    adapter = adapter_of(nested(layout(kind)), "plusv2.bin" if kind.endswith("v2") else "adapter.bin")
    assert adapter.config.kind == kind
    return adapter.injector().double()


def features(references: int = 3, seed: int = 0) -> ReferenceFeatures:
    face = torch.nn.functional.normalize(random(references, FACE, seed=seed + 2), dim=-1)
    return ReferenceFeatures(random(references, 11, CLIP, seed=seed), random(1, 11, CLIP, seed=seed + 1), face)


# --- the formulas, one reference at a time, one head at a time


def layer_norm(x, weight, bias):
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * weight + bias


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def one_head(q, k, v):
    return torch.softmax(q @ k.T / math.sqrt(q.shape[-1]), dim=-1) @ v


def all_heads(q, k, v, heads):
    parts = zip(*(each.chunk(heads, dim=-1) for each in (q, k, v)), strict=True)
    return torch.cat([one_head(*part) for part in parts], dim=-1)


def refined(w, tokens, clip, heads):
    picture = clip @ w["proj_in.weight"].T + w["proj_in.bias"]
    for i in range(4):
        here = {key.removeprefix(f"layers.{i}."): value for key, value in w.items() if key.startswith(f"layers.{i}.")}
        seen = layer_norm(picture, here["0.norm1.weight"], here["0.norm1.bias"])
        own = layer_norm(tokens, here["0.norm2.weight"], here["0.norm2.bias"])
        both = torch.cat([seen, own]) @ here["0.to_kv.weight"].T
        k, v = both[:, : both.shape[1] // 2], both[:, both.shape[1] // 2 :]
        tokens = tokens + all_heads(own @ here["0.to_q.weight"].T, k, v, heads) @ here["0.to_out.weight"].T
        hidden = layer_norm(tokens, here["1.0.weight"], here["1.0.bias"]) @ here["1.1.weight"].T
        tokens = tokens + gelu(hidden) @ here["1.3.weight"].T
    return layer_norm(tokens @ w["proj_out.weight"].T + w["proj_out.bias"], w["norm_out.weight"], w["norm_out.bias"])


def tokens_of(kind, clip, face, scale=1.0):
    w = {key: value.double() for key, value in image_side(layout(kind)).items()}
    if kind == "plus-face":
        return refined(w, w["latents"][0], clip, HEADS[kind])
    hidden = gelu(w["proj.0.weight"] @ face + w["proj.0.bias"])
    tokens = (w["proj.2.weight"] @ hidden + w["proj.2.bias"]).reshape(4, CROSS)
    tokens = layer_norm(tokens, w["norm.weight"], w["norm.bias"])
    if kind == "FaceID":
        return tokens
    perceiver = {key.removeprefix("perceiver_resampler."): value for key, value in w.items()}
    out = refined(perceiver, tokens, clip, HEADS["FaceID-Plus"])
    return tokens + scale * out if kind.endswith("v2") else out


# --- identity tokens


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_what_the_formulas_give(kind):
    seen = features()
    tokens, blank = injector(kind).identity_tokens(seen, 0.7)
    expected = [tokens_of(kind, *one, 0.7) for one in zip(seen.clip, seen.face, strict=True)]
    assert tokens.shape == (3, 5 if kind == "plus-face" else 4, CROSS)
    assert_close(tokens, torch.stack(expected), 1e-10)
    nothing = tokens_of(kind, seen.blank_clip[0], torch.zeros(FACE, dtype=torch.float64), 0.7)
    assert_close(blank, nothing.expand(3, -1, -1), 1e-10)
    assert largest_difference(tokens, blank) > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_what_diffusers_makes_of_the_same_weights(kind):
    seen = features()
    unet = UNet(**UNET, cross_attention_dim=CROSS)
    widths = [module.out_features for name, module in unet.named_modules() if name.endswith("attn2.to_k")]
    content = {"image_proj": image_side(layout(kind)), "ip_adapter": layer_side(widths)}
    (theirs,) = with_ip_adapter(unet, content).double().encoder_hid_proj.image_projection_layers
    if kind.startswith("FaceID-Plus"):
        theirs.clip_embeds = seen.clip.unsqueeze(1)
        theirs.shortcut, theirs.shortcut_scale = kind.endswith("v2"), 0.7
    with torch.no_grad():
        expected = theirs(seen.clip if kind == "plus-face" else seen.face)
        assert_close(injector(kind).identity_tokens(seen, 0.7)[0], expected, 1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reference_does_not_change_its_neighbours(kind):
    one, seen = injector(kind), features()
    alone = ReferenceFeatures(seen.clip[1:2], seen.blank_clip, seen.face[1:2])
    assert_close(one.identity_tokens(seen)[0][1:2], one.identity_tokens(alone)[0], 1e-12)


def test_only_version_2_scales_the_picture_and_at_0_it_is_faceid():
    seen = features()
    v1, v2 = injector("FaceID-Plus"), injector("FaceID-Plus v2")
    assert torch.equal(v1.identity_tokens(seen, 0.0)[0], v1.identity_tokens(seen, 1.0)[0])
    face_only = torch.stack([tokens_of("FaceID-Plus v2", *one, 0.0) for one in zip(seen.clip, seen.face, strict=True)])
    other = ReferenceFeatures(seen.clip.flip(0), seen.blank_clip, seen.face)
    assert_close(v2.identity_tokens(seen, 0.0)[0], face_only, 1e-12)
    assert torch.equal(v2.identity_tokens(seen, 0.0)[0], v2.identity_tokens(other, 0.0)[0])


def test_picture_tokens_have_no_order():
    """A resampler has no positions: CLIP's patches may come in any order."""
    one, seen = injector("plus-face"), features()
    shuffled = ReferenceFeatures(seen.clip[:, torch.randperm(11)], seen.blank_clip)
    assert_close(one.identity_tokens(seen)[0], one.identity_tokens(shuffled)[0], 1e-10)


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("plus-face", {"clip": None}, "plus-face adapter needs hidden states of an image encoder .20 wide."),
        ("plus-face", {"blank_clip": None}, "needs hidden states of a blank picture"),
        ("FaceID", {"face": None}, "FaceID adapter needs face embeddings .7 wide."),
        ("FaceID-Plus", {"face": None}, "FaceID-Plus adapter needs face embeddings"),
        ("FaceID-Plus v2", {"clip": None}, "FaceID-Plus v2 adapter needs hidden states"),
        (
            "plus-face",
            {"clip": random(1, 11, 23), "blank_clip": random(1, 11, 23)},
            "image encoder are 23 wide; this plus-face adapter reads 20.*ViT-H has 1280",
        ),
        ("FaceID", {"face": random(1, 5)}, "face embeddings are 5 wide; this FaceID adapter reads 7"),
    ],
)
def test_features_that_do_not_fit_are_refused(kind, given, message):
    seen = features(1)
    wanting = {"clip": seen.clip, "blank_clip": seen.blank_clip, "face": seen.face} | given
    with pytest.raises(ValueError, match=message):
        injector(kind).identity_tokens(ReferenceFeatures(**wanting))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({}, "needs a resampler, a face width, or both"),
        ({"face_width": 7, "shortcut": True}, "Only an adapter with a resampler and a face width"),
        ({"face_width": 7, "resampler": ResamplerConfig(20, 96, 1)}, "is 96 wide, its tokens 64"),
    ],
)
def test_sizes_that_make_no_adapter_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        AdapterConfig(4, CROSS, (32,), **sizes)


# --- decoupled attention


def layer(cross: int = 6, width: int = 10, seed: int = 3) -> KeysAndValues:
    one = KeysAndValues(cross, width).double()
    for index, weight in enumerate(one.parameters()):
        weight.data = random(*weight.shape, seed=seed + index)
    return one


def case():
    """Queries and text of 2 rows of 7 places, 10 wide; keys and values of two characters, 3 and 4 tokens."""
    people = [layer()(random(2, tokens, 6, seed=seed)) for tokens, seed in ((3, 5), (4, 6))]
    return random(2, 7, 10), random(2, 7, 10, seed=1), people


def test_keys_and_values_are_the_weights_times_the_tokens():
    one, tokens = layer(), random(2, 3, 6)
    k, v = one(tokens)
    assert_close(k, tokens @ one.to_k_ip.weight.T, 1e-12)
    assert_close(v, tokens @ one.to_v_ip.weight.T, 1e-12)


def test_weight_0_and_nobody_leave_the_very_same_tensor():
    text, q, people = case()
    assert decoupled_attention(text, q, [(*each, None) for each in people], 2, 0) is text
    assert decoupled_attention(text, q, [], 2, 1.0) is text


def test_the_sum_is_equation_13_with_masks():
    text, q, people = case()
    masks = torch.rand(2, 2, 7, dtype=torch.float64)
    result = decoupled_attention(text, q, [(*each, mask) for each, mask in zip(people, masks, strict=True)], 2, 0.7)
    for row in range(2):
        expected = text[row].clone()
        for (k, v), mask in zip(people, masks, strict=True):
            expected += 0.7 * mask[row, :, None] * all_heads(q[row], k[row], v[row], 2)
        assert_close(result[row], expected, 1e-12)


def test_a_face_stays_in_its_mask():
    """Where a character's mask is 0, its tokens change nothing; where another's is 1, the other has the place alone."""
    text, q, people = case()
    first = (torch.arange(7) < 3).double().expand(2, 7)
    together = decoupled_attention(text, q, [(*people[0], first), (*people[1], 1 - first)], 2, 1.3)
    for each, where in zip(people, (slice(0, 3), slice(3, 7)), strict=True):
        alone = decoupled_attention(text, q, [(*each, None)], 2, 1.3)
        assert torch.equal(together[:, where], alone[:, where])
    empty = decoupled_attention(text, q, [(*people[0], torch.zeros(2, 7, dtype=torch.float64))], 2, 1.3)
    assert torch.equal(empty, text)


def test_a_single_token_adds_its_value_by_hand():
    """Softmax over one key is 1: what is added is scale times the value."""
    key, value = torch.randn(1, 1, 2), torch.tensor([[[3.0, -1.0]]])
    result = decoupled_attention(torch.ones(1, 4, 2), torch.randn(1, 4, 2), [(key, value, None)], 1, 0.5)
    assert_close(result, torch.tensor([2.5, 0.5]).expand(1, 4, 2))


def test_repeated_and_reordered_tokens_change_nothing():
    """So the tokens of no reference may be repeated to stand beside those of several (`stacked`)."""
    text, q, people = case()
    k, v = people[0]
    plain, twice, turned = (
        decoupled_attention(text, q, [(*each, None)], 2, 1.0)
        for each in ((k, v), (torch.cat([k, k], dim=1), torch.cat([v, v], dim=1)), (k.flip(1), v.flip(1)))
    )
    assert_close(plain, twice, 1e-12)
    assert_close(plain, turned, 1e-12)


def test_the_hosts_attention_is_the_one_that_is_called():
    text, q, people = case()
    given = [(*each, None) for each in people]
    asked = []

    def attend(q, k, v, heads):
        asked.append((tuple(k.shape), tuple(v.shape), heads))
        return plain_attention(q, k, v, heads)

    result = decoupled_attention(text, q, given, 5, 1.0, attend)
    assert asked == [((2, 3, 10), (2, 3, 10), 5), ((2, 4, 10), (2, 4, 10), 5)]
    assert torch.equal(result, decoupled_attention(text, q, given, 5, 1.0))


def test_masks_follow_the_queries_dtype_and_inputs_stay():
    text, q, people = case()
    before = [text.clone(), q.clone(), people[0][0].clone()]
    half = [each.bfloat16() for each in (text, q, *people[0])]
    result = decoupled_attention(half[0], half[1], [(half[2], half[3], torch.ones(2, 7))], 2, 1.0)
    assert result.dtype == torch.bfloat16
    decoupled_attention(text, q, [(*people[0], None)], 2, 1.0)
    assert all(torch.equal(one, other) for one, other in zip(before, (text, q, people[0][0]), strict=True))


def test_a_layer_does_what_diffusers_processor_does():
    module = Attention(query_dim=10, cross_attention_dim=6, heads=2, dim_head=5).double()
    one = layer()
    processor = IPAdapterAttnProcessor2_0(hidden_size=10, cross_attention_dim=6, num_tokens=(3,), scale=0.8).double()
    processor.to_k_ip[0], processor.to_v_ip[0] = one.to_k_ip, one.to_v_ip
    hidden, prompt, tokens = random(2, 7, 10), random(2, 9, 6, seed=1), random(2, 3, 6, seed=2)
    with torch.no_grad():
        expected = processor(module, hidden, encoder_hidden_states=(prompt, [tokens.unsqueeze(1)]))
        q = module.to_q(hidden)
        text = plain_attention(q, module.to_k(prompt), module.to_v(prompt), 2)
        found = module.to_out[0](decoupled_attention(text, q, [(*one(tokens), None)], 2, 0.8))
    assert_close(found, expected, 1e-12)
