"""The ID injector: an adapter through which a UNet sees the faces of reference pictures.

Storynizor, sections 3.2 and 4. Stage 1 trains on single pictures, stage 2 on frames that see each other, with the
frozen synchronizer. In both each picture's reference is another picture of the same character (equations 10 to 12),
so that the face is learned and not the pose. The setting `references` trains the other ways of the paper's table 5.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from ...core.adapter_file import read_adapter, write_adapter
from ...core.attention_hooks import Hook
from ...core.face_injection import FaceInjection, InjectedCharacter
from ...core.injector import AdapterConfig, Injector, ResamplerConfig
from ...core.shapes import Float
from ...core.shuffle import derangement
from ...core.story import Story
from ...headless.checkpoint import merge_lora
from ...headless.reference_faces import FeatureReader, load_reader
from ...headless.reference_injection import cross_attention_hook, cross_attention_widths, inject_story
from ...headless.reference_pictures import read_float
from ...headless.schema import setting
from ..step_random import StepRandom
from .batch import Batch, batch_of
from .denoising_task import make_task
from .frozen_unet import FrozenPipeline
from .groups import Group
from .settings import TrainingSettings

FILE = "injector.safetensors"
PLUS_FACE, FACEID_PLUS = "plus-face", "FaceID-Plus"


class InjectorSettings(TrainingSettings):
    """The settings of the injector's training. Sizes that are not given are those of plus-face for SD1.5."""

    adapter: Literal["plus-face", "FaceID-Plus"] = setting(PLUS_FACE, "FaceID-Plus needs face_models as well.")
    image_encoder: str = setting(
        "", 'A folder of CLIP\'s image encoder (CLIPVisionModelWithProjection), or "toyworld".'
    )
    face_models: str = setting(
        "", 'A folder of insightface\'s models, .../models/NAME, for non-commercial research only; or "toyworld".'
    )
    tokens: int = setting(16, "Identity tokens per reference; public FaceID-Plus files have 4.", ge=1, le=2**10)
    resampler_width: int = setting(
        0, "Width of the resampler; 0: that of the prompts, as FaceID-Plus must have it.", ge=0, le=2**16
    )
    resampler_heads: int = setting(12, "Heads of the resampler's attention, each 64 wide.", ge=1, le=2**10)
    resampler_depth: int = setting(4, "The resampler's layers.", ge=1, le=2**10)
    references: Literal["shuffled", "aligned", "average", "stacked"] = setting(
        "shuffled",
        "Which pictures of its group a picture is shown: another one (the paper's way), itself, or all of them, of "
        "which one is made or which are put side by side.",
    )
    face_dropout: float = setting(0.05, "Share of pictures that are shown no reference.", ge=0, le=1)
    stage: Literal[1, 2] = setting(
        1, "1: single pictures. 2: frames that see each other; starts from a stage 1 adapter."
    )
    start: str = setting("", "The adapter to start from, of the same sizes, such as a public file.")
    synchronizer: str = setting("", "Stage 2: the synchronizer LoRA, if there is one.")

    @model_validator(mode="after")
    def _check_parts(self) -> "InjectorSettings":
        if self.frames < 2:
            raise ValueError(
                f"frames is {self.frames}; each picture's reference is another one of its group, so 2 or more are "
                "needed, in stage 1 too."
            )
        if not self.image_encoder:
            raise ValueError("image_encoder is not given; every adapter reads the hidden states of one.")
        if self.adapter == FACEID_PLUS and not self.face_models:
            raise ValueError('adapter is "FaceID-Plus", which reads face embeddings; give face_models.')
        if self.stage == 1 and self.synchronizer:
            raise ValueError("stage 1 trains on single pictures; the synchronizer belongs to stage 2.")
        if self.stage == 2 and not self.start:
            raise ValueError("stage 2 starts from the adapter of stage 1; give start its file.")
        return self

    def files(self) -> tuple[str, ...]:
        return (*super().files(), "image_encoder", "face_models", "start", "synchronizer")


