"""The ID injector on the host's own UNets and samplers: what it computes, for which rows, where and when."""

import gc
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from uuid import uuid4

import comfy.lora
import comfy.sd
import comfy.supported_models
import setting
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.patcher_extension import WrappersMP
from frames import split_calls, warnings
from injecting import (
    BEN,
    FILES,
    MIRA,
    MIXED,
    SD15,
    SIDE,
    STEPS,
    adapter,
    attention_of,
    close,
    differ,
    features,
    first_layer,
    injected,
    left_and_right,
    model,
    random,
    sample,
    story,
    tiny,
)
from story_identity.core.adapter_file import number_layers
from story_identity.core.attention import plain_attention
from story_identity.core.layout import Layout
from story_identity.core.shuffle import MODES, deal_references
from story_identity.nodes.host.adapters import cross_attention_widths
from story_identity.nodes.host.id_injection import _Prompts, _Run
from story_identity.nodes.host.unet_hooks import with_hooks
from story_identity.nodes.types import FaceFeatures

from tests.stand_ins.ip_adapters import CLIP, flat, layer_side, lora_side

SDXL = [("input", block, i) for block, depth in ((4, 2), (5, 2), (7, 10), (8, 10)) for i in range(depth)]
SDXL += [("output", block, i) for block in range(6) for i in range(10 if block < 3 else 2)]
SDXL += [("middle", 0, i) for i in range(10)]


