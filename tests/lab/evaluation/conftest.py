"""What draws and measures in the small evaluation, made once."""

import pytest
import torch
from story_identity.core.toyworld.identity_encoder import IdentityEncoder
from story_identity.core.toyworld.recogniser import ToyRecogniser
from story_identity.headless.studio import open_studio
from story_identity.lab.evaluation.identitystory import Instruments, evaluation_settings
from story_identity.lab.evaluation.stories import make_story
from story_identity.lab.toyworld.probe import Probe

from tests.lab.evaluation.small import PORTRAIT_STEPS, PORTRAITS, START, STORY, SeesTwo, T
from tests.stand_ins.toyworld import make_random_toyworld


@pytest.fixture(scope="session")
def instruments(tmp_path_factory):
    folder = make_random_toyworld(tmp_path_factory.mktemp("world"))
    settings = evaluation_settings(
        checkpoint=str(folder),
        photomaker=str(folder / "photomaker.safetensors"),
        steps=T,
        start=START,
        portraits=PORTRAITS,
        portrait_steps=PORTRAIT_STEPS,
        rank=1,
        rounds=1,
    )
    torch.manual_seed(3)
    detector = SeesTwo([person.word for person in make_story(STORY).people])
    return Instruments(
        open_studio(settings, "cpu", detector),
        detector,
        ToyRecogniser(detector, IdentityEncoder().eval()),
        Probe().eval(),
    )
