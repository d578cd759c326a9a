"""A small StoryDB of the toy world, models of random weights, and accelerate as it is in a new process."""

import numpy as np
import pytest
import torch
from accelerate.test_utils.testing import AccelerateTestCase
from diffusers import UNet2DConditionModel
from story_identity.headless.checkpoint import load_checkpoint
from story_identity.lab.storydb.build import build_storydb
from story_identity.lab.storydb.measures import toyworld_measures
from story_identity.lab.storydb.settings import TOYWORLD_STORYDB, StoryDBSettings

from tests.headless.conftest import _one_thread, sd15_folder, sdxl_folder, toyworld_folder  # noqa: F401
from tests.stand_ins.diffusers_models import UNET, WIDTH
from tests.stand_ins.storydb import new_person, write_character

TWO_GRIDS = {
    **UNET,
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    "cross_attention_dim": WIDTH,
}


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    """Accelerate keeps device and precision for as long as a process lives; each test is to choose its own."""
    yield
    AccelerateTestCase().tearDown()


@pytest.fixture(scope="session")
def two_grids(sd15_folder):  # noqa: F811
    """A pipeline of SD1.5's kind with attention on two grids; tests must leave it as it is."""
    pipe = load_checkpoint(str(sd15_folder))
    torch.manual_seed(4)
    pipe.unet = UNet2DConditionModel(**TWO_GRIDS).eval()
    return pipe


@pytest.fixture(scope="session")
def measures():
    return toyworld_measures()


@pytest.fixture(scope="session")
def toy_settings():
    return StoryDBSettings(**TOYWORLD_STORYDB)


@pytest.fixture(scope="session")
def small_settings():
    """Groups of 2 and 3, so that few pictures make several."""
    return StoryDBSettings(**{**TOYWORLD_STORYDB, "least": 2, "most": 3})


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Folders of three people, 4, 5 and 3 pictures."""
    root, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(5)
    for name, count in (("ada", 4), ("ben", 5), ("cleo", 3)):
        write_character(root / name, new_person(random, held_out=True), count, random)
    return root


@pytest.fixture(scope="session")
def storydb(pictures, tmp_path_factory, small_settings, measures):
    """Five groups: 2 + 2, 3 + 2 and 3 pictures."""
    folder = tmp_path_factory.mktemp("storydb")
    build_storydb(pictures, folder, small_settings, measures)
    return folder
