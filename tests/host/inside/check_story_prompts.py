"""Encode Story and Encode Frame: the host's prompts in one batch, and where they name whom, by its real tokenizers."""

from functools import cache

import comfy.sd1_clip
import frames
import setting
import torch
from story_identity.core.story import Story
from story_identity.nodes.host.prompt import span_positions
from story_identity.nodes.host.story_prompts import MOST_TOKENS, NAMED, Named, common_length, named_in
from story_identity.nodes.story import EncodeFrameNode, EncodeStoryNode
from story_identity.nodes.toyworld import ToyWorldLoaderNode

import nodes
from tests.closeness import assert_close, largest_difference

LONG = ", ".join(f"a red house number {i}" for i in range(30))
MIRA = {"name": "Mira", "word": "woman", "description": "a freckled woman with short red hair"}
ZORB = {"name": "Zorb", "word": "zorblaxian", "description": "a tall zorblaxian, blue-skinned"}


class Tokenizer:
    """Enough of a CLIP to tokenize with."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def tokenize(self, text, **more):
        return self.tokenizer.tokenize_with_weights(text, **more)


@cache
def toy_clip():
    return ToyWorldLoaderNode.execute().result[2]


def clips():
    """(CLIP, encoder, tokenizer of it) of SD1.5, SDXL and the toy world."""
    sd15, sdxl = Tokenizer(comfy.sd1_clip.SD1Tokenizer()), setting.stand_in_sdxl()[1]
    return [
        (sd15, "l", sd15.tokenizer.clip_l),
        (sdxl, "g", sdxl.tokenizer.clip_g),
        (toy_clip(), "l", toy_clip().tokenizer.clip_l),
    ]


def pieces(clip, encoder, tokenizer, text):
    flat = [entry for window in clip.tokenize(text)[encoder] for entry in window]
    return [tokenizer.inv_vocab[token].replace("</w>", "") for token, _ in flat]


def story(*frames, **more):
    return Story.parse({"characters": [MIRA, ZORB], "frames": list(frames), **more})


def spelled(clip, encoder, tokenizer, frame, name):
    """The pieces at the positions of a character, by word."""
    number = [character.name for character in frame.cast].index(name)
    text = pieces(clip, encoder, tokenizer, frame.prompt)
    return [
        "".join(text[i] for i in span_positions(clip, frame.prompt, span, ""))
        for span in frame.appearances[number].identifying_words
    ]


def check_the_words_of_a_description_are_found():
    """Commas, weights, repeated words, words of several tokens, prompts of several windows."""
    captions = [
        "Mira waits",
        "rain, Mira, and a red hat",
        "photo of (Mira:1.2), a woman's hat, red hair on a doll",
        f"{LONG}, Mira at the end",
        f"Mira, {LONG}, and Mira again",
        "an (old (photo:1.3) of Mira:0.8), short red ribbons",
    ]
    for clip, encoder, tokenizer in clips()[:2]:
        for frame in story(*captions).frames:
            found = spelled(clip, encoder, tokenizer, frame, "Mira")
            again = ["woman"] * (frame.caption.count("Mira") - 1)
            assert found == ["freckled", "woman", "short", "red", "hair", *again], (frame.prompt, found)


def check_words_of_several_tokens_and_commas_in_a_description():
    for clip, encoder, tokenizer in clips()[:2]:
        frame = story("Zorb sees Mira; Zorb waves").frames[0]
        assert spelled(clip, encoder, tokenizer, frame, "Zorb") == ["tall", "zorblaxian", "blue-skinned", "zorblaxian"]
        assert len(span_positions(clip, frame.prompt, frame.appearances[0].identifying_words[1], "")) > 1
        start, end = frame.prompt.index("a tall"), frame.prompt.index(" sees")
        whole = span_positions(clip, frame.prompt, (start, end), "")
        assert (
            "".join(pieces(clip, encoder, tokenizer, frame.prompt)[i] for i in whole) == "atallzorblaxian,blue-skinned"
        )


def check_positions_are_where_the_prompt_changes_the_encoding():
    """The text encoder is causal: the first of a character's positions is the first that another one would change."""
    _, clip, _ = setting.stand_in_sdxl()
    for caption in ("a photo of Mira, smiling", f"{LONG}, Mira"):
        frame = story(caption).frames[0]
        start, end = frame.appearances[0].identifying_words[0]
        changed = f"{frame.prompt[:start]}armoured{frame.prompt[end:]}"
        ours, other = (clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0] for text in (frame.prompt, changed))
        length = min(ours.shape[1], other.shape[1])
        first = (ours[:, :length] != other[:, :length]).any(dim=-1)[0].nonzero()[0].item()
        assert span_positions(clip, frame.prompt, (start, end), "")[0] == first


