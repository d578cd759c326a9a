"""The loaded models and what they do: portraits, identities, the two passes of a frame."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..core.character_mentions import Character
from ..core.guidance import TEMPLATES
from ..core.identity import Identity, discover_identity, largest_usable_rank
from ..core.identity_discovery import identity_movement
from ..core.latent_cache import NoisyLatentCache
from ..core.layout import Layout
from ..core.photomaker import with_repeated_word
from ..core.quoting import quote
from ..core.shapes import Float
from ..core.story import Appearance, Frame, Story
from .checkpoint import Pipeline, load_checkpoint
from .detection import Detector, find_characters, toyworld_folder
from .identity_generator import PhotoMaker, identity_generator, load_photomaker
from .option_values import TOYWORLD
from .prompts import Prompt, check_length, check_prompts, encode_prompt, word_position
from .run_settings import RunSettings
from .sampling import SamplingPlan, decode, from_model_scale, redenoise, sample, sample_template, starting_noise
from .solvers import Solver

Report = Callable[[str, int, int], None]
"""Called with what is being made, how many steps of it are done, and how many there are."""

Pictures = Float[Tensor, "m h w 3"]


@dataclass(frozen=True)
class Studio:
    """Models and settings; the methods keep nothing between calls."""

    settings: RunSettings
    pipe: Pipeline
    photomaker: PhotoMaker
    detector: Detector | None

    def check(self, story: Story, characters: Sequence[Character]) -> None:
        """Everything about a story that can be known before the first UNet call.

        Raises:
            ValueError: If a prompt is too long, or a class word is no token of its own.
        """
        check_prompts(self.pipe, story, self.settings.prompt, self.photomaker.tokens)
        for character in characters:
            self.check_portraits(character)

    def check_portraits(self, character: Character) -> None:
        """Raise a ValueError if their portraits cannot be drawn or read: a prompt too long, no face recogniser."""
        if character.name not in dict(self.settings.identities):
            self.photomaker.require_recogniser()
        check_length(self.pipe, self._portrait_prompt(character), _portraits_of(character))
        check_length(self.pipe, self.settings.portrait_negative, "The portraits' negative prompt")

    def first_portrait_seed(self, number: int) -> int:
        """The seed of the first portrait of the story's `number`th character, from 0: no two share a starting noise."""
        return (self.settings.seed + number * self.settings.portraits) % 2**64

    def draw_portraits(self, character: Character, first_seed: int, report: Report) -> Iterator[Pictures]:
        """Text-only portraits by the base model, in sub-batches; the nth starts from the noise of seed + n - 1."""
        settings = self.settings
        plan = self._plan(settings.portrait_steps, settings.portrait_cfg)
        label = _portraits_of(character)
        positive = encode_prompt(self.pipe, self._portrait_prompt(character), label)
        denoiser = plan.denoiser(positive, encode_prompt(self.pipe, settings.portrait_negative, label))
        side, total = settings.portrait_side // self.pipe.vae_scale_factor, settings.portraits * plan.steps
        for first in range(0, settings.portraits, settings.portrait_batch):
            count = min(settings.portrait_batch, settings.portraits - first)
            seeds = [(first_seed + first + i) % 2**64 for i in range(count)]
            noise = starting_noise(seeds, self.pipe.vae.config.latent_channels, side, side).to(self.pipe.unet.device)
            latents = sample(
                Solver(plan.sampler, plan.sigmas(), seeds[0]),
                denoiser,
                noise,
                plan.levels(),
                lambda step, first=first, count=count: report(label, first * plan.steps + count * step, total),
            )
            yield decode(self.pipe, from_model_scale(self.pipe, latents))

    def discover(
        self, character: Character, first_seed: int, keep: Callable[[Pictures], None], report: Report
    ) -> tuple[Identity, list[int]]:
        """Draw portraits and find the identity most of them agree on (IdentityStory, section 3.1).

        Args:
            character: Whom to draw.
            first_seed: The seed of the first portrait.
            keep: Called with every sub-batch of portraits.
            report: Called in every step, with what is being made and how far it is.

        Returns:
            The identity, and the positions of the portraits it is the mean of.

        Raises:
            ValueError: If the encoder reads faces and finds one in too few of the portraits.
        """
        settings, rows, seen, drawn = self.settings, [], [], 0
        for pictures in self.draw_portraits(character, first_seed, report):
            embeddings, found_in = self.photomaker.embed_found(pictures)
            rows.append(embeddings)
            seen += [drawn + row for row in found_in]
            drawn += len(pictures)
            keep(pictures)
            if settings.settled and self._moved(torch.cat(rows), len(embeddings)) < settings.settled:
                break
        if not seen:
            raise ValueError(
                f"{_portraits_of(character)}: the face models find a face in none of the {drawn}. They know "
                "photographs, not drawings: change --portrait-template, or take PhotoMaker v1, which needs no faces."
            )
        embedded = torch.cat(rows)
        found = discover_identity(embedded, self._rank_for(embedded), settings.keep_ratio, settings.rounds)
        about = {
            "portraits": drawn,
            "first_seed": first_seed,
            "rank": found.rank,
            "keep_ratio": settings.keep_ratio,
            "iterations": settings.rounds,
            "rounds": [asdict(each) for each in found.rounds],
        }
        if len(seen) < drawn:
            about["without_face"] = sorted(set(range(drawn)) - set(seen))
        return self.identity(character, found.embedding, {"discovery": about}), [seen[row] for row in found.kept]

    def _moved(self, embeddings: Tensor, last: int) -> float:
        """How far the last portraits moved the identity; infinite where they had no face."""
        chosen = self.settings
        return identity_movement(embeddings, last, chosen.rank, chosen.keep_ratio, chosen.rounds) if last else math.inf

    def _rank_for(self, embeddings: Tensor) -> int:
        """The rank of the settings; where drawing has stopped early, at most what so few portraits allow."""
        chosen, (count, width) = self.settings, embeddings.shape
        usable = largest_usable_rank(count, width, chosen.keep_ratio, chosen.rounds)
        return min(chosen.rank, usable) if chosen.settled and usable else chosen.rank

    def identity(self, character: Character, embedding: Float[Tensor, " d"], metadata: Mapping) -> Identity:
        return Identity(character.name, character.description, self.photomaker.encoder_id, embedding, metadata)

    def sample_frame(self, frame: Frame, seed: int, report: Report) -> NoisyLatentCache:
        """The frame as the base model draws it, with everything re-denoising needs."""
        settings, channels = self.settings, self.pipe.vae.config.latent_channels
        ratio = self.pipe.vae_scale_factor
        noise = starting_noise([seed], channels, settings.height // ratio, settings.width // ratio)
        positive, negative = (encode_prompt(self.pipe, text, frame.label) for text in (frame.prompt, frame.negative))
        plan = self._plan(settings.steps, settings.cfg)
        on_step, with_unconditional = self._steps(f"{frame.label}, template", report), settings.guidance == TEMPLATES
        cache = sample_template(plan, positive, negative, noise, seed, on_step, with_unconditional)
        check_finite(cache.final, f"{frame.label}: the template", settings)
        return cache

    def picture(self, latent: Float[Tensor, "1 c h w"]) -> Float[Tensor, "H W 3"]:
        return decode(self.pipe, latent)[0]

    def find(self, frame: Frame, picture: Float[Tensor, "h w 3"], masks: Path | None) -> Layout:
        """Who is where in the template: from a mask file, or by the detector."""
        return find_characters(self.settings, self.detector, frame, picture, masks)

    def put_in(
        self,
        frame: Frame,
        cache: NoisyLatentCache,
        layout: Layout,
        identities: Mapping[str, Identity],
        report: Report,
    ) -> Float[Tensor, "1 c h w"]:
        """The frame's latent with the characters' identities in their masks."""
        settings = self.settings
        negative = encode_prompt(self.pipe, frame.negative, frame.label)
        prompts = {
            each.character.name: (self._prompt_with(identities[each.character.name], frame, each), negative)
            for each in frame.appearances
        }
        with identity_generator(self.pipe, self.photomaker):
            return redenoise(
                self._plan(settings.steps, settings.cfg),
                cache,
                layout,
                prompts,
                start=settings.start,
                max_kernel=settings.max_kernel,
                soft_edge=settings.soft_edge,
                guidance=settings.guidance,
                region_margin=settings.region_margin if settings.region else None,
                on_step=self._steps(f"{frame.label}, re-denoising", report),
            )

    def _prompt_with(self, identity: Identity, frame: Frame, appearance: Appearance) -> Prompt:
        """What conditions the identity generator for one character: the prompt with the identity in the class word."""
        identity.require_encoder(self.photomaker.encoder_id)
        about = frame.prompt_about(appearance, self.settings.prompt)
        text, class_words = with_repeated_word(*about, self.photomaker.tokens)
        positions = [word_position(self.pipe, text, each, frame.label) for each in class_words]
        return self.photomaker.fuse(encode_prompt(self.pipe, text, frame.label), positions, identity.embedding)

    def _plan(self, steps: int, cfg: int | float) -> SamplingPlan:
        return SamplingPlan(self.pipe, self.settings.sampler, self.settings.scheduler, steps, cfg)

    def _portrait_prompt(self, character: Character) -> str:
        return self.settings.portrait_template.replace("{character}", character.description)

    def _steps(self, what: str, report: Report) -> Callable[[int], None]:
        return lambda step: report(what, step, self.settings.steps)


def _portraits_of(character: Character) -> str:
    return f"Portraits of {quote(character.name)}"


def check_finite(latents: Tensor, what: str, settings: RunSettings) -> None:
    """Raise a ValueError if the model overflowed."""
    if not latents.isfinite().all():
        raise ValueError(
            f"{what} has NaN or infinite values: the model overflowed in {settings.dtype}. Use another dtype "
            "(bfloat16, float32) or a lower cfg."
        )


def open_pipeline(settings: RunSettings, device: str) -> Pipeline:
    """Load the checkpoint with its LoRAs."""
    return load_checkpoint(
        settings.checkpoint,
        device,
        getattr(torch, settings.dtype),
        Path(settings.config) if settings.config else None,
        [(Path(path), strength) for path, strength in settings.loras],
    )


def open_studio(settings: RunSettings, device: str, detector: Detector | None = None) -> Studio:
    """Load the checkpoint and PhotoMaker; on `device`, which is this process's own."""
    pipe = open_pipeline(settings, device)
    if settings.photomaker == TOYWORLD:
        path = toyworld_folder(settings) / "photomaker.safetensors"
    else:
        path = Path(settings.photomaker)
    return Studio(settings, pipe, load_photomaker(path, pipe, settings.face_models), detector)
