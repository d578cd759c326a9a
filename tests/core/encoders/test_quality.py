"""Q-Align's adapter, with a stand-in for pyiqa: which tasks it asks for, and of which pixels."""

import sys
import types

import pytest
import torch
from story_identity.core.encoders.quality import AESTHETIC, GENERAL, load_qalign


@pytest.fixture
def pyiqa(monkeypatch):
    """A pyiqa whose ratings are the mean of the red channel, plus 1 for aesthetics; it notes what it was asked."""
    asked = []

    def create_metric(name, device):
        asked.append((name, str(device)))

        def metric(pixels, task_):
            assert pixels.shape[:2] == (1, 3)
            assert 0 <= pixels.min() <= pixels.max() <= 1
            return pixels[0, 0].mean() + {"quality": 0, "aesthetic": 1}[task_]

        return metric

    monkeypatch.setitem(sys.modules, "pyiqa", types.SimpleNamespace(create_metric=create_metric))
    return asked


def test_both_ratings_of_every_picture(pyiqa):
    red = torch.tensor([1.5, 0.0, 0.0]).expand(5, 7, 3)
    half = torch.tensor([0.5, 1.0, 1.0]).expand(2, 3, 3)
    found = load_qalign("cpu").rate([red, half])
    assert pyiqa == [("qalign", "cpu")]
    assert found == {AESTHETIC: [2.0, 1.5], GENERAL: [1.0, 0.5]}


def test_no_pictures_give_no_ratings(pyiqa):
    assert load_qalign().rate([]) == {AESTHETIC: [], GENERAL: []}


def test_without_the_package_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(ModuleNotFoundError, match="rating pictures with Q-Align needs: run pip install pyiqa"):
        load_qalign()
