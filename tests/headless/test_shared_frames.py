"""Frames drawn together: what no sharing leaves alone, who sees whom, and that the UNet gets its own back."""

import pytest
import torch
from diffusers import Transformer2DModel
from story_identity.core.attention import plain_attention
from story_identity.core.attention_hooks import Layer, unchanged
from story_identity.core.frame_sharing import Sharing
from story_identity.core.story import Story
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.headless.prompts import Prompt, encode_prompt
from story_identity.headless.sampling import CONDITIONAL, UNCONDITIONAL, SamplingPlan, sample_template, starting_noise
from story_identity.headless.shared_frames import encode_together, new_sharing, positions_of, sample_together
from story_identity.headless.unet_attention import hooked_attention, layer_names

from tests.closeness import assert_close, largest_difference

STEPS = 3
PEOPLE = [
    {"name": "Mira", "word": "woman", "description": "a woman with red hair"},
    {"name": "Tom", "word": "boy", "description": "a boy with black hair"},
]
STORY = Story.parse({
    "characters": PEOPLE,
    "frames": ["Mira and Tom on a beach", "Tom waving in the snow", "a city at night", "Mira in a forest, Mira waving"],
})  # fmt: skip
N = len(STORY.frames)
GRID = (8, 8)
SIDES = {
    TOY_WORLD.latent_side >> level
    for level, attention in enumerate((*TOY_WORLD.unet_attention[:-1], True))
    if attention
}
"""Of the grids with attention, which the middle, on the last level's grid, always has."""
SAME = 2e-5
"""Largest difference between equal frames, as a share of the largest value."""


@pytest.fixture
def noise():
    return starting_noise(range(20, 20 + N), TOY_WORLD.latent_channels, 16, 16)


def plan_of(pipe, cfg=4.0, steps=STEPS):
    return SamplingPlan(pipe, "euler", "simple", steps, cfg)


def drawn(pipe, noise, sharing, order=tuple(range(N)), **changes):
    """The frames in an order, drawn together; and the attention they were drawn with."""
    frames = [STORY.frames[number] for number in order]
    positions = [[of_frame[number] for number in order] for of_frame in positions_of(pipe, STORY)]
    together = new_sharing(sharing, positions, len(frames))
    plan = plan_of(pipe, **changes)
    return sample_together(plan, encode_together(pipe, frames), noise[list(order)], 5, together), together


def changed(one, other):
    """Which frames are another picture: apart by 100 times what frames that are the same may be by rounding."""
    differences = [largest_difference(*pair) for pair in zip(one, other, strict=True)]
    assert all(each <= SAME or each > 100 * SAME for each in differences), differences
    return [each > SAME for each in differences]


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_without_strength_every_frame_is_drawn_as_by_itself(pipe, noise, cfg):
    found, _ = drawn(pipe, noise, Sharing(strength=0.0), cfg=cfg)
    for frame, start, latent in zip(STORY.frames, noise, found, strict=True):
        prompts = (encode_prompt(pipe, text, frame.label) for text in (frame.prompt, frame.negative))
        alone = sample_template(plan_of(pipe, cfg), *prompts, start[None], 5).final
        assert_close(latent[None], alone, SAME)


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_with_strength_the_frames_of_people_change_and_nobodys_does_not(pipe, noise, cfg):
    """A character's places see that character only, so a frame without people sees nothing elsewhere."""
    plain_frames, _ = drawn(pipe, noise, Sharing(strength=0.0), cfg=cfg)
    shared, _ = drawn(pipe, noise, Sharing(), cfg=cfg)
    assert changed(plain_frames, shared) == [True, True, False, True]
    mixed, _ = drawn(pipe, noise, Sharing(same_character=False), cfg=cfg)
    assert changed(mixed, plain_frames)[2]


def test_the_first_step_is_plain(pipe, noise):
    once = [drawn(pipe, noise, Sharing(strength=strength), steps=1)[0] for strength in (0.0, 1.0)]
    assert torch.equal(*once)


def test_frames_in_another_order_come_out_in_that_order(pipe, noise):
    order = (2, 0, 3, 1)
    found, _ = drawn(pipe, noise, Sharing())
    assert_close(drawn(pipe, noise, Sharing(), order)[0], found[list(order)], SAME)


def test_a_frame_sees_what_the_others_show(pipe, noise):
    """And not the frame in which nobody is."""
    found, _ = drawn(pipe, noise, Sharing())
    for frame, sees in ((0, [True, True, False, True]), (2, [False, False, True, False])):
        other = noise.clone()
        other[frame] = starting_noise([99], TOY_WORLD.latent_channels, 16, 16)[0]
        again, _ = drawn(pipe, other, Sharing())
        assert changed(again, found) == sees


def test_the_masks_come_of_the_prompts_and_not_of_the_negatives(pipe, noise):
    """Other negatives change pictures from the first step on; what was read in that step does not change."""
    frames = STORY.frames
    positive, negative = encode_together(pipe, frames)
    other = Prompt(negative.embeddings.flip(1))
    read = []
    for prompts in ((positive, negative), (positive, other), (other, positive)):
        together = new_sharing(Sharing(), positions_of(pipe, STORY), N)
        sample_together(plan_of(pipe, steps=1), prompts, noise, 5, together)
        assert together.reader.maps is not None
        read.append(together.reader.maps.maps(GRID))
    assert torch.equal(read[0], read[1])
    assert largest_difference(read[0], read[2]) > 1e-3


