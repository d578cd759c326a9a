import pytest
from story_identity.core.frame_numbers import frame_numbers, frame_ranges


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("all", range(9)),
        ("", range(9)),
        (" ALL ", range(9)),
        ("1-3, 7,2,", [0, 1, 2, 6]),
        ("9", [8]),
        ("1;3", [0, 2]),
        ("1\uff0c3\u30015", [0, 2, 4]),
        ("1\uff0d3\uff1b\uff17", [0, 1, 2, 6]),
        ("1\u20133", [0, 1, 2]),
        ("1\u301c3", [0, 1, 2]),
        ("1\uff5e3", [0, 1, 2]),
        ("\uff41\uff4c\uff4c", range(9)),
        ("1-9," * 20_000, range(9)),
    ],
)
def test_lists_of_frames(text: str, chosen):
    assert frame_numbers(text, 9) == list(chosen)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", r'frames: "0" is outside the story, which has frames 1 to 3\.'),
        ("2-4", r'frames: "2-4" is outside the story'),
        ("12345678901", r'frames: "12345678901" is outside the story'),
        ("2-1", r'frames: "2-1" counts down; write "1-2"\.'),
        ("x", r'frames: "x" is not a number or a range'),
        ("1.5", r'frames: "1.5" is not'),
        ("1-2-3", r'frames: "1-2-3" is not'),
        (",, ,", r'frames: ",, ," chooses no frame'),
        ("\x1b[31m", r'frames: "\\x1b\[31m" is not'),
        ("9" * 5000, r'frames: "9+…9+ \(5,000 characters\)" is not'),
        ("1" * 200_000, r"frames has 200,000 characters of text; at most 100,000 are allowed"),
        ("\ud83d", r"frames has half of a character \(the lone surrogate U\+D83D\)"),
    ],
)
def test_what_is_no_list_is_refused_in_words_that_can_be_logged(text: str, message: str):
    with pytest.raises(ValueError, match=message) as refused:
        frame_numbers(text, 3)
    said = str(refused.value)
    assert said.isprintable()
    assert len(said) < 300


def test_a_list_can_be_checked_before_the_story_is_known():
    assert frame_ranges("1-3, 7") == [("1-3", 1, 3), (" 7", 7, 7)]
    assert frame_ranges("all") is None
