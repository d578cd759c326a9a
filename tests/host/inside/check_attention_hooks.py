"""The laws of `with_hooks`: every layer is asked once, what others put there stays in force, nothing is left behind."""

import comfy.patcher_extension
import setting
import torch
from story_identity.nodes.host.unet_hooks import with_hooks

import nodes
from tests.closeness import largest_difference

KEY = "hooks under test"


class Watch:
    """Hooks that note what they were asked and change nothing."""

    def __init__(self):
        self.seen = []

    def hook(self, kind):
        def watch(q, k, v, heads, layer, attend):
            self.seen.append((kind, layer.name[:2], layer.name[2], layer.grid, tuple(q.shape), k.shape[1], heads))
            return attend(q, k, v, heads)

        return watch

    def layers(self, kind):
        return [entry[1:3] for entry in self.seen if entry[0] == kind]


def hooked(model, **hooks):
    """A clone whose every call has the hooks."""

    def evaluate(executor, x, timesteps, context, y, control, options, **more):
        return executor(x, timesteps, context, y, control, with_hooks(options, **hooks), **more)

    patched = model.clone()
    patched.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, KEY, evaluate)
    return patched


def watched(model):
    watch = Watch()
    return watch, hooked(model, self_attention=watch.hook("attn1"), cross_attention=watch.hook("attn2"))


def sample(model, steps=1, batch=2, cfg=4.0):
    positive, negative = setting.conditioning(model, 1), setting.conditioning(model, 2)
    latent = setting.empty_latent(8, 12, batch)
    return nodes.KSampler().sample(model, 3, steps, cfg, "euler", "normal", positive, negative, latent)[0]["samples"]


def layers_of(model, kind):
    """(block, index) of every attention layer, from the network's own module names, in the order they are run."""
    sides = {"input_blocks": "input", "middle_block": "middle", "output_blocks": "output"}
    found = []
    for name, _ in model.model.diffusion_model.named_modules():
        parts = name.split(".")
        if parts[-1] == kind:
            number = 0 if parts[0] == "middle_block" else int(parts[1])
            found.append(((sides[parts[0]], number), int(parts[parts.index("transformer_blocks") + 1])))
    order = {"input": 0, "middle": 1, "output": 2}
    return sorted(found, key=lambda layer: (order[layer[0][0]], layer[0][1], layer[1]))


def check_every_layer_is_asked_once_and_watching_changes_nothing():
    for model in (setting.tiny_sd15(), setting.tiny_sdxl()):
        watch, patched = watched(model)
        plain = sample(model)
        assert torch.equal(sample(patched), plain)
        for kind in ("attn1", "attn2"):
            assert watch.layers(kind) == layers_of(model, kind)
        for kind, _, _, (height, width), q, keys, heads in watch.seen:
            assert q == (4, height * width, 64)  # two prompts of two pictures; not a square
            assert keys == (height * width if kind == "attn1" else 77)
            assert heads == 4
        options = model.model_options["transformer_options"]
        assert "optimized_attention_override" not in options
        assert "patches" not in options


def check_a_hooks_result_is_the_layers_result():
    model = setting.tiny_sd15()
    zeroed = hooked(model, self_attention=lambda q, k, v, heads, layer, attend: torch.zeros_like(q))
    without = model.clone()
    for side, numbers in (("input", (1, 2, 4, 5, 7, 8)), ("middle", (0,)), ("output", range(3, 12))):
        for number in numbers:
            without.set_model_attn1_replace(lambda q, k, v, extra: torch.zeros_like(q), side, number)
    assert torch.equal(sample(zeroed), sample(without))
    assert largest_difference(sample(zeroed), sample(model)) > 1e-3


