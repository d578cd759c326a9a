"""The training loop: resuming, time limits, moving averages; and that every stage learns and gives files that load."""

import json
import math
import os
import pickle
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count, pairwise

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from story_identity.core.locking import locked
from story_identity.core.photomaker import split_file, vision_config
from story_identity.core.toyworld.convolutions import Block
from story_identity.core.toyworld.identity_encoder import IdentityEncoder
from story_identity.core.toyworld.models import WEIGHTS, load_weights, noise_levels
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.core.toyworld.transformer import TRANSFORMER_WEIGHTS
from story_identity.core.toyworld.vae import ToyVAE, load_vae
from story_identity.core.toyworld.vocabulary import UNKNOWN, tokenize, vocabulary
from story_identity.lab.step_random import StepRandom
from story_identity.lab.toyworld.training import train_decoder, train_network
from story_identity.lab.toyworld.training.recipes import RECIPE
from story_identity.lab.toyworld.training.rendered_scenes import to_pixels
from story_identity.lab.toyworld.training.stages import STAGES, load_base, run_stage, text_keys, tower_of
from story_identity.lab.toyworld.training.train_base import BaseModel, Diffusion, drop_words, encode
from story_identity.lab.toyworld.training.train_detector import drawn_scenes
from story_identity.lab.toyworld.training.train_dit import Transformer, load_transformer
from story_identity.lab.toyworld.training.train_network import Settings, train
from story_identity.lab.toyworld.training.train_photomaker import (
    Adapter,
    Examples,
    FaceJudge,
    draw_examples,
    drawn_together,
    left_out,
    photomaker_file,
    train_photomaker,
)
from story_identity.lab.toyworld.training.train_tower import (
    IdEncoder,
    measure_tower,
    similar_people,
    spread_loss,
    train_tower,
)
from story_identity.lab.toyworld.training.train_vae import (
    drawing_loss,
    head_squares,
    normalise_latents,
    start_at_principal_components,
)
from story_identity.lab.toyworld.weight_files import LAB_WEIGHTS
from story_identity.lab.training import time_limit
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from tests.closeness import assert_close
from tests.stand_ins.toyworld import make_random_toyworld


def line(settings, stop_at=None):
    """Fit a line; `stop_at` raises in the middle, as a kill would."""
    torch.manual_seed(0)
    network = nn.Linear(1, 1)

    def loss(random):
        x = random.normal(settings.batch, 1)
        loss.calls += 1
        if loss.calls == stop_at:
            raise KeyboardInterrupt
        return (network(x) - 3 * x - 1).square().mean()

    loss.calls = 0
    history = train("line", network, loss, settings)
    return network, history, loss.calls


@pytest.fixture
def settings(tmp_path):
    return Settings(steps=60, batch=4, rate=0.1, folder=tmp_path, save_every=10)


def test_the_loss_falls(settings):
    network, history, _ = line(replace(settings, steps=400))
    assert len(history) == 40
    assert history[-1] < 0.05 * history[0]
    assert network.weight.item() == pytest.approx(3, abs=0.3)


