"""The transformer's trainer at a tiny size: its lessons, its loss, and that it learns to use words and portraits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from story_identity.core.toyworld.flux_layout import to_published
from story_identity.core.toyworld.models import WEIGHTS, text_encoder_weights
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.core.toyworld.transformer import (
    LATENT_SCALE,
    TransformerSizes,
    to_model_scale,
    transformer_vocabulary,
)
from story_identity.core.toyworld.vocabulary import GARMENTS, tokenize, vocabulary
from story_identity.lab.step_random import StepRandom
from story_identity.lab.toyworld.people import sample_person
from story_identity.lab.toyworld.plan import Plan
from story_identity.lab.toyworld.training import train_dit as trainer
from story_identity.lab.toyworld.training.text_encoder import new_text_encoder
from story_identity.lab.toyworld.training.train_base import text_keys
from story_identity.lab.toyworld.training.train_dit import (
    INSIDE,
    OUTSIDE,
    Transformer,
    draw_lessons,
    draw_times,
    flow_losses,
    measure_dit,
)
from story_identity.lab.toyworld.training.train_network import Settings
from torch import nn
from torch.nn import functional as F

from tests.closeness import assert_close

SMALL = TransformerSizes(width=128, double_blocks=1, single_blocks=1)


class AnyVAE(nn.Module):
    """Some VAE: it shows colours in the first channels."""

    def __init__(self, channels=16):
        super().__init__()
        self.channels, self.encoder = channels, nn.Identity()

    def encode(self, pictures):
        return F.interpolate(F.avg_pool2d(pictures, 4), size=[side // 4 for side in pictures.shape[-2:]]).repeat(
            1, -(-self.channels // 3), 1, 1
        )[:, : self.channels]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return Settings(steps=3, batch=4, rate=1e-3, folder=tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def lessons(settings):
    return draw_lessons(AnyVAE(), settings, 24)


def test_lessons_hold_what_they_say_and_are_kept(settings, lessons):
    count, side = len(lessons.latents), lessons.latents.shape[-1]
    assert lessons.latents.shape == (24, 16, side, side)
    assert lessons.tokens.shape == lessons.told.shape == (count, TOY_WORLD.text_length)
    assert lessons.masks.shape == (count, 1, side, side)
    assert (lessons.masks.flatten(1).sum(dim=1) > 2).all()
    assert {key: each.shape for key, each in lessons.portraits.items()} == {
        pixels: (count, 16, pixels // 4, pixels // 4) for pixels in trainer.REFERENCE_SIDES
    }
    again = draw_lessons(AnyVAE(channels=3), settings, count)  # from the file now
    assert torch.equal(again.told, lessons.told)
    with pytest.raises(ValueError, match="16 channels.*gives 8"):
        draw_lessons(AnyVAE(channels=8), settings, 8)


def test_each_caption_refers_to_one_portrait_in_words_that_are_known(lessons):
    words = transformer_vocabulary()
    image, one = words.index("image"), words.index("1")
    assert not (lessons.tokens == image).any()
    assert ((lessons.told == image).sum(dim=1) == 1).all()
    assert (lessons.told[:, 1:][lessons.told[:, :-1] == image] == one).all()
    assert not torch.isin(torch.tensor(words.index("<|unknown|>")), lessons.told)


def test_captions_with_a_portrait_tell_less_of_the_clothes(lessons):
    words = transformer_vocabulary()
    garments = torch.tensor([words.index(each) for each in GARMENTS])
    alone, shown = (torch.isin(each, garments).any(dim=1) for each in (lessons.tokens, lessons.told))
    assert alone.float().mean() > 0.4  # the world's own captions: 0.3 of one person, 0.5 of two
    assert alone.sum() > shown.sum()
    assert not (shown & ~alone).any()


def test_the_portraits_person_is_the_one_who_is_told():
    random = np.random.default_rng(0)
    first, second = (sample_person(random, word="woman", hair=hair) for hair in ("red", "black"))
    poses = ("standing", "waving")
    plan = Plan((first, second), poses, "beach", names_clothes=(False, False), names_hair=(True, True))
    caption = "a woman with red hair and a woman with black hair waving on a beach"
    told = [trainer._referring(caption, plan, who) for who in (0, 1)]
    assert told[0].startswith("a woman with red hair, the woman in image 1, and")
    assert told[1].endswith("black hair, the woman in image 1, waving on a beach")
    assert all(
        len(tokenize(text, TOY_WORLD.text_length, transformer_vocabulary())) == TOY_WORLD.text_length for text in told
    )


def test_times_are_logit_normal_about_where_noise_and_latents_are_as_strong():
    times = draw_times(20_000, StepRandom.of(0, 0, 0))
    ratio = times / ((1 - times) * LATENT_SCALE)
    assert_close(ratio.log().mean(), 0.0, tolerance=0.03, scale=1)
    assert_close(ratio.log().std(), 1.0, tolerance=0.03)
    assert 0 < times.min() < times.max() < 1


def test_before_training_the_error_is_the_targets_square(settings, lessons):
    """The network begins with a prediction of 0; what lies on the person of the portrait counts thirteen times.

    Without a portrait it counts three times.
    """
    model, rows = Transformer(0, SMALL), torch.arange(8)
    alone, shown = flow_losses(model.velocity, lessons, rows[:6], rows[6:], 96, StepRandom.of(0, 0, 1), "cpu")
    random = StepRandom.of(0, 0, 1)
    clean = to_model_scale(lessons.latents[:8].float())
    target = (random.normal(*clean.shape) - clean) ** 2
    assert_close(alone, (1 + 2 * lessons.masks[:6]) * target[:6])
    assert_close(shown, (OUTSIDE + (INSIDE - OUTSIDE) * lessons.masks[6:8]) * target[6:])


def test_the_text_encoder_begins_as_the_unets():
    text = new_text_encoder(3, transformer_vocabulary())
    before = text.state_dict()["embeddings.token_embedding.weight"].clone()
    trainer.begin_with_words(text, WEIGHTS)
    (loaded, known), state = text_encoder_weights(), text_keys(text.state_dict())
    table = "text_model.embeddings.token_embedding.weight"
    assert transformer_vocabulary()[:known] == vocabulary()
    assert torch.equal(state[table][:known], loaded[table])
    assert torch.equal(state[table][known:], before[known:])
    assert all(torch.equal(state[key], value) for key, value in loaded.items() if key != table)


@pytest.mark.slow
def test_the_loss_falls_on_a_fixed_batch(lessons):
    model, rows = Transformer(0, SMALL), torch.arange(8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

    def loss():
        parts = flow_losses(model.velocity, lessons, rows[:4], rows[4:], 96, StepRandom.of(0, 0, 1), "cpu")
        return sum(part.mean() for part in parts)

    losses = []
    for _ in range(20):
        losses.append(loss())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]
    trained = {name.split(".")[0] for name, each in model.named_parameters() if each.grad is not None}
    assert trained == {"text", "transformer"}
    silent = [name for name, each in model.named_parameters() if each.grad is None or not each.grad.any()]
    assert silent == []


def test_a_training_gives_weights_under_their_published_names_and_says_how_it_went(settings):
    made = replace(settings, save_every=1)
    model, losses = trainer.train_dit(AnyVAE(), made, scenes=24, sizes=SMALL)
    assert len(losses) == 3
    published = to_published(model.transformer.state_dict(), SMALL.layers())
    assert all(each.isfinite().all() for each in published.values())
    assert published["final_layer.linear.weight"].abs().max() > 0
    measured = measure_dit(model, AnyVAE(), made, count=8)
    assert list(measured) == ["error", "error_with_reference", "error_with_a_strangers_reference"]
    assert all(0 < each < 3 for each in measured.values())
    with pytest.raises(ValueError, match="batch is 1"):
        trainer.train_dit(AnyVAE(), replace(made, batch=1), scenes=24)


def test_a_training_goes_on_from_finished_weights(settings, tmp_path):
    first = replace(settings, steps=1, seed=5, folder=settings.folder / "first")
    finished, _ = trainer.train_dit(AnyVAE(), first, scenes=8, sizes=SMALL)
    files = {
        "transformer": to_published(finished.transformer.state_dict(), SMALL.layers()),
        "text_encoder": text_keys(finished.text.state_dict()),
    }
    (tmp_path / "transformer").mkdir()
    for name, weights in files.items():
        save_file(weights, tmp_path / "transformer" / f"{name}.safetensors")
    still = replace(first, rate=1e-12, seed=6, folder=settings.folder / "second", start=tmp_path)
    model, _ = trainer.train_dit(AnyVAE(), still, scenes=8, sizes=SMALL)
    for name, each in model.state_dict().items():
        assert_close(each, finished.state_dict()[name])
    with pytest.raises(FileNotFoundError, match=r"transformer\.safetensors"):
        trainer.train_dit(AnyVAE(), replace(still, start=tmp_path / "transformer"), scenes=8, sizes=SMALL)
