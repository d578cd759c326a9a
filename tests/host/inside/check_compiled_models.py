"""AMSA, the ID injector and the reader of attention maps on a MODEL from the stock node TorchCompileModel.

Compiled here means traced by torch.compile with the host's own guard filter; what was traced is then run as it is, and
counted. One check has the whole compiler at work, where there is one for C++.
"""

import os
import shutil
from functools import cache

import comfy.supported_models
import folder_paths
import setting
import torch
import torch._inductor.config
from comfy_extras.nodes_torch_compile import TorchCompileModel
from frames import amsa, noise_of, prompts, sample, story, warnings
from injecting import BEN, MIRA, injected, write
from setting import refused
from story_identity.nodes.host.adapters import cross_attention_widths
from story_identity.nodes.host.token_maps import look_at_latents
from story_identity.nodes.injector import LoadIDAdapterNode

from tests.closeness import assert_close, largest_difference
from tests.stand_ins.ip_adapters import CROSS, image_side, layer_side
from tests.stand_ins.unet import UNetShape

SMALL = UNetShape(64, (1,), (1,), middle_depth=-1, context=CROSS, label=None, linear=False)
STORY = story()
STEPS = 5


@cache
def small():
    return setting._tiny(SMALL, comfy.supported_models.SD15, 1)


@cache
def adapter():
    layers = layer_side(list(cross_attention_widths(small()).values()))
    content = {"image_proj": image_side("plus-face"), "ip_adapter": layers}
    return LoadIDAdapterNode.execute(write("compiled.safetensors", content)).result[0]


class Traced:
    """A backend that runs what was traced as it is; counts how often something of it is run."""

    def __init__(self):
        self.runs = 0

    def __call__(self, graph, _examples):
        def run(*args):
            self.runs += 1
            return graph(*args)

        return run


def compiled(model, backend):
    return TorchCompileModel.execute(model, backend).result[0]


def faced(model, **window):
    return injected(model, adapter=adapter(), faces=(MIRA, BEN), told=STORY, **window)[0]


EARLY, LATE = {"start": 0.0, "end": 0.4}, {"start": 0.6, "end": 1.0}


def percents(window):
    return {f"{key}_percent": value for key, value in window.items()}


PATCHES = {
    "AMSA": lambda model: amsa(model, STORY),
    "AMSA until 0.4": lambda model: amsa(model, STORY, **EARLY),
    "AMSA from 0.6": lambda model: amsa(model, STORY, **LATE),
    "injector": faced,
    "injector until 0.4": lambda model: faced(model, **percents(EARLY)),
    "injector from 0.6": lambda model: faced(model, **percents(LATE)),
    "both": lambda model: faced(amsa(model, STORY), **percents(EARLY)),
    "both until 0.4": lambda model: amsa(faced(model, **percents(EARLY)), STORY, **EARLY),
    "both, by two anchors": lambda model: amsa(faced(model, **percents(EARLY)), STORY, anchors=2),
}


def draw(model):
    return sample(model, STORY, steps=STEPS)


def maps(model):
    return look_at_latents(model, prompts(model, STORY)[0], noise_of(len(STORY.frames)), 0.5, 1)


def check_a_model_compiled_and_sampled_before_gives_what_it_gives_uncompiled():
    """With the compiling node first and last, in turns with other patches and without any, and for maps alone."""
    torch.compiler.reset()
    model, backend = small(), Traced()
    plain, expected = draw(model), {name: draw(patch(model)) for name, patch in PATCHES.items()}
    names, seen = maps(model)
    ready = compiled(model, backend)

    def drawn(patched):
        """The latents, and how often traced code was run for them."""
        before = backend.runs
        return draw(patched), backend.runs - before

    assert torch.equal(draw(ready), plain)
    again, runs = drawn(ready)
    assert torch.equal(again, plain)
    a_step, left = divmod(runs, STEPS)
    assert a_step > 0
    assert left == 0
    for name, patch in PATCHES.items():
        assert not torch.equal(expected[name], plain), name
        for last in (patch(ready), compiled(patch(model), backend)):
            found, runs = drawn(last)
            assert torch.equal(found, expected[name]), name
            partly = name.endswith("until 0.4") or name == "injector from 0.6"
            assert runs in ((2 * a_step, 3 * a_step) if partly else (0,)), (name, runs, a_step)
    found, again = maps(ready)
    assert found == names
    assert torch.equal(again, seen)
    assert torch.equal(draw(ready), plain)


def check_a_model_first_sampled_with_our_patches_is_unchanged_without_them():
    """With the whole compiler: what was compiled while patches were on the MODEL, past their end, forgets them."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder_paths.get_temp_directory()
    torch._inductor.config.compile_threads = 1  # to start further processes takes longer than they save,
    torch._inductor.config.cpp.simdlen = 1  # and to compile vectorised code takes half as long again
    torch.compiler.reset()
    model, patch = small(), PATCHES["both until 0.4"]
    ready = compiled(model, "inductor" if any(map(shutil.which, ("c++", "g++", "clang++", "cl"))) else Traced())
    faces = draw(patch(ready))
    plain = draw(ready)
    assert_close(faces, draw(patch(model)), tolerance=2e-3)
    assert_close(plain, draw(model), tolerance=2e-3)
    assert largest_difference(faces, plain) > 1e-2
    assert torch.equal(draw(patch(ready)), faces)
    assert torch.equal(draw(PATCHES["AMSA"](ready)), draw(PATCHES["AMSA"](model)))
    assert torch.equal(draw(ready), plain)


def check_what_it_costs_is_said_once_for_each_compiled_model():
    model = small()
    with warnings() as said:
        draw(PATCHES["both"](model))
    assert not [each for each in said if "compiled" in each]
    ready = compiled(model, Traced())
    with warnings() as said:
        for name in ("both", "AMSA", "injector"):
            draw(PATCHES[name](ready))
            maps(ready)
    about = sorted(each.split(":")[0] for each in said if "compiled" in each)
    assert about == ["AMSA", "Reading attention maps", "Shuffled ID Injector"], said
    with warnings() as said:
        draw(PATCHES["AMSA"](compiled(model, Traced())))
    assert len([each for each in said if "compiled" in each]) == 1, said


def check_an_older_pytorch_is_refused_before_any_unet_call_where_the_model_is_compiled():
    ready, set_stance = compiled(small(), Traced()), torch.compiler.set_stance
    expected = draw(PATCHES["AMSA"](small()))
    del torch.compiler.set_stance
    try:
        with setting.counted(small()) as count:
            for name in ("AMSA", "injector"):
                refused(lambda name=name: draw(PATCHES[name](ready)), "TorchCompileModel", "2.6", torch.__version__)
            refused(lambda: maps(ready), "TorchCompileModel", "2.6")
        assert count.calls == 0
        assert torch.equal(draw(PATCHES["AMSA"](small())), expected)
    finally:
        torch.compiler.set_stance = set_stance
