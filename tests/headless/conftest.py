"""Models of random weights, made once; nothing in here is trained, so pictures are noise but laws hold."""

import pytest
import torch
from story_identity.headless.checkpoint import load_checkpoint
from story_identity.headless.identity_generator import load_photomaker

from tests.stand_ins.diffusers_models import write_sd15, write_sdxl
from tests.stand_ins.toyworld import make_random_toyworld


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """The models are so small that threads cost more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def toyworld_folder(tmp_path_factory):
    return make_random_toyworld(tmp_path_factory.mktemp("toyworld"))


@pytest.fixture(scope="session")
def pipe(toyworld_folder):
    """The toy world's pipeline; tests must leave it as it is."""
    return load_checkpoint(str(toyworld_folder))


@pytest.fixture(scope="session")
def generator(toyworld_folder):
    """A pipeline with PhotoMaker's LoRA on it, and the PhotoMaker encoder."""
    pipe = load_checkpoint(str(toyworld_folder))
    return pipe, load_photomaker(toyworld_folder / "photomaker.safetensors", pipe)


@pytest.fixture(scope="session")
def sd15_folder(tmp_path_factory):
    return write_sd15(tmp_path_factory.mktemp("sd15"))


@pytest.fixture(scope="session")
def sdxl_folder(tmp_path_factory):
    return write_sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="session")
def sd15(sd15_folder):
    return load_checkpoint(str(sd15_folder))


@pytest.fixture(scope="session")
def sdxl(sdxl_folder):
    return load_checkpoint(str(sdxl_folder))