def test_resuming_equals_not_having_stopped(settings, tmp_path):
    whole, history, _ = line(replace(settings, folder=tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        line(settings, stop_at=34)
    resumed, resumed_history, calls = line(settings)
    assert calls == 30  # from the checkpoint of step 30
    assert torch.equal(whole.weight, resumed.weight)
    assert resumed_history == history


def test_a_finished_training_is_not_done_again(settings):
    first, history, _ = line(settings)
    second, again, calls = line(settings)
    assert calls == 0
    assert torch.equal(first.weight, second.weight)
    assert again == history


def test_the_time_limit_holds(settings, monkeypatch):
    """By a clock that goes on by a second whenever it is read, which is twice a step and once before the first."""
    clock = count()
    monkeypatch.setattr(time_limit.time, "monotonic", lambda: next(clock))
    _, _, calls = line(replace(settings, steps=10**7, minutes=1, save_every=10**7))
    assert calls == 30


def test_the_learning_rate_falls_until_the_time_limit(settings, monkeypatch):
    """A pause that was not foreseen counts too: at the limit the rate is 2 % of the highest."""
    rates, step = [], torch.optim.AdamW.step
    clock = iter([0, 1, 30, 31, 59, 61])  # the start, and twice each step: may it begin, and how far it is
    monkeypatch.setattr(time_limit.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(train_network, "WARM_UP", 0)

    def note(optimizer, *arguments, **named):
        rates.append(optimizer.param_groups[0]["lr"] / settings.rate)
        return step(optimizer, *arguments, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", note)
    with suppress(StopIteration):  # the clock is asked once more for the last report
        line(replace(settings, steps=10**7, minutes=1, save_every=10**7))
    assert_close(rates, [0.02 + 0.98 * math.cos(share * math.pi / 2) ** 2 for share in (0.5, 59 / 60)])


@pytest.mark.parametrize("bad", [{"steps": 0}, {"batch": 0}, {"minutes": -1.0}])
def test_settings_out_of_range_are_refused(settings, bad):
    with pytest.raises(ValueError, match="must be positive"):
        replace(settings, **bad)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"minutes": float("nan")}, "must be positive"),
        ({"minutes": float("inf")}, "must be positive"),
        ({"seed": -1}, "seed is -1; it must be from 0"),
        ({"device": "tpu\x1b"}, r'device is "tpu.x1b"; it must be cpu or cuda'),
    ],
)
def test_settings_that_would_fail_later_are_refused(settings, bad, said):
    with pytest.raises(ValueError, match=said):
        replace(settings, **bad)


class Runs:
    """Unpickled, it makes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_code_runs_from_what_training_keeps(settings, tmp_path, zipped):
    vae, mark = ToyVAE(), tmp_path / "ran"
    uses = (
        lambda: line(settings),
        lambda: draw_examples(vae, settings, count=8),
        lambda: encode(vae, np.zeros((8, 64, 64, 3), np.uint8), settings),
    )
    kept = [tmp_path / "line/checkpoints/step_0000010"]
    kept[0].mkdir(parents=True)  # a folder, as version 0.1.0 wrote them, of pickles
    for name, use in zip(("examples_8_0_*.pt", "latents_8_0_*.pt"), uses[1:], strict=True):
        use()
        kept += tmp_path.glob(name)
    for path in kept:
        file = path / "custom_checkpoint_0.pkl" if path.is_dir() else path
        torch.save({"step": Runs(mark)}, file) if zipped else file.write_bytes(pickle.dumps(Runs(mark)))
    for path, use in zip(kept, uses, strict=True):
        with pytest.raises(ValueError, match=f"{path.name} is damaged, or not a .* of (this|a) training.*Delete it"):
            use()
    assert not mark.exists()


def test_what_another_encoder_made_is_not_taken(settings, tmp_path):
    """Nor is it lost; another decoder changes no latents."""
    pictures = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), np.uint8)
    vae, other = ToyVAE(), ToyVAE()
    first, second = (encode(each, pictures, settings) for each in (vae, other))
    assert_close(first.float(), vae.encode(to_pixels(pictures)), 0.05)
    assert_close(second.float(), other.encode(to_pixels(pictures)), 0.05)
    nn.init.ones_(vae.decoder.linear.weight)
    assert torch.equal(encode(vae, pictures, settings), first)
    assert len(list(tmp_path.glob("latents_*.pt"))) == 2


def test_a_checkpoint_of_another_training_is_refused(settings):
    line(settings)
    with pytest.raises(ValueError, match="step_0000060.safetensors is a checkpoint of another training.* for --work"):
        train("line", nn.Linear(2, 1), lambda random: random.normal(1), settings)


def test_a_checkpoint_of_a_former_version_is_refused(settings, tmp_path):
    (tmp_path / "line.checkpoint").write_bytes(b"whatever it holds")
    with pytest.raises(ValueError, match="line.checkpoint is a checkpoint of version 0.2.0 or older.*another --work"):
        line(settings)


def test_only_what_requires_a_gradient_is_trained(settings):
    network = nn.Linear(1, 1)
    network.bias.requires_grad_(False)
    before, bias = network.weight.detach().clone(), network.bias.detach().clone()
    train("line", network, lambda random: (network(random.normal(4, 1)) - 1).square().mean(), settings)
    assert torch.equal(network.bias, bias)
    assert not torch.equal(network.weight, before)


def test_what_is_left_in_the_network_is_the_moving_average(settings):
    """The average's first decay is 0, its second 2/11, its third 3/12."""
    torch.manual_seed(0)
    network, seen = nn.Linear(1, 1), []

    def loss(random):
        seen.append(network.weight.detach().clone())
        return (network(random.normal(4, 1)) - 1).square().mean()

    chosen = replace(settings, steps=4)
    train("whole", network, loss, chosen)
    expected = seen[1]
    for decay, weight in zip((2 / 11, 3 / 12), seen[2:], strict=True):
        expected = decay * expected + (1 - decay) * weight
    last = (network.weight.detach() - 4 / 13 * expected) / (9 / 13)  # what the weight was after the fourth step
    assert 0 < float((last - seen[3]).abs()) <= 1.1 * chosen.rate


