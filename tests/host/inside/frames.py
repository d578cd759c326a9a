"""A small story on the tiny models: prompts that name people, AMSA on it, and what the checks of it look at."""

import contextlib
import logging

import comfy.controlnet
import comfy.model_patcher
import comfy.sample
import setting
import torch
from story_identity.core.frame_sharing import FrameSharing, Sharing, subject_positions
from story_identity.core.story import Story
from story_identity.nodes.host.shared_attention import SharedAttention
from story_identity.nodes.host.story_prompts import NAMED

HEIGHT, WIDTH = 8, 16
PEOPLE = [
    {"name": "Mira", "word": "woman", "description": "a woman with red hair"},
    {"name": "Ben", "word": "man", "description": "an old man"},
]
WORDS = {"Mira": [2, 5], "Ben": [9]}
CAPTIONS = ("Mira waits", "Mira meets Ben", "Ben runs", "an empty beach", "Ben and Mira")


def story(count=3):
    return Story.parse({"characters": PEOPLE, "frames": [f"{CAPTIONS[i % 5]}, {i}" for i in range(count)]})


def prompts(model, told, tokens=77, negative_tokens=77, negative_seed=50):
    """Random prompts, one per frame, that name the frame's people at `WORDS`; and random negatives."""
    positive = _rows([setting.conditioning(model, 1 + i, tokens) for i in range(len(told.frames))])
    negative = _rows([setting.conditioning(model, negative_seed + i, negative_tokens) for i in range(len(told.frames))])
    casts = [{person.name for person in frame.cast} for frame in told.frames]
    named = {
        "names": list(WORDS),
        "prompts": [frame.prompt for frame in told.frames],
        "positions": [[places if name in cast else [] for cast in casts] for name, places in WORDS.items()],
    }
    positive[0][1][NAMED] = named
    return positive, negative


def _rows(conditionings):
    tensors, extras = zip(*(conditioning[0] for conditioning in conditionings), strict=True)
    joined = {key: torch.cat([each[key] for each in extras]) for key in extras[0]}
    return [[torch.cat(tensors), joined]]


def noise_of(count, seed=3):
    return torch.stack(
        [torch.randn(4, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed + i)) for i in range(count)]
    )


def sample(model, told, *, positive=None, negative=None, steps=3, cfg=4.0, sampler="euler", noise=None, **more):
    own = prompts(model, told)
    noise = noise_of(len(told.frames)) if noise is None else noise
    settings = (steps, cfg, sampler, "normal", positive or own[0], negative or own[1])
    return comfy.sample.sample(model, noise, *settings, torch.zeros_like(noise), disable_pbar=True, seed=7, **more)


def amsa(model, told, **settings):
    own = {name: settings.pop(name) for name in ("start", "end", "anchors") if name in settings}
    return SharedAttention(told, Sharing(**settings), **own).added_to(model)


@contextlib.contextmanager
def warnings():
    """What AMSA logs meanwhile."""
    said = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    try:
        yield said
    finally:
        logging.getLogger().removeHandler(handler)


@contextlib.contextmanager
def split_calls():
    """The host believes that only one prompt fits into a call."""
    patcher = comfy.model_patcher.ModelPatcher
    free = patcher.get_free_memory
    patcher.get_free_memory = lambda self, device: 0
    try:
        yield
    finally:
        patcher.get_free_memory = free


def on_two_gpus(model):
    """A clone as the stock node MultiGPU CFG Split leaves it where there are two GPUs."""
    divided = model.clone()
    divided.set_additional_models("multigpu", [model])
    return divided


@contextlib.contextmanager
def masks_noted():
    """Per noise level and grid, what AMSA shared: (subject `(n, l)`, labels `(n, l)`)."""
    noted = {}
    begin = FrameSharing.begin_call

    def noting(sharing, prompts, level, device):
        begin(sharing, prompts, level, device)
        same = sharing.settings.same_character
        noted[level] = {grid: _dense(subject_positions(labels, same)) for grid, labels in sharing._labels.items()}

    FrameSharing.begin_call = noting
    try:
        yield noted
    finally:
        FrameSharing.begin_call = begin


def _dense(positions):
    subject = torch.zeros(positions.frames * positions.tokens, dtype=torch.bool)
    subject[positions.subject] = True
    labels = torch.zeros(positions.frames, positions.tokens, dtype=torch.long)
    for row, queries in enumerate(positions.queries):
        for label, own in queries.items():
            if label is not None:
                labels[row, own] = label
    return subject.view(positions.frames, positions.tokens), labels


class PerFrame(comfy.controlnet.ControlBase):
    """A control that pushes every frame by its own hint."""

    def get_models(self):
        return []

    def copy(self):
        other = PerFrame()
        self.copy_to(other)
        other.width = self.width
        return other

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        hint = self.cond_hint_original[:, :1, :1, :1]
        rows = comfy.controlnet.broadcast_image_to(hint, x_noisy.shape[0], batched_number)
        return {"middle": [rows.expand(-1, self.width, 1, 1)], "input": [], "output": []}


class Network(torch.nn.Module):
    """A ControlNet's network that answers with the brightness of the first and of the last channel of its hint."""

    def __init__(self, width):
        super().__init__()
        self.width = width
        self.dtype = torch.float32

    def forward(self, x, hint, timesteps, context, **more):
        rows = (hint[:, :1] + 5 * hint[:, -1:]).mean(dim=(2, 3), keepdim=True)
        return {"middle": [rows.expand(-1, self.width, 1, 1).contiguous()], "input": [], "output": []}


def controlnet(model, hints, masks):
    """The host's own ControlNet, of the kind that takes masks beside its hints."""
    network = Network(_width(model))
    control = comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"), extra_conds=[], concat_mask=True)
    return control.set_cond_hint(hints, extra_concat=[masks])


def per_frame(model, hints):
    control = PerFrame().set_cond_hint(hints)
    control.width = _width(model)
    return control


def _width(model):
    return model.model.diffusion_model.middle_block[-1].out_channels


def controlled(model, conditioning, hints):
    return with_control(conditioning, per_frame(model, hints))


def with_control(conditioning, control):
    return [
        [tensor, {**extras, "control": control, "control_apply_to_uncond": True}] for tensor, extras in conditioning
    ]