@contextmanager
def written_out(source, tokens, weight=1.0):
    """Every cross-attention of the model by the formula, with these tokens for the rows of the batch."""
    modules = [attention_of(source, layer) for layer in SD15]
    weights = flat({"ip_adapter": layer_side([64] * len(SD15))})

    def forward_of(module, number):
        k_ip, v_ip = (tokens @ weights[f"ip_adapter.{number}.to_{letter}_ip.weight"].T for letter in "kv")

        def forward(x, context, value=None, transformer_options=None):
            q, heads = module.to_q(x), module.heads
            text = plain_attention(q, module.to_k(context), module.to_v(context), heads)
            return module.to_out(text + weight * plain_attention(q, k_ip, v_ip, heads))

        return forward

    for index, module in enumerate(modules):
        module.forward = forward_of(module, 2 * index + 1)
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def dealt_tokens(kind, mode="shuffled", seed=5):
    """Tokens per row of a call with both prompts: three of no reference, then those that the frames were dealt."""
    tokens, blank = adapter(kind).network.identity_tokens(MIRA.features)
    dealt = deal_references(3, 3, mode, torch.Generator().manual_seed(seed))
    rows = torch.stack([tokens[list(each)].flatten(0, 1) for each in dealt])
    if mode == "average":
        rows = tokens.mean(dim=0).expand(3, -1, -1)
    return torch.cat([blank.repeat(1, rows.shape[1] // blank.shape[1], 1), rows])


# --- what it computes


def check_weight_0_is_the_very_same_model():
    plain = sample(model())
    (patched,) = injected(kind="FaceID-Plus", weight=0.0)
    assert not patched.patches
    assert not patched.get_all_wrappers(WrappersMP.OUTER_SAMPLE)
    assert not patched.get_additional_models()
    assert torch.equal(sample(patched), plain)


def check_every_public_layout_does_what_the_formula_says():
    plain = sample(model())
    for kind in FILES:
        (patched,) = injected(kind=kind, weight=0.7)
        lora = adapter(kind).file.host_lora(SD15)
        base = comfy.sd.load_lora_for_models(model(), None, lora, 1.0, 0.0)[0]
        assert len(base.patches) == len(patched.patches) == (0 if kind == "plus-face" else 8 * len(SD15))
        with written_out(model(), dealt_tokens(kind), 0.7):
            expected = sample(base)
        found = sample(patched)
        assert close(found, expected), (kind, (found - expected).abs().max())
        assert differ(found, plain), kind


def check_every_mode_does_what_the_formula_says():
    seen = []
    for mode in MODES:
        (patched,) = injected(mode=mode)
        with written_out(model(), dealt_tokens("plus-face", mode)):
            expected = sample(model())
        found = sample(patched)
        assert close(found, expected), (mode, (found - expected).abs().max())
        assert all(differ(found, other) for other in seen), mode
        seen.append(found)


def check_the_lora_is_added_where_its_number_says():
    (patched,) = injected(kind="FaceID", lora_strength=0.5)
    lora = lora_side([64] * len(SD15))
    for number, name in ((1, "input_blocks.1.1"), (30, "middle_block.1"), (31, "middle_block.1")):
        for projection, end in (("to_k", "to_k"), ("to_out", "to_out.0")):
            layer = f"{name}.transformer_blocks.0.attn{1 + number % 2}.{end}.weight"
            key = f"diffusion_model.{layer}"
            weight = model().model.diffusion_model.get_parameter(layer).detach().clone()
            up, down = (lora[f"{number}.{projection}_lora.{part}.weight"] for part in ("up", "down"))
            found = comfy.lora.calculate_weight(patched.patches[key], weight.clone(), key)
            assert close(found, weight + 0.5 * up @ down), key


def check_the_block_table_is_that_of_the_real_models():
    common = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "device": "meta"}
    common |= {"use_spatial_transformer": True, "legacy": False}
    sd15 = UNetModel(
        num_res_blocks=[2] * 4,
        channel_mult=(1, 2, 4, 4),
        num_heads=8,
        transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
        transformer_depth_middle=1,
        transformer_depth_output=[1] * 9 + [0] * 3,
        context_dim=768,
        **common,
    )
    sdxl = UNetModel(
        num_res_blocks=[2] * 3,
        channel_mult=(1, 2, 4),
        num_heads=-1,
        num_head_channels=64,
        transformer_depth=[0, 0, 2, 2, 10, 10],
        transformer_depth_middle=10,
        transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10],
        context_dim=2048,
        adm_in_channels=2816,
        num_classes="sequential",
        use_linear_in_transformer=True,
        **common,
    )
    for unet, table, count in ((sd15, SD15, 16), (sdxl, SDXL, 70)):
        widths = cross_attention_widths(SimpleNamespace(model=SimpleNamespace(diffusion_model=unet)))
        assert len(widths) == count
        assert number_layers(widths) == {layer: 2 * index + 1 for index, layer in enumerate(table)}
        assert all(
            width == attention_of(SimpleNamespace(model=SimpleNamespace(diffusion_model=unet)), layer).to_q.out_features
            for layer, width in widths.items()
        )


def check_the_hosts_hooks_name_the_layers_as_the_table_does():
    for source in (model(), tiny(shape=setting.SDXL, family=comfy.supported_models.SDXL)):
        seen = set()

        def look(q, k, v, heads, layer, attend, seen=seen):
            seen.add(layer.name)
            return attend(q, k, v, heads)

        def evaluate(executor, x, t, context, y, control, options, look=look, **more):
            return executor(x, t, context, y, control, with_hooks(options, cross_attention=look), **more)

        watched = source.clone()
        watched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "look", evaluate)
        sample(watched, 1)
        assert seen == set(cross_attention_widths(source))


# --- which rows get what


def check_only_the_frames_that_were_dealt_a_picture_depend_on_it():
    dealt = [each for (each,) in deal_references(3, 3, "shuffled", torch.Generator().manual_seed(5))]
    assert sorted(dealt) == [0, 1, 2]
    before = sample(injected()[0])
    for changed in range(3):
        clip = MIRA.features.clip.clone()
        clip[changed] = random(11, CLIP, seed=99)
        after = sample(injected(faces=(FaceFeatures("Mira", replace(MIRA.features, clip=clip)),))[0])
        same = [torch.equal(one, other) for one, other in zip(before, after, strict=True)]
        assert same == [each != changed for each in dealt], changed


def check_a_frame_gets_only_its_own_cast():
    plain = sample(model())
    both, mira = (sample(injected(told=MIXED, faces=faces)[0]) for faces in ((MIRA, BEN), (MIRA,)))
    assert torch.equal(both[2], plain[2])
    assert torch.equal(both[0], mira[0])
    assert differ(both[0], plain[0])
    assert differ(both[1], mira[1])