def test_a_training_that_its_time_limit_ended_is_not_continued(settings, monkeypatch):
    clock = count()
    monkeypatch.setattr(time_limit.time, "monotonic", lambda: next(clock))
    limited = replace(settings, steps=10**7, minutes=1, save_every=20)
    first, history, calls = line(limited)
    assert 0 < calls < 30
    second, again, calls = line(limited)
    assert calls == 0
    assert torch.equal(first.weight, second.weight)
    assert history == again
    assert len(history) == 1


def test_two_trainings_in_one_folder_are_refused(tmp_path):
    chosen = {"device": "cpu", "seed": 3, "minutes": 0.0, "work": tmp_path, "out": tmp_path / "out"}
    with locked(tmp_path, "not expected"), pytest.raises(ValueError, match="Another training is at work in"):
        run_stage("vae", **chosen)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "card.json").write_text("[")
    with pytest.raises(ValueError, match="card.json is not valid JSON"):
        run_stage("vae", **chosen)


def test_a_step_is_seeded_by_its_number():
    assert torch.equal(StepRandom.of(1, 0, 5).normal(3), StepRandom.of(1, 0, 5).normal(3))
    assert not torch.equal(StepRandom.of(1, 0, 5).normal(3), StepRandom.of(1, 0, 6).normal(3))
    assert not torch.equal(StepRandom.of(1, 0, 5).normal(3), StepRandom.of(2, 0, 5).normal(3))


def test_a_function_is_compiled_if_that_is_asked_for(settings, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial)
    assert settings.compiled(torch.abs) is torch.abs
    assert isinstance(replace(settings, compile=True).compiled(torch.abs), partial)


def test_attention_trains_in_float32_on_a_processor(settings):
    rows = torch.randn(3, 1, 1, 4, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    with settings.autocast():
        out = scaled_dot_product_attention(*rows)
    assert torch.equal(out, scaled_dot_product_attention(*rows.float()).bfloat16())


def test_what_v_is():
    """v of the noisy picture gives back the clean one: x0 = a noisy - b v."""
    diffusion, random = Diffusion("cpu"), torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 8, 4, 4, generator=random) for _ in range(2))
    timesteps = torch.tensor([0, 500, 999])
    noisy, target = diffusion.noisy_and_target(latents, noise, timesteps)
    a, b = diffusion.signal[timesteps].view(3, 1, 1, 1), diffusion.noise[timesteps].view(3, 1, 1, 1)
    assert_close(a * noisy - b * target, latents)
    assert float(noise_levels()[-1]) == pytest.approx(14.6, abs=0.1)  # Stable Diffusion's largest


def test_captions_with_dropped_words_stay_captions():
    row = torch.tensor([tokenize("a woman with red hair waves on a beach", TOY_WORLD.text_length)]).repeat(2000, 1)
    changed = drop_words(row, StepRandom.of(0, 0, 0))
    unknown = vocabulary().index(UNKNOWN)
    empty = (changed[:, 1:] == 1).all(dim=1)
    strange = (changed == unknown).any(dim=1)
    assert 0.07 < empty.float().mean() < 0.13
    assert 0.01 < strange.float().mean() < 0.06
    assert ((changed == row) | (changed == unknown) | empty.unsqueeze(1)).all()
    assert (changed[:, 0] == 0).all()


def test_half_of_a_batch_shares_a_caption():
    people = similar_people(10, np.random.default_rng(0))
    assert len({(person.word, person.hair) for person in people[:5]}) == 1
    assert len({person.identity for person in people}) == 10