def check_the_toy_worlds_tokenizer_too():
    clip, encoder, tokenizer = clips()[2]
    people = [{"name": "Mira", "word": "woman", "description": "a woman with red hair"}]
    for caption in ("Mira waving on a beach", ", ".join(["a ball"] * 14) + ", Mira", "a zorblax, (Mira:1.2)"):
        frame = Story.parse({"characters": people, "frames": [caption]}).frames[0]
        assert spelled(clip, encoder, tokenizer, frame, "Mira") == ["woman", "red", "hair"], caption


def check_a_batch_has_the_stock_nodes_rows():
    _, clip, _ = setting.stand_in_sdxl()
    told = story("Mira waits", f"{LONG}, Zorb", "an empty beach", negative="blurry")
    positive, negative, frames = EncodeStoryNode.execute(clip, told).result
    assert frames == 3
    [[prompts, extras]], [[negatives, _]] = positive, negative
    assert prompts.shape[1] == 3 * 77
    assert negatives.shape == (3, 77, 2048)
    for row, frame in enumerate(told.frames):
        [[stock, more]] = nodes.CLIPTextEncode().encode(clip, frame.prompt)[0]
        repeated = stock.repeat(1, 3 * 77 // stock.shape[1], 1)
        assert torch.equal(prompts[row], repeated[0])
        assert torch.equal(extras["pooled_output"][row], more["pooled_output"][0])
    named = extras[NAMED]
    assert named["names"] == ["Mira", "Zorb"]
    assert named["prompts"] == [frame.prompt for frame in told.frames]
    mira, zorb = named["positions"]
    assert mira[1:] == [[], []]
    once = [place for place in mira[0] if place < 77]
    assert (once[0], len(once)) == (2, 6)  # "freckled" is two tokens, woman, short, red, hair; no "a", no "with"
    assert mira[0] == [place + 77 * again for again in range(3) for place in once]
    assert zorb[0] == zorb[2] == []
    assert all(2 * 77 < place < 3 * 77 for place in zorb[1])
    assert NAMED not in negative[0][1]


def windows(count, text="a red house"):
    """A prompt that fills so many windows of 75 words, the last in part."""
    return " ".join([text, *["red"] * (75 * count - 20)])


def encoded(counts):
    """What Encode Story makes of prompts that fill so many windows, one per frame; and what it warns of."""
    _, clip, _ = setting.stand_in_sdxl()
    told = story(*(windows(count, f"Mira waits at {number}") for number, count in enumerate(counts)))
    with frames.warnings() as said:
        positive, _, _ = EncodeStoryNode.execute(clip, told).result
    return told, positive[0][0], positive[0][1][NAMED], said


def check_rows_are_repeated_whole_to_a_common_multiple_that_is_not_long():
    for counts, expected in (((1, 2, 4), 4), ((2, 3), 6), ((1, 3, 5), 15)):
        _, rows, _, said = encoded(counts)
        assert rows.shape[1] == 77 * expected, counts
        assert not said, said
    assert [common_length([77 * n for n in counts]) // 77 for counts in ((1,), (7,), (2, 3, 5), (40,))] == [
        1,
        7,
        30,
        40,
    ]
    assert common_length([77, 31 * 77]) == 31 * 77  # nothing is shortened


def check_rows_without_a_short_common_multiple_are_repeated_as_evenly_as_they_can_and_said_to_be():
    """3, 4, 5 and 7 windows have 420 in common, 32,340 tokens and 1 GB; 28 windows repeat two of the prompts whole."""
    _, clip, _ = setting.stand_in_sdxl()
    told, rows, named, said = encoded((3, 4, 5, 7))
    assert rows.shape[1] == 28 * 77 <= MOST_TOKENS
    [message] = said
    for part in ("231, 308, 385, 539 tokens", "frame 1 (231 tokens), frame 3 (385 tokens) are", "11 %", "divide 2156"):
        assert part in message, (part, message)
    for number, frame in enumerate(told.frames):
        [[stock, _]] = nodes.CLIPTextEncode().encode(clip, frame.prompt)[0]
        assert torch.equal(rows[number], stock[0, torch.arange(28 * 77) % stock.shape[1]])
        again = list(range(0, 28 * 77, stock.shape[1]))
        mira = named["positions"][0][number]
        assert len(mira) == 6 * len(again)
        assert {place % stock.shape[1] for place in mira} == {place for place in mira if place < stock.shape[1]}


def check_attention_to_a_row_that_is_repeated_whole_is_attention_to_the_row():
    text, query = (torch.randn(1, n, 32, generator=torch.Generator().manual_seed(n)) for n in (7, 5))
    attend = torch.nn.functional.scaled_dot_product_attention
    expected = attend(query, text, text)
    whole, uneven = (text[:, torch.arange(length) % 7] for length in (28, 30))
    assert_close(attend(query, whole, whole), expected)
    assert largest_difference(attend(query, uneven, uneven), expected) > 1e-3


def check_negative_prompts_are_warned_of_too():
    _, clip, _ = setting.stand_in_sdxl()
    told = Story.parse(
        {
            "characters": [MIRA, ZORB],
            "frames": [{"prompt": f"Mira waits at {n}", "negative": windows(n)} for n in (3, 4, 5, 7)],
        }
    )
    with frames.warnings() as said:
        positive, negative, _ = EncodeStoryNode.execute(clip, told).result
    assert (positive[0][0].shape[1], negative[0][0].shape[1]) == (77, 28 * 77)
    [message] = said
    assert "negative prompts of frame 1" in message


def check_a_frame_alone_names_its_own_cast():
    _, clip, _ = setting.stand_in_sdxl()
    for frame in story("Zorb sees Mira", "an empty beach").frames:
        positive, negative = EncodeFrameNode.execute(clip, frame).result
        [[stock, _]] = nodes.CLIPTextEncode().encode(clip, frame.prompt)[0]
        assert torch.equal(positive[0][0], stock)
        assert positive[0][1][NAMED]["names"] == [character.name for character in frame.cast]
        assert len(negative) == 1


def check_positions_in_a_prompt_that_the_host_repeats():
    named = Named(["Mira"], ["a", "b"], [[[2, 3], []]], 77)
    assert named.in_text_of(77) == [[[2, 3], []]]
    assert named.in_text_of(154) == [[[2, 3, 79, 80], []]]
    assert named.in_text_of(100) is None
    assert named.in_text_of(70) is None


def check_prompts_for_a_part_of_the_picture_are_not_read():
    _, clip, _ = setting.stand_in_sdxl()
    positive, _, _ = EncodeStoryNode.execute(clip, story("Mira waits")).result
    (area,) = nodes.ConditioningSetArea().append(positive, 64, 64, 0, 0, 1.0)
    assert NAMED in area[0][1]
    entry = {"uuid": 1, "cross_attn": positive[0][0]}
    assert list(named_in({"positive": [{**positive[0][1], **entry}]})) == [1]
    assert named_in({"positive": [{**area[0][1], **entry}]}) == {}
    assert named_in({"positive": [{**positive[0][1], **entry, "set_area_to_bounds": True}]}) == {}


def check_a_clip_with_another_text_encoder_is_refused_before_anything_is_encoded():
    class Flux:
        def tokenize(self, text):
            return {"l": [], "t5xxl": []}

    for node, told in ((EncodeStoryNode, story("Mira waits")), (EncodeFrameNode, story("Mira waits").frames[0])):
        setting.refused(lambda node=node, told=told: node.execute(Flux(), told), "SD1.5, SDXL", '"t5xxl"', "Z-Image")