class InjectorTraining(FrozenPipeline):
    """An adapter to be trained on a pipeline's UNet; everything else is frozen.

    Args:
        pipe: Until `close` its UNet has the hooks. The synchronizer is merged into its weights and stays there.
        settings: How.
        reader: The reader of references; None loads the one that the settings name.

    Raises:
        ValueError: If the adapter to start from, or the synchronizer, does not fit.
        FileNotFoundError: If a model is missing.
    """

    def __init__(self, pipe: Any, settings: InjectorSettings, reader: FeatureReader | None = None) -> None:
        if settings.synchronizer:
            merge_lora(pipe, Path(settings.synchronizer), 1.0)
        super().__init__(pipe, settings)
        self.settings = settings
        device, dtype = self.unet.device, self.unet.dtype
        self.reader = reader or load_reader(settings.image_encoder, settings.face_models, device, dtype)
        torch.manual_seed(settings.seed)
        self.injector = _new_injector(self.unet, settings, self.reader).to(device, torch.float32)

    def forward(self, groups: Sequence[Group], random: StepRandom) -> dict[str, Float[Tensor, ""]]:
        """The loss of some groups, and "faces", the share of people in pictures who have a reference."""
        settings = self.settings
        batch = batch_of(groups, settings, random)
        task = make_task(self.pipe, batch.pictures, batch.captions, batch.labels, settings.frames, random)
        characters, faces = self._characters(batch, random)
        injection = FaceInjection(self.injector, characters, settings.references, keep_projections=False)
        self.attention.cross_attention = cross_attention_hook(injection, len(batch.pictures))
        shares = random.chosen(len(groups), 1 - settings.plain) if settings.stage == 2 else []
        seen = self.attention.look(self.pipe, task, batch) if any(shares) else None
        self.attention.begin(seen=seen, shares=shares)
        loss = nn.functional.mse_loss(self.predict(task), task.target)
        return {"loss": loss, "faces": torch.tensor(faces, device=loss.device)}

    def _characters(self, batch: Batch, random: StepRandom) -> tuple[list[InjectedCharacter], float]:
        """Every character's tokens in every picture, and the share of those in a picture who have a reference.

        Faces act where the character's mask is; where no group has several characters, everywhere, as IP-Adapters are
        trained.
        """
        device, seen = self.unet.device, batch.masks.flatten(2).any(dim=2)
        nobody = torch.zeros_like(batch.masks[0, 0], dtype=torch.bool)
        pairs = seen.T.nonzero().tolist()  # character, picture
        with torch.autocast(device.type, enabled=False):
            features, found = self.reader.read(
                [*(batch.pictures[picture] for _, picture in pairs), batch.pictures[0]],
                [*(batch.masks[picture, character] > 0 for character, picture in pairs), nobody],
            )
        rows = {(who, where): row for row, (who, where) in enumerate(pairs) if found[row]}
        shown = dealt(rows, batch, self.settings.references, random)
        left_out = random.chosen(len(batch.pictures), self.settings.face_dropout)
        tokens, _ = self.injector.identity_tokens(features)
        characters, no_reference = [], (len(pairs),) * max(map(len, shown.values()), default=1)
        for character in range(batch.most):
            chosen = [
                no_reference if out else shown.get((character, picture), no_reference)
                for picture, out in enumerate(left_out)
            ]
            masks = None if batch.most == 1 else list(self._masks(batch, character).to(device))
            characters.append(InjectedCharacter(tokens, chosen, masks))
        return characters, len(shown) / max(1, len(pairs))

    def _masks(self, batch: Batch, character: int) -> Float[Tensor, "n h w"]:
        """Where a character's face acts; everywhere in the pictures of groups that have only this one."""
        alone = torch.tensor([len(group.names) == 1 for group in batch.groups for _ in group.captions])
        return torch.where(alone.view(-1, 1, 1), float(character == 0), batch.masks[:, character])

    def cross_attention(self, story: Story) -> Hook:
        """The cross-attention hook with which a story is drawn; paths of reference pictures start from its file."""
        folder, faces = Path(self.settings.story).parent, {}
        for character in story.characters:
            pictures = [read_float(folder / path) for path in character.reference_images]
            if pictures:
                faces[character.name], _ = self.reader.read(pictures, [None] * len(pictures))
        return inject_story(self.injector, story, faces, self.settings.references, seed=self.settings.seed)

    def save(self, folder: Path) -> Path:
        """Write the adapter in the public layout; its path."""
        path = folder / FILE
        write_adapter(path, self.injector)
        return path


def dealt(
    rows: Mapping[tuple[int, int], int], batch: Batch, mode: str, random: StepRandom
) -> dict[tuple[int, int], tuple[int, ...]]:
    """For characters in pictures, the rows of the pictures that each is shown, as many for each.

    Args:
        rows: By character and picture, where its features are.
        batch: Whose pictures they are; references come from a picture's own group.
        mode: `shuffled`: another picture with the same character, so that nobody is left who is seen in a single one;
            `aligned`: the picture itself; `average` and `stacked`: all pictures with the character, where those are
            fewer than a group has frames, the first of them twice.
        random: Shuffles.
    """
    shown: dict[tuple[int, int], tuple[int, ...]] = {}
    frames = len(batch.pictures) // len(batch.groups)
    for first in range(0, len(batch.pictures), frames):
        for character in range(batch.most):
            bucket = [(character, first + i) for i in range(frames) if (character, first + i) in rows]
            own = [rows[each] for each in bucket]
            if mode == "shuffled":
                others = derangement(len(own), random.torch).tolist() if len(own) > 1 else []
                shown |= {each: (own[other],) for each, other in zip(bucket, others, strict=False)}
            elif mode == "aligned":
                shown |= {each: (row,) for each, row in zip(bucket, own, strict=True)}
            else:
                shown |= dict.fromkeys(bucket, tuple(islice(cycle(own), frames)))
    return shown


def _new_injector(unet: Any, settings: InjectorSettings, reader: FeatureReader) -> Injector:
    """The adapter to start from, or a new one, whose keys and values begin as the prompt's own (as in IP-Adapter)."""
    widths, cross_width = cross_attention_widths(unet), unet.config.cross_attention_dim
    heads, depth = settings.resampler_heads, settings.resampler_depth
    resampler = ResamplerConfig(reader.clip_width, settings.resampler_width or cross_width, heads, depth)
    face_width = reader.face_width if settings.adapter == FACEID_PLUS else None
    config = AdapterConfig(settings.tokens, cross_width, tuple(widths.values()), resampler, face_width)
    if settings.start:
        adapter = read_adapter(Path(settings.start))
        if adapter.config != config:
            raise ValueError(
                f"{settings.start} is of other sizes than the settings, the checkpoint and the image encoder say: it "
                f"has {adapter.config}, they say {config}."
            )
        return adapter.injector()
    injector = Injector(config)
    for index, name in enumerate(widths):
        attention, layer = unet.get_submodule(name), injector.layer(2 * index + 1)
        layer.to_k_ip.weight.data.copy_(attention.to_k.weight)
        layer.to_v_ip.weight.data.copy_(attention.to_v.weight)
    return injector
