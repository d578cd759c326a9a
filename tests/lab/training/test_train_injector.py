"""The injector's training: what each picture is shown, what learns, and a file that is an adapter."""

from contextlib import closing
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from story_identity.core.adapter_file import read_adapter
from story_identity.core.injector import ReferenceFeatures
from story_identity.headless.checkpoint import load_checkpoint
from story_identity.headless.reference_faces import ReferenceReader
from story_identity.headless.reference_injection import load_injector
from story_identity.headless.unet_attention import layer_names
from story_identity.lab.step_random import StepRandom
from story_identity.lab.training.batch import batch_of
from story_identity.lab.training.denoising_task import make_task
from story_identity.lab.training.loop import Loop
from story_identity.lab.training.train_injector import InjectorSettings, InjectorTraining, dealt
from story_identity.lab.training.train_synchronizer import Synchronizer
from transformers import CLIPVisionConfig, CLIPVisionModel

from tests.closeness import assert_close, largest_difference
from tests.stand_ins.diffusers_models import write_sd15, write_sdxl, write_single_file

from .pieces import SIDE, Source, group, synchronizer_settings

CLIP, FACE = 20, 7
GROUPS = [group(1, 3, 1), group(2, 3, 2)]


@pytest.fixture(scope="module")
def sd15(tmp_path_factory):
    return write_sd15(tmp_path_factory.mktemp("sd15"))


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    return write_sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="module")
def pipe(sd15):
    return load_checkpoint(str(sd15))


