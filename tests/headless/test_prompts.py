"""Where words land among tokens, and what is too long to be read."""

import pytest
import torch
from story_identity.core.character_mentions import find_word
from story_identity.core.story import Story
from story_identity.headless.prompts import Prompt, check_length, encode_prompt, word_position

from tests.closeness import largest_difference

TEXT = "a woman, with red hair and a boy with the woman on a beach"


@pytest.mark.parametrize("word", ["woman", "boy", "beach", "red", ","])
@pytest.mark.parametrize("which", [0, -1])
def test_a_word_is_at_the_token_that_says_it(pipe, word, which):
    spans = find_word(word, TEXT) or [(TEXT.index(word), TEXT.index(word) + len(word))]
    position = word_position(pipe, TEXT, spans[which], "frame 1")
    ids = pipe.tokenizer(TEXT).input_ids
    assert pipe.tokenizer.decode([ids[position]]) == word
    assert ids[:position].count(ids[position]) == (len(spans) - 1 if which else 0)


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_a_word_of_several_tokens_is_at_its_last(request, kind):
    """The stand-in's tokens are single letters, so the word's last letter is as many tokens in as letters before."""
    pipe = request.getfixturevalue(kind)
    start = TEXT.rindex("woman")
    letters = len(TEXT[: start + len("woman")].replace(" ", ""))
    assert word_position(pipe, TEXT, (start, start + len("woman")), "frame 1") == letters


def test_a_word_that_is_no_token_of_its_own_is_refused(pipe):
    with pytest.raises(ValueError, match='frame 3.*"man"'):
        word_position(pipe, "a woman", (4, 7), "frame 3")


def test_the_words_of_a_story_are_found_where_the_story_has_them(pipe):
    people = [
        {"name": "Mira", "word": "woman", "description": "a woman with red hair"},
        {"name": "Tom", "word": "boy", "description": "a boy with black hair"},
    ]
    story = Story.parse({"characters": people, "frames": ["Tom and Mira on a beach", "Mira waving"]})
    for frame in story.frames:
        ids = pipe.tokenizer(frame.prompt).input_ids
        for character, span in zip(frame.cast, [each.class_word for each in frame.appearances], strict=True):
            assert pipe.tokenizer.decode([ids[word_position(pipe, frame.prompt, span, frame.label)]]) == character.word


def test_a_prompt_as_long_as_the_encoder_reads_is_taken_and_one_token_more_is_not(pipe):
    longest = pipe.tokenizer.model_max_length - 2
    assert encode_prompt(pipe, "a " * longest, "frame 2").embeddings.shape[1] == longest + 2
    with pytest.raises(ValueError, match=f"frame 2.*{longest + 3} tokens.*{longest + 2}"):
        encode_prompt(pipe, "a " * (longest + 1), "frame 2")


def test_a_long_prompt_is_quoted_short_and_without_control_characters(pipe):
    with pytest.raises(ValueError, match="Shorten it: ") as caught:
        check_length(pipe, "a\x1b[31m\n" + "man " * 2000, "frame 2")
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


def test_what_comes_later_does_not_change_what_came_before(pipe):
    """The text encoder is causal, so two prompts agree up to the first token in which they differ."""
    one, two = (encode_prompt(pipe, f"a woman {last}", "frame 1").embeddings for last in ("waving", "jumping"))
    assert torch.equal(one[:, :3], two[:, :3])
    assert largest_difference(one[:, 3:], two[:, 3:]) > 1e-3


def test_sdxl_has_a_pooled_prompt_and_the_others_have_none(pipe, sd15, sdxl):
    assert encode_prompt(pipe, "a boy", "frame 1").pooled is None
    assert encode_prompt(sd15, "a boy", "frame 1").pooled is None
    found = encode_prompt(sdxl, "a boy", "frame 1")
    assert found.pooled.shape == (1, sdxl.text_encoder_2.config.projection_dim)
    assert found.embeddings.shape[-1] == sdxl.unet.config.cross_attention_dim


def test_another_token_replaces_one_place_of_a_copy():
    prompt = Prompt(torch.zeros(1, 5, 3))
    changed = prompt.with_token(2, torch.ones(3))
    assert changed.embeddings.sum(dim=-1).tolist() == [[0, 0, 3, 0, 0]]
    assert not prompt.embeddings.any()