SHORT = replace(STAGES["vae"], steps=20, batch=4, minutes=0)


def few_pictures(monkeypatch, **changes):
    """Let the recipe do with little."""
    for name, value in {"vae_pictures": 64, **changes}.items():
        monkeypatch.setitem(vars(RECIPE), name, value)
    monkeypatch.setattr("story_identity.lab.toyworld.training.train_vae.SAMPLE", 64)


@pytest.mark.slow
def test_a_stage_writes_weights_that_load_and_its_card(tmp_path, monkeypatch):
    monkeypatch.setitem(STAGES, "vae", SHORT)
    few_pictures(monkeypatch)
    out = tmp_path / "out"
    run_stage("vae", device="cpu", seed=3, minutes=0.0, work=tmp_path / "work", out=out)
    load_vae(out)
    card = json.loads((out / "card.json").read_text(encoding="utf-8"))["vae"]
    assert "--seed 3 --minutes 0 --device cpu" in card["command"]
    assert card["measured"]["psnr_db"] > 15  # the principal components alone give more
    monkeypatch.setitem(STAGES, "vae", replace(SHORT, steps=1))
    continued = {"device": "cpu", "seed": 4, "minutes": 0.0, "work": tmp_path / "more"}
    run_stage("vae", **continued, out=tmp_path / "more", start=out)  # one step more, from what is finished
    better = json.loads((tmp_path / "more" / "card.json").read_text(encoding="utf-8"))["vae"]
    assert better["measured"]["psnr_db"] > card["measured"]["psnr_db"] - 0.5


def test_a_folder_to_continue_from_has_to_be_there(tmp_path):
    chosen = {"device": "cpu", "seed": 0, "minutes": 0.0, "work": tmp_path / "work", "out": tmp_path / "out"}
    with pytest.raises(ValueError, match='--continue-from is ".*nowhere", which is no folder'):
        run_stage("vae", **chosen, start=tmp_path / "nowhere")


@pytest.mark.slow
def test_the_adapter_learns_and_its_file_has_photomakers_layout(tmp_path):
    settings = Settings(steps=3, batch=4, rate=1e-3, folder=tmp_path)
    base = BaseModel(0)
    before = {key: value.clone() for key, value in base.state_dict().items()}
    vae = ToyVAE()
    examples = draw_examples(vae, settings, count=8)
    assert len(list(tmp_path.glob("examples_8_0_*.pt"))) == 1
    judge = FaceJudge(vae, IdentityEncoder(), examples)
    tower = IdEncoder(0)
    untrained = {key: value.clone() for key, value in tower.state_dict().items()}
    adapter, _ = train_photomaker(base, tower, examples, settings, judge)
    learnt = {key for key, value in tower.state_dict().items() if not torch.equal(value, untrained[key])}
    assert "fuse_module.mlp2.fc2.weight" in learnt
    assert all(key.startswith("fuse_module.") for key in learnt)
    file = photomaker_file(adapter)
    encoder, lora = split_file(file, "toy")
    found = vision_config(encoder)
    assert found["projection_dim"] + len(encoder["visual_projection_2.weight"]) == TOY_WORLD.text_width
    assert (found["image_size"], found["patch_size"], found["num_attention_heads"]) == (128, 16, 3)
    assert any(value.abs().max() > 0 for key, value in lora.items() if "lora_B" in key)
    after = {
        key.replace(".base_layer", ""): value for key, value in adapter.base.state_dict().items() if "lora" not in key
    }
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.slow
def test_a_tower_alone_is_an_identity_generator_to_be_continued_from(tmp_path, monkeypatch):
    few_pictures(monkeypatch, tower_steps=2)
    out, work = make_random_toyworld(tmp_path), tmp_path / "work"
    run_stage("tower", device="cpu", seed=3, minutes=0.0, work=work, out=out)
    card = json.loads((out / "card.json").read_text(encoding="utf-8"))["tower"]
    assert card["files"] == ["photomaker"]
    assert set(card["measured"]) == {"variance_of_ten", "directions"}
    encoder, lora = split_file(load_weights("photomaker", out), "toy")
    assert all(not value.any() for key, value in lora.items() if "lora_B" in key)
    settings = Settings(steps=1, batch=2, rate=1e-12, folder=tmp_path / "next", start=out)
    adapter, _ = train_photomaker(BaseModel(0), tower_of(settings)[0], draw_examples(ToyVAE(), settings, 4), settings)
    continued = split_file(photomaker_file(adapter), "toy")[0]
    assert_close(continued["visual_projection.weight"], encoder["visual_projection.weight"])
    (out / "card.json").write_text(json.dumps({"photomaker": {}}), encoding="utf-8")
    with pytest.raises(ValueError, match="give an --out in which there is no finished identity generator"):
        run_stage("tower", device="cpu", seed=3, minutes=0.0, work=work, out=out)


