"""Story and Story Frames: what they refuse before a run, and what they write to the log."""

import logging

from story_identity.core.frame_seeds import RULES
from story_identity.core.story import Story
from story_identity.nodes.story import TYPED_IN, StoryFramesNode, StoryNode

FIELDS = {
    "characters": "Mira | woman | a woman with red hair",
    "prompts": "Mira waits\nMria waits",
    "style": "",
    "negative": "",
}


def check_half_characters_are_refused_before_the_run_in_words_that_can_be_logged():
    for field, text in FIELDS.items():
        refused = StoryNode.validate_inputs(TYPED_IN, **{**FIELDS, field: f"{text} \ud83d"})
        assert isinstance(refused, str)
        assert "half of a character" in refused
        assert refused.isprintable()
        linked = StoryNode.validate_inputs(TYPED_IN, **{**dict.fromkeys(FIELDS), field: f"{text} \ud83d"})
        assert linked == refused, (field, linked, refused)
    assert StoryNode.validate_inputs(TYPED_IN, **FIELDS) is True
    assert StoryNode.validate_inputs(TYPED_IN, **dict.fromkeys(FIELDS)) is True


def check_what_is_no_file_name_is_refused():
    for name in ("\ud800.json", "a\x1b[31m.json", "\0", "n" * 5_000, 5, ["x"], "../secret.json", "gone.json"):
        refused = StoryNode.validate_inputs(name, **FIELDS)
        assert isinstance(refused, str), name
        assert refused.isprintable()
        assert len(refused) < 500


def check_a_list_of_frames_is_refused_before_the_run():
    for text in ("\ud83d", "x", "2-1", ",", "\x1b"):
        refused = StoryFramesNode.validate_inputs(text)
        assert isinstance(refused, str)
        assert refused.startswith("frames")
        assert refused.isprintable()
    for text in (None, "", "all", "1-3, 7", "1、3", "99"):
        assert StoryFramesNode.validate_inputs(text) is True


def check_the_log_says_who_is_where_and_which_names_seem_misspelt():
    said: list[tuple[int, str]] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append((record.levelno, record.getMessage()))

    listener, root = Listener(), logging.getLogger()
    level = root.level
    root.addHandler(listener)
    root.setLevel(logging.INFO)
    try:
        StoryNode.execute(TYPED_IN, **{**FIELDS, "characters": FIELDS["characters"] + "\nB\x1b[31m | man | a man"})
    finally:
        root.removeHandler(listener)
        root.setLevel(level)
    assert said == [
        (logging.INFO, 'Story: frame 1 shows "Mira"'),
        (logging.INFO, "Story: frame 2 shows nobody"),
        (logging.WARNING, 'Story: "B\\x1b[31m" is in no frame. Names count as they are spelt, capitals included.'),
        (logging.WARNING, 'Story: Frame 2: "Mria" looks like the name "Mira", but is spelt differently.'),
    ]


def check_a_chosen_frame_has_the_seed_that_it_has_in_the_whole_story():
    """Also where an earlier frame has the same words."""
    ada = {"name": "Ada", "word": "woman", "description": "a woman"}
    story = Story.parse({"characters": [ada], "frames": ["Ada waves", "Ada waves", "Ada sits"]})
    for rule in RULES:
        *_, every = StoryFramesNode.execute(story, "", 7, rule).result
        *_, chosen = StoryFramesNode.execute(story, "2-3", 7, rule).result
        assert chosen == every[1:], rule
