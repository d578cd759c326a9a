"""The Shuffled ID Injector as the identity generator of the second pass: two people, each face in its own mask.

Either one MODEL has both faces, or each person has a MODEL of their own with one.
"""

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
    """A template, and how to draw two people into it with a generator, or with one of each person's own."""
    (frame,) = story("Mira and Ben dance").frames
    layout = Layout(("Mira", "Ben"), left_and_right(), frame.label)
    negative = setting.conditioning(model(), 2)
    latent, cache = NoisyLatentCacheNode.execute(
        model(), setting.conditioning(model(), 1), negative, setting.empty_latent(SIDE, SIDE), 3, STEPS, 4.0,
        "euler", "normal", 1.0, 0, "float32",
    ).result  # fmt: skip

    def draw(generator, start=1, own=(None, None), calls=None):
        cast = ()
        for seed, name, theirs in ((11, "Mira", own[0]), (12, "Ben", own[1])):
            given = {"positive": setting.conditioning(model(), seed), "negative": negative, "frame": frame}
            (cast,) = CastNode.execute(**given, cast=cast, name=name, model=theirs).result
        latent, done = RedenoiseNode.execute(generator, cast, cache, layout, start, 0, 4.0, "hard").result
        if calls is not None:
            calls += [call.prediction for call in done.calls if cache.step_of_call(call) >= start]
        return latent["samples"]

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


def own(kind, who, layout):
    """A MODEL with the face of one person alone, in their own part of the layout."""
    return injected(kind=kind, told=story("Mira and Ben dance"), layout=layout, faces=(who,), mode="stacked")[0]


def check_each_person_may_have_an_injector_of_their_own():
    """In the mask of each the first prediction is that of their own generator, whatever the other's is.

    FaceID-Plus has a LoRA, which lies on clones of one network.
    """
    template, layout, draw = drawn()
    columns = torch.arange(SIDE)
    mira, ben = columns < 3, columns >= 5
    for kind in ("plus-face", "FaceID-Plus"):
        hers, his, others = (own(kind, who, layout) for who in (MIRA, BEN, OTHER_BEN))
        predictions = []

        def first_prediction(generator, pair=(None, None), predictions=predictions):
            calls = []
            result = draw(generator, 2, pair, calls)
            predictions.append(calls[0])
            assert torch.equal(result[..., ~(mira | ben)], template[..., ~(mira | ben)])

        for pair in ((hers, his), (hers, others), (None, his), (hers, his)):
            first_prediction(model(), pair)
        first_prediction(hers)
        first_prediction(his)
        both, other, his_alone, again, by_hers, by_his = predictions
        assert torch.equal(both, again), kind  # A, B, A
        assert torch.equal(both[..., mira], by_hers[..., mira]), kind
        assert torch.equal(both[..., ben], by_his[..., ben]), kind
        assert torch.equal(both[..., mira], other[..., mira]), kind
        assert differ(both[..., ben], other[..., ben]), kind
        assert torch.equal(both[..., ben], his_alone[..., ben]), kind
        assert differ(both[..., mira], his_alone[..., mira]), kind


def check_outside_their_mask_a_member_s_own_model_attends_as_without_an_adapter():
    """At the first layer of the first call; FaceID's LoRA, which acts everywhere, is on both sides."""
    _, layout, draw = drawn()
    nowhere = Layout(layout.names, torch.zeros_like(layout.masks))
    columns = torch.arange(SIDE)
    seen = []
    hook = attention_of(model(), SD15[0]).to_out.register_forward_hook(lambda _module, _args, out: seen.append(out))

    def first_calls(kind, where):
        """What the layer gives for Mira and for Ben, in the order in which they are predicted."""
        before = len(seen)
        draw(model(), STEPS - 1, own=(own(kind, MIRA, where), own(kind, BEN, where)))
        assert len(seen) - before == 2
        return seen[before:]

    try:
        for kind in KINDS:
            faced, plain = first_calls(kind, layout), first_calls(kind, nowhere)
            changed = [
                (one != two).any(dim=-1).any(dim=0).view(SIDE, SIDE) for one, two in zip(faced, plain, strict=True)
            ]
            for cells, found in zip((columns < 3, columns >= 5), changed, strict=True):
                assert torch.equal(found, cells.expand(SIDE, SIDE)), kind
    finally:
        hook.remove()


def check_with_an_empty_mask_a_member_s_own_model_predicts_as_without_an_adapter():
    _, layout, draw = drawn()
    nowhere = Layout(layout.names, torch.zeros_like(layout.masks))
    plain, found = [], []
    draw(model(), calls=plain)
    draw(model(), own=(own("plus-face", MIRA, nowhere), own("plus-face", BEN, nowhere)), calls=found)
    assert len(plain) == len(found) > 0
    assert all(torch.equal(one, two) for one, two in zip(plain, found, strict=True))


def check_the_adapters_are_of_the_kinds_that_are_named():
    assert [adapter(kind).file.config.kind for kind in KINDS] == list(KINDS)
