"""`story-identity score` and the evaluation of the toy world give one Face-Sim for the same pictures."""

import pytest
from story_identity.core.scores.measuring import story_features
from story_identity.core.scores.story_scores import FACE_SIM, score_story
from story_identity.headless.run_files import write_picture
from story_identity.headless.scoring import ScoreSettings, Subject, find_layouts, open_encoders
from story_identity.lab.evaluation.identitystory import (
    DRAWN,
    OTHERS,
    drawings,
    evaluation_settings,
    face_sim,
    look_at_all,
    open_instruments,
)
from story_identity.lab.evaluation.stories import make_story

from tests.lab.evaluation.small import STORY


def test_one_face_sim_for_the_same_pictures(tmp_path):
    toy, instruments = make_story(STORY), open_instruments(evaluation_settings())
    settings = ScoreSettings(encoders="toyworld")
    found = {}
    for variant, pictures in drawings(toy).items():
        files = [tmp_path / f"{variant}_{number}.png" for number in range(len(pictures))]
        for file, picture in zip(files, pictures, strict=True):
            write_picture(file, picture, {})
        subject = Subject(toy.story, files)
        seen = subject.pictures()
        layouts = find_layouts(settings, subject, seen, lambda *progress: None)
        scores = score_story(story_features(toy.story, seen, layouts, open_encoders(settings)))
        found[variant] = scores.scores[FACE_SIM].mean
        assert found[variant] == pytest.approx(face_sim(toy, look_at_all(instruments, toy, pictures)), abs=1e-6)
    assert found[DRAWN] > found[OTHERS] + 0.2
