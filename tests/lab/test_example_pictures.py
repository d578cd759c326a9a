"""The pictures of the node Example Picture are those that their script draws."""

import numpy as np
import pytest
from PIL import Image
from story_identity.lab.example_pictures import FOLDER, JOINTS, PORTRAITS, drawn

from tests.closeness import largest_difference

DRAWN = drawn()


def levels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB"), np.float64) / 255


def stored(name: str) -> np.ndarray:
    with Image.open(FOLDER / f"{name}.png") as picture:
        return levels(picture)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """The mean difference of pixels, as a share of the mean level: the pose is mostly black."""
    assert one.shape == other.shape
    return float(np.abs(one - other).mean() / other.mean())


def test_every_picture_and_no_other_is_drawn():
    assert sorted(path.stem for path in FOLDER.iterdir()) == sorted(DRAWN)


@pytest.mark.parametrize("name", DRAWN)
def test_a_file_is_what_the_script_draws(name):
    """A file has 256 colours; another picture of the same person is much further away."""
    message = "run python -m story_identity.lab.example_pictures"
    assert difference(stored(name), levels(DRAWN[name])) < 0.05, message
    for other in {*PORTRAITS} - {name} if name in PORTRAITS else ():
        assert difference(stored(name), levels(DRAWN[other])) > 0.1


@pytest.mark.parametrize("name", DRAWN)
def test_a_file_is_small(name):
    assert (FOLDER / f"{name}.png").stat().st_size < 20_000


def test_joints_of_the_pose_have_openposes_colours():
    """As ControlNets for poses know them: nose red, neck orange, right wrist and elbow yellow, ankles blue, ..."""
    known = {
        **{"nose": (255, 0, 0), "neck": (255, 85, 0), "right shoulder": (255, 170, 0), "right elbow": (255, 255, 0)},
        **{"left shoulder": (85, 255, 0), "left wrist": (0, 255, 85), "right hip": (0, 255, 170)},
        **{"right knee": (0, 255, 255), "left hip": (0, 85, 255), "left knee": (0, 0, 255)},
        **{"left ankle": (85, 0, 255), "left eye": (255, 0, 255), "left ear": (255, 0, 85)},
    }
    pose = stored("pose_with_one_arm_up")
    for joint, colour in known.items():
        x, y = (round(place / 64 * len(pose)) for place in JOINTS[joint])
        assert largest_difference(pose[y, x].tolist(), [level / 255 for level in colour]) < 0.1, joint
    assert (pose[:50] == 0).all()
