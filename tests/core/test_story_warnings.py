import pytest
from story_identity.core.story import Story
from story_identity.core.story_warnings import story_warnings

MAY = {"name": "May", "word": "girl", "description": "a small girl with braids"}
TOM = {"name": "Tom", "word": "man", "description": "an old man in a coat"}


def warned(*frames: str, characters=(MAY, TOM)) -> list[str]:
    return story_warnings(Story.parse({"characters": list(characters), "frames": ["May and Tom wave", *frames]}))


def shown(story: Story) -> list[list[str]]:
    return [[each.name for each in frame.cast] for frame in story.frames]


def parsed(*frames: object, characters=(MAY, TOM)) -> Story:
    return Story.parse({"characters": list(characters), "frames": list(frames)})


def test_a_name_that_is_a_word_is_asked_about_once():
    (sentence,) = warned("Tom sleeps. May I help?", "in bed lies May")
    assert sentence.startswith('Frames 1, 2: "May" begins a sentence')
    assert '"[May]"' in sentence


def test_other_names_may_begin_a_sentence():
    assert all("Tom" not in sentence for sentence in warned("Tom waits. Tom sleeps"))


def test_a_marked_name_counts_nowhere_else_and_is_asked_about_no_more():
    story = parsed("[May] waits", "Tom sleeps. May he dream", "Tom and [May]'s dog")
    assert shown(story) == [["May"], ["Tom"], ["Tom", "May"]]
    (sentence,) = story_warnings(story)
    assert sentence.startswith('Frame 2: "May" is not the character')
    assert story.frames[0].prompt == "a small girl with braids waits"
    assert story.frames[1].prompt == "an old man in a coat sleeps. May he dream"
    assert story.frames[2].prompt == "an old man in a coat and a small girl with braids's dog"


def test_a_mark_gives_the_same_frame_as_the_name():
    marked, plain = parsed("[May] waits, May's hat"), parsed("May waits")
    assert marked.frames[0].appearances == plain.frames[0].appearances
    assert marked.frames[0].prompt == "a small girl with braids waits, May's hat"


def test_a_mark_goes_where_the_description_is_written_out():
    story = parsed("[May], a small girl with braids, waits")
    assert story.frames[0].prompt == "May, a small girl with braids, waits"
    assert shown(story) == [["May"]]


@pytest.mark.parametrize("mark", ["[May]", "[ May ]", "[May's] cat", "[May\u2019s] cat"])
def test_ways_to_mark(mark):
    story = parsed(f"{mark} waits", "May sleeps")
    assert shown(story) == [["May"], []]
    assert "[" not in story.frames[0].prompt
    assert "[" not in story.frames[0].shown_caption


def test_a_name_that_is_no_word_counts_everywhere():
    story = parsed("[Tom] waits", "Tom sleeps")
    assert shown(story) == [["Tom"], ["Tom"]]
    assert story.frames[0].prompt == "an old man in a coat waits"
    assert story.frames[0].shown_caption == "Tom waits"
    assert story_warnings(story) == ['"May" is in no frame. Names count as they are spelt, capitals included.']


def test_brackets_around_anything_else_stay():
    story = parsed("[rain] Tom walks [slowly]")
    assert story.frames[0].prompt == "[rain] an old man in a coat walks [slowly]"


def test_decomposed_names_are_marked_too():
    zoe = {"name": "Zo\u00eb", "word": "girl", "description": "a small girl"}
    story = parsed("[Zoe\u0308] waits", "Zoe\u0308 sleeps", characters=(zoe,))
    assert shown(story) == [["Zo\u00eb"], ["Zo\u00eb"]]
    assert "[" not in story.frames[0].prompt


def test_a_person_without_a_line_is_named_with_their_frames():
    (asked, sentence) = warned("Tom meets an old woman", "the woman leaves", "no people, 1girl style")
    assert "begins a sentence" in asked
    assert sentence.startswith("Frames 2, 3:")
    assert '"woman"' in sentence


@pytest.mark.parametrize(
    "caption",
    [
        "Tom at a sign that says woman",  # no article
        "women and men around Tom",
        "Tom is a man",  # Tom's own class word
        "the, old, woman",  # a list of words
    ],
)
def test_words_that_are_no_stranger(caption):
    assert all("class word of no character" not in sentence for sentence in warned(caption))
