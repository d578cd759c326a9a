"""Ratings of frames: means by hand, and what is missing."""

import pytest
from story_identity.core.scores.ratings import NO_RATINGS, Ratings


def test_means_are_over_the_frames_that_have_a_rating():
    ratings = Ratings({"qalign_general": [4.0, 5.0, 3.0], "text_alignment": [None, 80.0, 60.0, None]})
    assert ratings.interval("qalign_general").mean == pytest.approx(4)
    assert ratings.interval("qalign_general").low < 4 < ratings.interval("qalign_general").high
    assert ratings.interval("text_alignment").mean == pytest.approx(70)
    assert ratings.as_mapping()["text_alignment"]["missing"] == 2
    lines = dict(ratings.lines())
    assert lines["judge: text alignment (0 to 100)"] == "70.00, of 2 of 4 frames"
    assert lines["Q-Align-Gen (1 to 5)"].startswith("4.00 (")


def test_ratings_that_are_all_missing_have_no_mean():
    ratings = Ratings({"image_quality": [None, None]})
    assert ratings.interval("image_quality") is None
    assert ratings.as_mapping() == {"image_quality": {"mean": None, "of_frames": [None, None], "missing": 2}}
    assert ratings.lines() == [("judge: image quality (0 to 100)", "no answer that could be read")]
    assert NO_RATINGS.as_mapping() == {}
