"""The Shuffled ID Injector as the identity generator of the second pass: two people, each face in its own mask."""

import setting
import torch
from injecting import (
    BEN,
    MIRA,
    SD15,
    SIDE,
    adapter,
    attention_of,
    differ,
    features,
    injected,
    left_and_right,
    model,
    story,
)
from story_identity.core.layout import Layout
from story_identity.nodes.sampling import CastNode, NoisyLatentCacheNode, RedenoiseNode
from story_identity.nodes.types import FaceFeatures

KINDS = ("plus-face", "FaceID", "FaceID-Plus")
OTHER_BEN = FaceFeatures("Ben", features(2, seed=30))
STEPS = 4


def drawn():
    """A template, and how to draw two people into it with a generator."""
    (frame,) = story("Mira and Ben dance").frames
    layout = Layout(("Mira", "Ben"), left_and_right(), frame.label)
    negative = setting.conditioning(model(), 2)
    latent, cache = NoisyLatentCacheNode.execute(
        model(), setting.conditioning(model(), 1), negative, setting.empty_latent(SIDE, SIDE), 3, STEPS, 4.0,
        "euler", "normal", 1.0, 0, "float32",
    ).result  # fmt: skip

    def draw(generator, start=1):
        cast = ()
        for seed, name in ((11, "Mira"), (12, "Ben")):
            given = {"positive": setting.conditioning(model(), seed), "negative": negative, "frame": frame}
            (cast,) = CastNode.execute(**given, cast=cast, name=name).result
        return RedenoiseNode.execute(generator, cast, cache, layout, start, 0, 4.0, "hard").result[0]["samples"]

    return latent["samples"], layout, draw


def check_two_faces_change_two_masks_and_nothing_else():
    template, layout, draw = drawn()
    told = story("Mira and Ben dance")
    columns = torch.arange(SIDE)
    mira, ben = columns < 3, columns >= 5
    background = ~(mira | ben)
    for kind in KINDS:
        plain = draw(injected(kind=kind, told=told, weight=0.0)[0])

        def generator(who, where=layout, kind=kind):
            return injected(kind=kind, told=told, layout=where, faces=(MIRA, who), mode="stacked")[0]

        first, other, again = (draw(generator(who)) for who in (BEN, OTHER_BEN, BEN))
        assert torch.equal(first, again), kind
        for result in (plain, first, other):
            assert torch.equal(result[..., background], template[..., background]), kind
        for cells in (mira, ben):
            assert differ(first[..., cells], plain[..., cells]), kind
        assert differ(first[..., ben], other[..., ben]), kind


def check_each_face_acts_in_its_own_mask():
    """At the first layer of the first call nothing has mixed yet: there another face of Ben's changes Ben's places."""
    _, layout, draw = drawn()
    told = story("Mira and Ben dance")
    seen = []
    hook = attention_of(model(), SD15[0]).to_out.register_forward_hook(lambda _module, _args, out: seen.append(out))
    try:
        first, other = (
            seen[draw_first(draw, injected(told=told, layout=layout, faces=(MIRA, who), mode="stacked")[0], seen)]
            for who in (BEN, OTHER_BEN)
        )
    finally:
        hook.remove()
    changed = (first != other).any(dim=-1).any(dim=0).view(SIDE, SIDE)
    assert torch.equal(changed, (torch.arange(SIDE) >= 5).expand(SIDE, SIDE))


def draw_first(draw, generator, seen):
    """Where, in what the hook has seen, the first call of a drawing is."""
    before = len(seen)
    draw(generator, STEPS - 1)
    return before


def check_the_adapters_are_of_the_kinds_that_are_named():
    assert [adapter(kind).file.config.kind for kind in KINDS] == list(KINDS)
