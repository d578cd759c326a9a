"""The ID injector under diffusers: what the hook computes, for which rows, and a story drawn with faces."""

import pytest
import torch
from safetensors.torch import save_file
from story_identity.core.attention import plain_attention
from story_identity.core.attention_hooks import Layer
from story_identity.core.face_injection import FaceInjection, InjectedCharacter
from story_identity.core.frame_sharing import Sharing
from story_identity.core.injector import ReferenceFeatures
from story_identity.core.layout import Layout
from story_identity.core.shuffle import MODES, deal_references
from story_identity.core.story import Story
from story_identity.headless.reference_injection import (
    cross_attention_hook,
    cross_attention_widths,
    inject_story,
    load_injector,
)
from story_identity.headless.sampling import SamplingPlan, starting_noise
from story_identity.headless.shared_frames import encode_together, new_sharing, sample_together

from tests.closeness import assert_close, largest_difference
from tests.stand_ins.diffusers_models import WIDTH
from tests.stand_ins.ip_adapters import CLIP, flat, layer_side, lora_side, nested, plus_face

GRID = (4, 3)
STORY = {
    "characters": [
        {"name": "Mira", "word": "woman", "description": "a woman"},
        {"name": "Tom", "word": "boy", "description": "a boy"},
    ],
    "frames": ["Mira", "Mira and Tom", "a beach"],
}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def features(references=3, seed=0):
    return ReferenceFeatures(random(references, 11, CLIP, seed=seed), random(1, 11, CLIP, seed=99))


@pytest.fixture(scope="module")
def path(sd15, tmp_path_factory):
    widths = list(cross_attention_widths(sd15.unet).values())
    content = {"image_proj": plus_face(WIDTH), "ip_adapter": layer_side(widths, cross=WIDTH)}
    save_file(flat(content), path := tmp_path_factory.mktemp("adapters") / "plus-face.safetensors")
    return path


@pytest.fixture(scope="module")
def injector(path, sd15):
    return load_injector(path, sd15)


@pytest.fixture(scope="module")
def story():
    return Story.parse(STORY)


@pytest.fixture
def question():
    """q, k, v and heads of a layer of 2 x 3 rows."""
    width = 64
    return random(6, 12, width, seed=1), random(6, 7, width, seed=2), random(6, 7, width, seed=3), 2


def written_out(injector, question, rows, masks, weight=1.0):
    """Equation 13 for every row by itself; `rows` has the tokens of each."""
    q, k, v, heads = question
    project = injector.layer(3)
    out = plain_attention(q, k, v, heads)
    for row, (tokens, mask) in enumerate(zip(rows, masks, strict=True)):
        id_k, id_v = project(tokens.unsqueeze(0))
        out[row] += weight * mask.flatten().unsqueeze(1) * plain_attention(q[row : row + 1], id_k, id_v, heads)[0]
    return out


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
def test_conditional_rows_see_what_they_were_dealt_and_the_others_no_reference(injector, story, question, mode):
    seen = features()
    tokens, blank = injector.identity_tokens(seen)
    dealt = deal_references(3, 2, mode, torch.Generator().manual_seed(7))
    rows = [tokens[list(each)].mean(dim=0) if mode == "average" else tokens[list(each)].flatten(0, 1) for each in dealt]
    masks = [torch.ones(GRID), torch.ones(GRID), torch.zeros(GRID)] * 2
    expected = written_out(injector, question, [*blank, *rows, tokens[0]], masks, 0.7)
    found = inject_story(injector, story, {"Mira": seen}, mode, 7, 0.7)(*question, Layer(3, GRID), plain_attention)
    assert_close(found, expected)
    assert largest_difference(found[3:5], plain_attention(*question)[3:5]) > 1e-2
    alone = [each[3:] for each in question[:3]]
    found = inject_story(injector, story, {"Mira": seen}, mode, 7, 0.7)(*alone, 2, Layer(3, GRID), plain_attention)
    assert_close(found, expected[3:])  # guidance of 1 asks for no unconditional rows