def test_examples_point_at_the_person_in_the_mask(tmp_path):
    settings = Settings(steps=1, batch=1, rate=1e-3, folder=tmp_path)
    examples = draw_examples(ToyVAE(), settings, count=24)
    words = vocabulary()
    for row in range(24):
        assert words[examples.tokens[row, examples.positions[row]]] in ("man", "woman", "boy", "girl", "robot")
        assert examples.masks[row].sum() > 2
    assert isinstance(draw_examples(ToyVAE(), settings, count=24), Examples)  # from the file now


def test_the_adapter_changes_one_word_only():
    adapter = Adapter(BaseModel(0), IdEncoder(0)).eval()
    torch.nn.init.normal_(adapter.encoder.fuse_module.mlp1.fc2.weight)  # as if it had learnt
    tokens = torch.tensor([tokenize("a man and a woman in the snow", TOY_WORLD.text_length)])
    portraits = torch.rand(1, 2, 3, TOY_WORLD.picture_side, TOY_WORLD.picture_side) * 2 - 1
    with torch.no_grad():
        identity = adapter.identities(portraits)
        context = adapter.context(tokens, torch.tensor([5]), identity)
        plain = adapter.base.text(tokens)[0]
        without = adapter.context(tokens, torch.tensor([5]), identity, torch.tensor([False]))
    changed = (context != plain).any(dim=-1)[0].nonzero().flatten().tolist()
    assert changed == [5]
    assert torch.equal(without, plain)


def test_the_adapter_begins_with_what_the_text_says():
    adapter = Adapter(BaseModel(0), IdEncoder(0)).eval()
    tokens = torch.tensor([tokenize("a man and a woman in the snow", TOY_WORLD.text_length)])
    with torch.no_grad():
        context = adapter.context(tokens, torch.tensor([5]), torch.randn(1, TOY_WORLD.text_width))
        assert_close(context, adapter.base.text(tokens)[0])


def test_half_of_the_identities_are_drawn_towards_others_and_become_shorter():
    people = torch.eye(400) * 3
    drawn = drawn_together(people, StepRandom.of(0, 0, 0))
    assert_close(drawn.sum(dim=1), people.sum(dim=1))  # what is taken from one goes to others
    own = drawn.diagonal() / 3
    moved = own < 1
    assert 0.4 < moved.float().mean() < 0.6
    assert torch.equal(drawn[~moved], people[~moved])
    assert own.min() >= 1 - RECIPE.blend
    assert own[moved].mean() == pytest.approx(1 - RECIPE.blend / 2, abs=0.03)
    assert (drawn[moved].norm(dim=1) < people[moved].norm(dim=1)).all()


def test_captions_and_identities_are_left_out_at_the_recipes_shares(monkeypatch):
    few_pictures(monkeypatch, text_dropout=0.2, identity_dropout=0.25)
    settings = Settings(steps=1, batch=4, rate=1e-3)
    row = torch.tensor([tokenize("a woman with red hair", TOY_WORLD.text_length)]).repeat(2000, 1)
    tokens, kept = left_out(row, StepRandom.of(0, 0, 0), settings)
    silent = (tokens != row).any(dim=1)
    assert 0.17 < silent.float().mean() < 0.23
    assert 0.57 < kept.float().mean() < 0.63  # 0.8 x 0.75
    assert not (kept & silent).any()