@pytest.fixture(scope="module")
def reader():
    """CLIP's image encoder, tiny and random."""
    torch.manual_seed(3)
    sizes = {"hidden_size": CLIP, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    return ReferenceReader(CLIPVisionModel(CLIPVisionConfig(**sizes, patch_size=7, image_size=28)).eval())


class Faces:
    """A reader in which everybody is found, or only some, with features that are drawn from the picture's pixels."""

    clip_width, face_width = CLIP, FACE

    def __init__(self, seed=0, missing=()):
        self.seed, self.missing = seed, missing

    def read(self, pictures, masks):
        rows = []
        for picture, mask in zip(pictures, masks, strict=True):
            seed = int((picture * mask.unsqueeze(-1)).double().sum() * 1e6) + self.seed
            rows.append(torch.randn(5 * CLIP + FACE, generator=torch.Generator().manual_seed(seed)))
        clip, face = torch.stack(rows).split([5 * CLIP, FACE], dim=1)
        found = torch.tensor([row not in self.missing and bool(mask.any()) for row, mask in enumerate(masks)])
        clip = torch.where(found.view(-1, 1, 1), clip.unflatten(1, (5, CLIP)), torch.ones(5, CLIP))
        return ReferenceFeatures(clip, torch.ones(1, 5, CLIP), face * found.unsqueeze(1)), found.tolist()


def settings(**changes):
    quiet = {"checkpoint": "toyworld", "data": "toyworld", "out": "nowhere", "width": SIDE, "height": SIDE, "steps": 2}
    quiet |= {"warm_up": 0, "tracker": "", "device": "cpu", "image_encoder": "toyworld", "frames": 2, "groups": 2}
    sizes = {"tokens": 3, "resampler_heads": 1, "resampler_depth": 1, "text_dropout": 0.0, "face_dropout": 0.0}
    return InjectorSettings(**{**quiet, **sizes, **changes})


def training(pipe, reader=None, **changes):
    return closing(InjectorTraining(pipe, settings(**changes), reader or Faces()))


def loss_of(trainee, groups=GROUPS, step=0):
    return trainee(groups, StepRandom.of(0, 0, step))["loss"]


# --- references


def test_each_picture_is_shown_another_one_of_the_same_character():
    groups = [group(seed, 6, 1 + seed % 2) for seed in range(4)]
    batch = batch_of(groups, settings(frames=5), StepRandom.of(0, 0, 0))
    rows = {pair: number for number, pair in enumerate((who, where) for who in range(2) for where in range(20))}
    rows = {pair: row for pair, row in rows.items() if pair[0] < len(batch.groups[pair[1] // 5].names)}
    pairs = {row: pair for pair, row in rows.items()}
    seen = set()
    for step in range(60):
        shown = dealt(rows, batch, "shuffled", StepRandom.of(0, 0, step))
        assert shown.keys() == rows.keys()
        assert sorted(shown.values()) == sorted((row,) for row in rows.values())
        for (who, where), (row,) in shown.items():
            assert pairs[row][0] == who
            assert pairs[row][1] != where
            assert pairs[row][1] // 5 == where // 5
            seen.add((where, pairs[row][1]))
    assert len(seen) == 4 * 5 * 4


def test_a_picture_can_be_shown_itself_or_all_of_its_group():
    groups = [group(seed, 3, 1 + seed % 2) for seed in range(2)]
    batch = batch_of(groups, settings(frames=3), StepRandom.of(0, 0, 0))
    rows = {(0, 0): 0, (0, 1): 1, (0, 2): 2, (0, 3): 3, (0, 4): 4, (1, 5): 5}
    random = StepRandom.of(0, 0, 0)
    assert dealt(rows, batch, "aligned", random) == {pair: (row,) for pair, row in rows.items()}
    all_of_them = {pair: (0, 1, 2) for pair in list(rows)[:3]} | {
        (0, 3): (3, 4, 3),
        (0, 4): (3, 4, 3),
        (1, 5): (5, 5, 5),
    }
    for mode in ("average", "stacked"):
        assert dealt(rows, batch, mode, random) == all_of_them
    assert dealt({(1, 5): 5}, batch, "shuffled", random) == {}


@pytest.mark.slow
def test_every_way_of_showing_references_trains_and_differs(pipe):
    losses = {}
    for mode in ("shuffled", "aligned", "average", "stacked"):
        with training(pipe, references=mode, face_dropout=0.5) as trainee:
            loss = loss_of(trainee)
            loss.backward()
            losses[mode] = float(loss.detach())
            assert all(each.grad is not None for each in trainee.injector.parameters())
    assert len(set(losses.values())) == 4


def shown(person):
    """The tokens that each picture sees."""
    return person.tokens[[row for (row,) in person.references]]


def test_of_two_pictures_each_is_shown_the_other(pipe, reader):
    one = replace(GROUPS[0], masks=GROUPS[0].masks.roll((2, 3), (2, 3)))
    with training(pipe, reader, groups=1) as trainee:
        batch = batch_of([one], trainee.settings, StepRandom.of(0, 0, 0))
        (person,), share = trainee._characters(batch, StepRandom.of(0, 0, 0))
        features, _ = reader.read(list(batch.pictures.flip(0)), [mask[0] > 0 for mask in batch.masks.flip(0)])
        tokens, _ = trainee.injector.identity_tokens(features)
    assert share == 1
    assert person.masks is None
    assert_close(shown(person), tokens)
    assert largest_difference(tokens[0], tokens[1]) > 1e-3


def test_who_is_found_in_one_picture_only_is_shown_no_reference(pipe):
    with training(pipe, Faces(missing=(0,)), groups=1) as trainee:
        batch = batch_of([GROUPS[0]], trainee.settings, StepRandom.of(0, 0, 0))
        (person,), share = trainee._characters(batch, StepRandom.of(0, 0, 0))
        features, _ = trainee.reader.read(list(batch.pictures), [torch.ones(SIDE, SIDE)] * 2)
        _, blank = trainee.injector.identity_tokens(features)
    assert share == 0
    assert_close(shown(person), blank)


def test_pictures_in_which_nobody_is_seen_are_learned_from_as_well(pipe):
    empty = [replace(each, masks=torch.zeros_like(each.masks)) for each in GROUPS]
    with training(pipe) as trainee:
        losses = trainee(empty, StepRandom.of(0, 0, 0))
        losses["loss"].backward()
        assert losses["faces"] == 0
        assert all(each.grad is not None for each in trainee.injector.parameters())


def test_one_picture_is_refused(pipe):
    with pytest.raises(ValueError, match="frames is 1; each picture's reference is another one.*2 or more"):
        settings(frames=1)
    for stage in ({}, {"stage": 2, "start": __file__}):
        with pytest.raises(ValueError, match="frames is 1"):
            settings(frames=1, **stage)
    with training(pipe) as trainee, pytest.raises(ValueError, match='"Mira" has 1 pictures, and frames is 2'):
        loss_of(trainee, [group(1, 1)])


def test_references_matter_unless_they_are_left_out(pipe):
    found = {}
    for dropout in (0.0, 1.0):
        for seed in (0, 1):
            with training(pipe, Faces(seed), face_dropout=dropout) as trainee:
                found[dropout, seed] = loss_of(trainee)
    assert torch.equal(found[1.0, 0], found[1.0, 1])
    assert (found[0.0, 0] - found[0.0, 1]).abs() > 1e-5


# --- the loss


def test_an_injector_that_says_nothing_leaves_the_plain_loss_bit_for_bit(pipe):
    with training(pipe) as trainee:
        for layer in trainee.injector.ip_adapter.values():
            layer.to_v_ip.weight.data.zero_()
        found = loss_of(trainee)
        random = StepRandom.of(0, 0, 0)
        batch = batch_of(GROUPS, trainee.settings, random)
        task = make_task(pipe, batch.pictures, batch.captions, batch.labels, 2, random)
    plain = torch.nn.functional.mse_loss(task.predict(pipe), task.target)
    assert torch.equal(found, plain)


def test_somebody_alone_is_everywhere_and_two_are_where_they_are(pipe):
    with training(pipe) as trainee:
        batch = batch_of(GROUPS, trainee.settings, StepRandom.of(0, 0, 0))
        people, _ = trainee._characters(batch, StepRandom.of(0, 0, 0))
        alone = torch.cat([torch.ones(2, SIDE, SIDE), batch.masks[2:, 0]])
        assert torch.equal(torch.stack(list(people[0].masks)), alone)
        assert not torch.stack(list(people[1].masks))[:2].any()
        assert torch.equal(torch.stack(list(people[1].masks))[2:], batch.masks[2:, 1])


def test_frames_that_share_nothing_have_the_loss_of_single_pictures(pipe, tmp_path):
    with training(pipe) as trainee:
        start = str(trainee.save(tmp_path))
        alone = loss_of(trainee)
    found = []
    for plain in (1.0, 0.0):
        with training(pipe, stage=2, start=start, plain=plain) as trainee:
            found.append(loss_of(trainee))
    assert torch.equal(found[0], alone)
    assert (found[1] - alone).abs() > 1e-6


def test_gradient_checkpointing_changes_nothing_but_memory(pipe):
    found = []
    for checkpointing in (False, True):
        with training(pipe, gradient_checkpointing=checkpointing) as trainee:
            trainee.unet.train()
            loss = loss_of(trainee)
            loss.backward()
            found.append((loss, [each.grad for each in trainee.injector.parameters()]))
            trainee.unet.eval()
    assert_close(found[1][0], found[0][0])
    assert all(largest_difference(*pair) <= 1e-5 for pair in zip(found[0][1], found[1][1], strict=True))


# --- what learns, and what is saved


def test_a_new_injector_begins_with_the_prompts_keys_and_values(pipe):
    with training(pipe) as trainee:
        names = layer_names(pipe.unet)
        assert list(trainee.injector.ip_adapter) == [str(number) for number in range(1, len(names), 2)]
        for number in range(1, len(names), 2):
            own, layer = pipe.unet.get_submodule(names[number]), trainee.injector.layer(number)
            assert torch.equal(layer.to_k_ip.weight, own.to_k.weight)
            assert torch.equal(layer.to_v_ip.weight, own.to_v.weight)


@pytest.mark.parametrize("kind", ["plus-face", "FaceID-Plus"])
def test_only_the_injector_is_trained_and_its_file_is_an_adapter(pipe, kind, tmp_path):
    frozen = {name: each.clone() for part in (pipe.unet, pipe.text_encoder) for name, each in part.state_dict().items()}
    changes = {"adapter": kind, "face_models": "toyworld", "learning_rate": 1e-2, "ema": 0.0, "out": str(tmp_path)}
    with training(pipe, **changes) as trainee:
        before = {name: each.clone() for name, each in trainee.injector.state_dict().items()}
        saved = Loop(trainee, Source(), trainee.settings).run()
        after = trainee.injector.state_dict()
    assert not any(torch.equal(after[name], each) for name, each in before.items())
    now = {name: each for part in (pipe.unet, pipe.text_encoder) for name, each in part.state_dict().items()}
    assert all(torch.equal(now[name], each) for name, each in frozen.items())
    adapter = read_adapter(saved)
    assert saved.name == "injector.safetensors"
    assert (adapter.config.kind, adapter.config.tokens) == (kind, 3)
    assert adapter.config.face_width == (FACE if kind == "FaceID-Plus" else None)
    assert all(torch.equal(adapter.weights[name], each) for name, each in after.items())
    assert load_injector(saved, pipe).config == adapter.config


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_checkpoint_in_a_single_file_goes_through_both_stages(request, tmp_path, family, reader):
    folder = request.getfixturevalue(family)
    path = write_single_file(tmp_path / "model.safetensors", load_checkpoint(str(folder)))
    pipe = load_checkpoint(str(path), config=folder)
    first, second = tmp_path / "first", tmp_path / "second"
    with training(pipe, reader, out=str(first)) as trainee:
        start = Loop(trainee, Source(), trainee.settings).run()
    with closing(Synchronizer(pipe, synchronizer_settings())) as synchronizer:
        for name, each in synchronizer.named_parameters():
            if "lora_B" in name:
                each.data.fill_(0.1)
        lora = synchronizer.save(tmp_path)
    plain = {name: each.clone() for name, each in pipe.unet.state_dict().items()}
    changes = {"stage": 2, "start": str(start), "synchronizer": str(lora), "out": str(second)}
    with training(pipe, reader, **changes) as trainee:
        assert torch.equal(trainee.injector.image_proj.latents, read_adapter(start).weights["image_proj.latents"])
        merged = pipe.unet.state_dict()
        assert merged.keys() == plain.keys()
        assert any(not torch.equal(merged[name], each) for name, each in plain.items() if "attn1" in name)
        saved = Loop(trainee, Source(), trainee.settings).run()
    assert load_injector(saved, pipe).config == read_adapter(start).config


# --- what does not fit


def test_an_adapter_of_other_sizes_is_refused(pipe, tmp_path):
    with training(pipe) as trainee:
        start = str(trainee.save(tmp_path))
    with pytest.raises(ValueError, match="of other sizes.*tokens=3.*tokens=4"):
        training(pipe, tokens=4, start=start)
    save_file({"a": torch.zeros(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match="changes no layer|does not fit"):
        training(pipe, stage=2, start=start, synchronizer=str(tmp_path / "lora.safetensors"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapter": "FaceID"}, 'adapter is "FaceID".*plus-face, FaceID-Plus'),
        ({"adapter": "FaceID-Plus"}, "reads face embeddings; give face_models"),
        ({"image_encoder": ""}, "image_encoder is not given"),
        ({"image_encoder": "nowhere"}, 'image_encoder: there is no "nowhere"'),
        ({"stage": 2}, "give start its file"),
        ({"stage": 3}, "stage is 3; it must be one of 1, 2"),
        ({"synchronizer": __file__}, "belongs to stage 2"),
        ({"face_dropout": 1.5}, "face_dropout is 1.5"),
        ({"tokens": 0}, "tokens is 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        settings(**changes)