def check_an_override_of_others_makes_every_attention_still():
    model = setting.tiny_sd15()
    calls = []

    def override(attention, q, k, v, heads, **more):
        calls.append((q.shape[1], k.shape[1]))
        return 0.5 * attention(q, k, v, heads, **more)

    model.model_options["transformer_options"]["optimized_attention_override"] = override
    plain, own = sample(model), list(calls)
    watch, patched = watched(model)
    calls.clear()
    assert torch.equal(sample(patched), plain)
    assert calls == own
    assert len(watch.seen) == len(own)
    calls.clear()
    twice = hooked(
        model, self_attention=lambda q, k, v, heads, layer, attend: attend(q, k, v, heads).add(attend(q, k, v, heads))
    )
    sample(twice)
    assert len(calls) == len(own) + len(layers_of(model, "attn1"))


def check_a_replaced_cross_attention_stays_replaced_and_is_seen():
    """As IP-Adapter does it: by block, by block and layer, and on the middle."""
    for model in (setting.tiny_sd15(), setting.tiny_sdxl()):
        asked = []

        def replacement(q, k, v, extra, asked=asked):
            asked.append((extra["block"], extra["block_index"]))
            return q * 0.1

        theirs = model.clone()
        theirs.set_model_attn2_replace(replacement, "input", 4)
        theirs.set_model_attn2_replace(replacement, "input", 7, 0)
        theirs.set_model_attn2_replace(replacement, "middle", 0)
        plain, own = sample(theirs), list(asked)
        assert own
        watch, patched = watched(theirs)
        asked.clear()
        assert torch.equal(sample(patched), plain)
        assert asked == own
        assert watch.layers("attn2") == layers_of(model, "attn2")
        assert watch.layers("attn1") == layers_of(model, "attn1")


def check_a_replaced_self_attention_is_theirs_alone():
    """As perturbed-attention guidance does it; whatever attention they ask for is not taken for the layer's own."""
    model = setting.tiny_sd15()

    def replacement(q, k, v, extra):
        attention = comfy.ldm.modules.attention.optimized_attention
        return attention(q, k, v, extra["n_heads"], transformer_options=extra)

    theirs = model.clone()
    theirs.set_model_attn1_replace(replacement, "middle", 0)
    theirs.set_model_attn1_replace(replacement, "input", 1, 0)
    watch, patched = watched(theirs)
    assert torch.equal(sample(patched), sample(theirs))
    left = [layer for layer in layers_of(model, "attn1") if layer[0] not in (("middle", 0), ("input", 1))]
    assert watch.layers("attn1") == left
    assert watch.layers("attn2") == layers_of(model, "attn2")


def check_patches_of_others_run_before_the_hook_sees_the_layer():
    model = setting.tiny_sd15()
    theirs = model.clone()
    theirs.set_model_attn2_patch(lambda n, context, value, extra: (n, context[:, :7], value[:, :7]))
    watch, patched = watched(theirs)
    assert torch.equal(sample(patched), sample(theirs))
    assert {entry[5] for entry in watch.seen if entry[0] == "attn2"} == {7}


def check_hooks_upon_hooks_all_see_every_layer():
    model = setting.tiny_sdxl()
    outer, once = watched(model)
    inner, twice = watched(once)
    assert torch.equal(sample(twice), sample(model))
    for kind in ("attn1", "attn2"):
        assert outer.layers(kind) == inner.layers(kind) == layers_of(model, kind)


def check_attention_with_a_mask_or_split_into_heads_is_left_alone():
    asked = []

    def attention(q, k, v, heads, mask=None, **more):
        asked.append(mask)
        return q

    def hook(*_):
        raise AssertionError("asked")

    options = with_hooks(
        {"activations_shape": [1, 8, 2, 2], "block": ("input", 1), "block_index": 0}, self_attention=hook
    )
    q = torch.zeros(1, 4, 8)
    for positional, named in (((q,), {}), ((), {"mask": q}), ((), {"skip_reshape": True})):
        (announce,) = options["patches"]["attn1_patch"]
        announce(q, q, q, options)
        options["optimized_attention_override"](
            attention, q, q, q, 2, *positional, **named, transformer_options=options
        )
    assert len(asked) == 3
    options["optimized_attention_override"](attention, q, q, q, 2, transformer_options=options)
    assert len(asked) == 4