def test_a_face_that_is_its_person_is_not_unlike(tmp_path):
    """Only latents that count are judged and moved; a face whose own features are asked for has nothing to lose."""
    settings = Settings(steps=1, batch=1, rate=1e-3, folder=tmp_path)
    vae = ToyVAE()
    examples = draw_examples(vae, settings, count=4)
    torch.manual_seed(0)
    judge = FaceJudge(vae, IdentityEncoder(), examples)
    latents = torch.randn(4, TOY_WORLD.latent_channels, 16, 16, requires_grad=True)
    rows, counts = torch.arange(4), torch.tensor([True, False, True, False])
    value = judge.unlikeness(latents, rows, counts)
    value.backward()
    assert 0 < value < 4  # two of four, each at most 2
    moved = latents.grad.abs().amax(dim=(1, 2, 3)) > 0
    assert moved.tolist() == counts.tolist()
    assert judge.unlikeness(latents, rows, torch.zeros(4, dtype=torch.bool)) == 0
    with torch.no_grad():
        seen = (vae.decode(latents[:1]) / 2 + 0.5).permute(0, 2, 3, 1)
        judge.people[0] = judge.recogniser.embed(seen.clamp(0, 1), examples.heads[:1])[0]
        assert judge.unlikeness(latents[:1], rows[:1], counts[:1]) < 1e-5


def test_an_even_spread_costs_nothing_and_few_directions_much():
    """Rows plus and minus along each axis are uncorrelated and equally strong."""
    even = torch.cat([torch.eye(8), -torch.eye(8)]).repeat(200, 1)
    assert spread_loss(even) < 1e-3
    narrow = torch.randn(400, 2, generator=torch.Generator().manual_seed(0)) @ torch.randn(2, 8)
    assert spread_loss(narrow) > 1
    assert_close(spread_loss(7 * narrow), spread_loss(narrow))


@pytest.mark.slow
def test_a_short_training_spreads_the_towers_embeddings(tmp_path, monkeypatch):
    settings = Settings(steps=30, batch=16, rate=1e-3, folder=tmp_path / "with")
    directions = {}
    for weight in (0.0, 1.0):
        few_pictures(monkeypatch, spread=weight)
        encoder, _ = train_tower(replace(settings, folder=tmp_path / str(weight)))
        directions[weight] = measure_tower(encoder, people=60)["directions"]
    assert directions[1.0] > 1.3 * directions[0.0]


def test_head_squares_hold_heads(tmp_path):
    settings = Settings(steps=1, batch=1, rate=1e-3, folder=tmp_path)
    drawn = drawn_scenes(10, 5, settings)
    marked = np.zeros_like(drawn.pictures)
    for row, person in zip(*np.nonzero(drawn.words), strict=True):
        x, y = ((drawn.heads[row, person, :2] + drawn.heads[row, person, 2:]) / 2).clip(0, 127).astype(int)
        marked[row, y, x] = 255
    squares = head_squares(replace(drawn, pictures=marked), 40, np.random.default_rng(0))
    assert squares.shape == (40, 3, 64, 64)
    assert (squares == 1).flatten(1).any(dim=1).all()


def test_edges_are_compared_at_every_distance():
    flat, stripes = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    stripes[..., ::2] = 1  # neighbours differ, every second pixel is alike
    plain = 0.5 + 0.5
    assert_close(drawing_loss(flat, stripes, (1,)), torch.tensor(plain + 0.5))
    assert_close(drawing_loss(flat, stripes, (2,)), torch.tensor(plain))
    assert_close(drawing_loss(flat, stripes, (1, 2)), torch.tensor(plain + 0.25))


def test_the_decoder_learns_from_what_is_redrawn_and_the_encoder_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(train_decoder, "PICTURES", 8)
    settings = Settings(steps=2, batch=4, rate=1e-3, folder=tmp_path, save_every=1)
    torch.manual_seed(0)
    vae, base = ToyVAE(), BaseModel(0)
    nn.init.normal_(vae.decoder.leave.weight, std=0.1)
    before, guess, guessed = (
        {key: each.clone() for key, each in vae.state_dict().items()},
        train_decoder.redrawn,
        [],
    )

    def noted(base, clean, words, random, settings):
        guessed.append(guess(base, clean, words, random, settings))
        return guessed[-1]

    monkeypatch.setattr(train_decoder, "redrawn", noted)
    assert len(train_decoder.train_decoder(vae, base, settings)) == 2
    changed = {key.split(".")[0] for key, each in vae.state_dict().items() if not torch.equal(each, before[key])}
    assert changed == {"decoder"}
    assert [len(each) for each in guessed] == [2, 2]  # half of the batch
    assert 0 < train_decoder.measure_redrawn(vae, base, settings, count=4) < 40
    with pytest.raises(ValueError, match="batch is 1"):
        train_decoder.train_decoder(vae, base, replace(settings, batch=1))