def test_conditional_and_unconditional_rows_do_not_see_each_other():
    """Both halves get the same masks, each from its own keys."""
    random = torch.Generator().manual_seed(0)
    frames, tokens, width, heads = 2, 6, 8, 2
    q, k, v = (torch.randn(2 * frames, tokens, width, generator=random) for _ in range(3))
    layer, text = Layer(0, (2, 3)), torch.randn(2 * frames, 5, width, generator=random)
    together, prompts = new_sharing(Sharing(), [[[1], [2]]], frames), (UNCONDITIONAL, CONDITIONAL)
    together.begin_call(prompts, 2.0)
    together.share(q, k, v, heads, layer, plain_attention)
    together.reader.read(q, text, text, heads, Layer(1, (2, 3)), plain_attention)
    together.begin_call(prompts, 1.0)
    found = together.share(q, k, v, heads, layer, plain_attention)
    assert largest_difference(found, plain_attention(q, k, v, heads)) > 1e-3
    for other, kept in ((slice(0, frames), slice(frames, None)), (slice(frames, None), slice(0, frames))):
        other_k, other_v = k.clone(), v.clone()
        other_k[other], other_v[other] = -k[other], 2 * v[other]
        again = together.share(q, other_k, other_v, heads, layer, plain_attention)
        assert torch.equal(again[kept], found[kept])
        assert largest_difference(again[other], found[other]) > 1e-3


def test_nobody_is_nowhere_and_masks_do_not_overlap(pipe, noise):
    _, together = drawn(pipe, noise, Sharing())
    assert together.reader.maps is not None
    masks = together.reader.maps.masks(GRID)
    assert masks.flatten(2).any(dim=2).tolist() == [[True, True], [False, True], [False, False], [True, False]]
    assert set(together.reader.maps.labels(GRID).unique().tolist()) == {-1, 0, 1}


def test_the_words_that_tell_who_it_is_are_found(pipe):
    """The class word and the description's, by the tokenizer itself; not "a" and "with"."""
    words = [
        [
            [pipe.tokenizer.decode([pipe.tokenizer(frame.prompt).input_ids[place]]) for place in places]
            for frame, places in zip(STORY.frames, of_frames, strict=True)
        ]
        for of_frames in positions_of(pipe, STORY)
    ]
    assert words[0] == [["woman", "red", "hair"], [], [], ["woman", "red", "hair", "woman"]]
    assert words[1] == [["boy", "black", "hair"], ["boy", "black", "hair"], [], []]


@torch.no_grad()
def unet_of(pipe, rows=3):
    random = torch.Generator().manual_seed(4)
    latents = torch.randn(rows, TOY_WORLD.latent_channels, 16, 16, generator=random)
    text = torch.randn(rows, 7, TOY_WORLD.text_width, generator=random)
    return pipe.unet(latents, 500, encoder_hidden_states=text).sample


def test_plain_hooks_change_nothing(pipe):
    before, processors = unet_of(pipe), dict(pipe.unet.attn_processors)
    with hooked_attention(pipe.unet):
        assert pipe.unet.attn_processors.keys() == processors.keys()
        assert not set(pipe.unet.attn_processors.values()) & set(processors.values())
        inside = unet_of(pipe)
    assert_close(inside, before)
    assert dict(pipe.unet.attn_processors) == processors
    assert torch.equal(unet_of(pipe), before)


def test_an_error_leaves_the_unet_as_it_was(pipe):
    before, processors = unet_of(pipe), dict(pipe.unet.attn_processors)

    def breaks(q, k, v, heads, layer, attend):
        raise RuntimeError(f"layer {layer.name}")

    with pytest.raises(RuntimeError, match="layer 0"), hooked_attention(pipe.unet, self_attention=breaks):
        unet_of(pipe)
    assert dict(pipe.unet.attn_processors) == processors
    transformer = next(each for each in pipe.unet.modules() if isinstance(each, Transformer2DModel))
    arguments = {"hidden_states": torch.zeros(1, transformer.config.in_channels, *GRID), "return_dict": False}
    text = torch.zeros(1, 7, TOY_WORLD.text_width)
    transformer(**arguments, encoder_hidden_states=text)  # a hook left behind wants it without a name
    assert torch.equal(unet_of(pipe), before)


def test_the_hooks_hear_which_layer_asks(pipe):
    asked = []

    def note(q, k, v, heads, layer, attend):
        asked.append((layer.name, layer.grid, k.shape[1]))
        return unchanged(q, k, v, heads, layer, attend)

    names = layer_names(pipe.unet)
    with hooked_attention(pipe.unet, self_attention=note):
        unet_of(pipe)
    assert {number % 2 for number, _, _ in asked} == {0}
    assert all(names[number].endswith("attn1") for number, _, _ in asked)
    assert {(grid, keys) for _, grid, keys in asked} == {((side, side), side**2) for side in SIDES}
    asked.clear()
    with hooked_attention(pipe.unet, cross_attention=note):
        unet_of(pipe)
    assert all(names[number].endswith("attn2") for number, _, _ in asked)
    assert {(grid, keys) for _, grid, keys in asked} == {((side, side), 7) for side in SIDES}
    assert len(asked) == len(names) / 2


def test_a_unet_without_attention_is_refused():
    with pytest.raises(ValueError, match="Linear has no attention layers"), hooked_attention(torch.nn.Linear(2, 2)):
        pass