@torch.no_grad()
def test_each_face_acts_where_its_person_is(injector, story, question):
    masks = torch.zeros(2, 8, 6, dtype=torch.bool)
    masks[0, :, :2], masks[1, :, 4:] = True, True
    layouts = [Layout(names, masks[: len(names)], "frame") for names in (("Mira",), ("Mira", "Tom"), ())]
    mira, tom = features(1), features(1, seed=5)
    both = inject_story(injector, story, {"Mira": mira, "Tom": tom}, layouts=layouts)(
        *question, Layer(3, GRID), plain_attention
    )
    plain = plain_attention(*question)
    only = [
        inject_story(injector, story, {name: seen})(*question, Layer(3, GRID), plain_attention)
        for name, seen in (("Mira", mira), ("Tom", tom))
    ]
    expected = plain.unflatten(1, GRID).clone()
    for row in (0, 1, 3, 4):
        expected[row, :, 0] = only[0].unflatten(1, GRID)[row, :, 0]
    for row in (1, 4):
        expected[row, :, 2] = only[1].unflatten(1, GRID)[row, :, 2]
    assert_close(both, expected.flatten(1, 2))


@torch.no_grad()
def test_everywhere_is_a_mask_of_ones_and_weight_0_is_nothing(injector, question):
    tokens = random(6, 5, WIDTH, seed=4)
    references, ones = [(row,) for row in range(6)], list(torch.ones(6, 16, 12))

    def injected(weight=1.0, **more):
        injection = FaceInjection(injector, [InjectedCharacter(tokens, references, **more)], weight=weight)
        return cross_attention_hook(injection, 6)(*question, Layer(1, GRID), plain_attention)

    assert torch.equal(injected(masks=ones), injected())
    assert torch.equal(injected(weight=0), plain_attention(*question))


def drawn(pipe, story, *hook):
    plan = SamplingPlan(pipe, "euler", "normal", 2, 3.0)
    together = new_sharing(Sharing(strength=0.0), (), len(story.frames))
    noise = starting_noise([1, 2, 3], 4, 8, 8)
    return sample_together(plan, encode_together(pipe, story.frames), noise, 1, together, *hook)


def test_a_story_is_drawn_with_faces_where_they_are_and_without_where_not(sd15, injector, story):
    plain = drawn(sd15, story)
    injected = drawn(sd15, story, inject_story(injector, story, {"Tom": features()}))
    assert_close(injected[[0, 2]], plain[[0, 2]])
    assert largest_difference(injected[1], plain[1]) > 1e-3
    other = drawn(sd15, story, inject_story(injector, story, {"Tom": features(seed=9)}))
    assert largest_difference(injected[1], other[1]) > 1e-3
    assert torch.equal(drawn(sd15, story, inject_story(injector, story, {"Tom": features()}, weight=0)), plain)


def test_what_does_not_fit_is_refused(injector, story, sd15, sdxl, path, tmp_path):
    with pytest.raises(ValueError, match="prompts that are 32 wide; this model reads 80"):
        load_injector(path, sdxl)
    content = nested("FaceID")
    widths = list(cross_attention_widths(sd15.unet).values())
    content["ip_adapter"] = layer_side(widths) | lora_side(widths)
    torch.save(content, tmp_path / "faceid.bin")
    with pytest.raises(ValueError, match="64 wide; this model reads 32"):
        load_injector(tmp_path / "faceid.bin", sd15)
    save_file(
        flat({"image_proj": plus_face(WIDTH), "ip_adapter": layer_side([48] * len(widths), cross=WIDTH)}),
        tmp_path / "other.safetensors",
    )
    with pytest.raises(ValueError, match=r"ip_adapter.1 .* 48 wide; it belongs to down_blocks.1.*attn2, which is 64"):
        load_injector(tmp_path / "other.safetensors", sd15)
    with pytest.raises(ValueError, match="2 layouts for 3 frames"):
        inject_story(injector, story, {}, layouts=[Layout((), torch.zeros(0, 8, 8, dtype=torch.bool), "frame")] * 2)
    with pytest.raises(ValueError, match='pictures of "Mira" do not suit the plus-face adapter.*20'):
        inject_story(injector, story, {"Mira": ReferenceFeatures(random(1, 3, 5), random(1, 3, 5))})


def test_an_adapter_with_a_lora_in_it_is_refused(sd15, path, tmp_path):
    widths = list(cross_attention_widths(sd15.unet).values())
    layers = layer_side(widths, cross=WIDTH) | lora_side(widths, cross=WIDTH)
    torch.save({"image_proj": plus_face(WIDTH), "ip_adapter": layers}, tmp_path / "with_lora.bin")
    with pytest.raises(ValueError, match="with_lora.bin.*has a LoRA.*in ComfyUI only"):
        load_injector(tmp_path / "with_lora.bin", sd15)