def check_frames_one_by_one_are_the_frames_of_the_batch():
    together = sample(injected(told=MIXED, faces=(MIRA, BEN))[0])
    alone = injected(told=MIXED, faces=(MIRA, BEN), frame=list(MIXED.frames))
    for index, patched in enumerate(alone):
        assert close(sample(patched, 1, rows=[index])[0], together[index]), index
    twice = sample(alone[1], 2, rows=[1, 2])  # several pictures of one frame
    assert close(twice[0], together[1])


def check_prompts_in_one_call_and_in_two_give_the_same():
    patched = injected()[0]
    with setting.counted(model()) as fused:
        together = sample(patched)
    with split_calls(), setting.counted(model()) as split:
        apart = sample(patched)
    assert (fused.calls, split.calls) == (STEPS, 2 * STEPS)
    assert close(together, apart)
    tokens = dealt_tokens("plus-face")
    with written_out(model(), tokens[3:]):
        expected = sample(model(), cfg=1.0)
    assert close(sample(patched, cfg=1.0), expected)  # no unconditional rows at all


def check_a_guider_may_order_its_prompts_as_it_likes():
    uuids = {kind: uuid4() for kind in ("positive", "middle", "negative", "empty_negative_prompt", "positive 1")}
    prompts = _Prompts.of({kind: [{"uuid": uuid}] for kind, uuid in uuids.items()})
    unconditional = {kind for kind, uuid in uuids.items() if prompts.is_unconditional(uuid, 0)}
    assert unconditional == {"negative", "empty_negative_prompt"}
    assert [prompts.is_unconditional(uuid4(), order) for order in (0, 1)] == [False, True]


# --- masks, steps, memory


def check_two_people_keep_two_faces():
    told = story("Mira and Ben dance")
    layout = Layout(("Mira", "Ben"), left_and_right())
    plain = first_layer(model(), batch=1)
    both = first_layer(injected(told=told, faces=(MIRA, BEN), layout=layout)[0], batch=1)
    other = FaceFeatures("Ben", features(2, seed=20))
    changed = first_layer(injected(told=told, faces=(MIRA, other), layout=layout)[0], batch=1)
    columns = (both != plain).any(dim=-1).any(dim=0).unflatten(0, (SIDE, SIDE)).all(dim=0)
    assert columns.tolist() == [True] * 3 + [False] * 2 + [True] * 3
    columns = (both != changed).any(dim=-1).any(dim=0).unflatten(0, (SIDE, SIDE)).any(dim=0)
    assert columns.tolist() == [False] * 5 + [True] * 3


def check_an_empty_mask_leaves_a_frame_alone():
    told = story("Mira reads")
    nothing = Layout(("Mira",), torch.zeros(1, 64, 64, dtype=torch.bool))
    assert torch.equal(sample(injected(told=told, layout=nothing)[0], 1), sample(model(), 1))


def check_start_and_end_are_noise_levels():
    plain, whole = sample(model()), sample(injected()[0])
    assert torch.equal(first_layer(injected(start_percent=0.5)[0]), first_layer(model()))
    assert not torch.equal(first_layer(injected(end_percent=0.5)[0]), first_layer(model()))
    for window in ({"start_percent": 0.5}, {"end_percent": 0.5}):
        part = sample(injected(**window)[0])
        assert not torch.equal(part, plain), window
        assert not torch.equal(part, whole), window


def check_a_then_b_then_a_gives_as_bytes_and_leaves_nothing():
    first, second = injected()[0], injected(faces=(replace(MIRA, features=features(seed=30)),))[0]
    a, b, again = sample(first), sample(second), sample(first)
    assert torch.equal(a, again)
    assert differ(a, b)
    assert "story_identity_injector" not in first.model_options["transformer_options"]
    assert torch.equal(sample(model()), sample(tiny()))
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, _Run)]


def check_the_adapter_is_loaded_with_the_model():
    patched = injected()[0]
    (beside,) = patched.clone().get_additional_models()
    assert beside.model is adapter("plus-face").network


def check_a_face_that_acts_on_others_as_well_is_told_of():
    told = story("Mira and Ben dance")
    layout = Layout(("Mira", "Ben"), left_and_right())
    for faces, more, expected in (((MIRA,), {}, 1), ((MIRA, BEN), {}, 1), ((MIRA,), {"layout": layout}, 0)):
        with warnings() as said:
            injected(told=told, faces=faces, **more)
        assert sum("acts on all of them" in each for each in said) == expected, said