def test_a_base_model_that_is_right_draws_the_picture_again():
    """One that finds v exactly comes back to the latents from any noise, of which there is little."""
    settings, seen = Settings(steps=1, batch=1, rate=1e-3), []

    class Right(BaseModel):
        def predict_from(self, noisy, timesteps, words):
            seen.append(timesteps)
            a, b = (kept[timesteps].view(-1, 1, 1, 1) for kept in (diffusion.signal, diffusion.noise))
            return (a * noisy - 3.0) / b

    clean, diffusion = torch.full((200, 1, 4, 4), 3.0), Diffusion("cpu")
    found = train_decoder.redrawn(Right(0), clean, torch.zeros(200, 1), StepRandom.of(0, 0, 0), settings)
    assert_close(found, clean, tolerance=1e-4)
    assert len(seen) == train_decoder.STEPS
    assert 0.5 < noise_levels()[seen[0]].max() <= train_decoder.STRONGEST
    assert all((later <= earlier).all() for earlier, later in pairwise(seen))


def test_a_saved_base_model_loads_again(tmp_path):
    from safetensors.torch import save_file
    from story_identity.lab.toyworld.ldm_keys import unet_to_ldm

    base = BaseModel(4)
    save_file(unet_to_ldm(base.unet.state_dict()), tmp_path / "unet.safetensors")
    save_file(text_keys(base.text.state_dict()), tmp_path / "text_encoder.safetensors")
    loaded = load_base(tmp_path, seed=9)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in base.state_dict().items())
    assert isinstance(loaded.unet, UNet2DConditionModel)
    assert loaded.unet.config.block_out_channels == TOY_WORLD.unet["block_out_channels"]


def test_the_weights_are_the_cards_and_can_be_continued_from():
    cards = json.loads((WEIGHTS / "card.json").read_text(encoding="utf-8"))
    named = {name for card in cards.values() for name in card["files"]}
    there = [path.relative_to(folder) for folder in (WEIGHTS, LAB_WEIGHTS) for path in folder.rglob("*.safetensors")]
    assert named == {path.with_suffix("").as_posix() for path in there}
    base, vae, transformer = load_base(WEIGHTS, seed=0), load_vae(), Transformer(0)
    load_transformer(transformer, TRANSFORMER_WEIGHTS)
    for network in (base, vae, transformer):
        assert all(each.isfinite().all() for each in network.state_dict().values())


def test_normalising_the_latents_changes_no_picture():
    torch.manual_seed(1)
    vae = ToyVAE()
    pixels = torch.rand(100, 3, 4 * vae.ratio, 4 * vae.ratio) * 2 - 1
    start_at_principal_components(vae, pixels)
    with torch.no_grad():
        for part in (vae.encoder.leave, vae.decoder.leave):
            part.weight.normal_(std=0.1)
        for block in (
            each for each in vae.decoder.blocks if isinstance(each, Block)
        ):  # they would carry what is beyond the edge all over so small a picture
            block.convolutions[1].weight.zero_()
        vae.encoder.linear.bias += 3.0
        before, drawn = vae.encode(pixels), vae.decode(vae.encode(pixels))
        normalise_latents(vae, pixels)
        after, again = vae.encode(pixels), vae.decode(vae.encode(pixels))
    assert before.mean() > 1
    assert_close(after.mean((0, 2, 3)), torch.zeros(TOY_WORLD.latent_channels), tolerance=1e-4, scale=1)
    assert_close(after.std((0, 2, 3)), torch.ones(TOY_WORLD.latent_channels), tolerance=1e-3)
    inside = (
        slice(None),
        slice(None),
        slice(vae.ratio, -vae.ratio),
        slice(vae.ratio, -vae.ratio),
    )  # beyond the edge the convolutions see other zeros
    assert_close(drawn[inside], again[inside], tolerance=1e-4)
