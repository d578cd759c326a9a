"""The two passes: Noisy Latent Cache, Cast, Progressive-Mask Re-denoise."""

from dataclasses import replace
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from comfy_api.latest import io

from ..core.guidance import GUIDANCE, OWN
from ..core.identity import Identity
from ..core.latent_cache import NoisyLatentCache
from ..core.layout import Layout
from ..core.pass_reports import describe_redenoising
from ..core.quoting import quote
from ..core.redenoise import ProgressiveMasks, scaled_kernel
from ..core.region import MARGIN
from ..core.story import Frame
from .host.checkpoint_parts import require_parts
from .host.latents import as_latent, frame_latent
from .host.miswiring import base_as_generator, generator_as_base, refuse_fused_prompts, refuse_shared_attention
from .host.node_text import report, warn
from .host.passes import check_sampler, redenoise, sample_template, sampler_name_of, schedule, shares_seen
from .host.references import warn_if_ignored
from .step_widget import link_problem, step_or_share, step_problem
from .types import (
    Cast,
    CastMember,
    CastSocket,
    Conditioning,
    IdentitySocket,
    LayoutSocket,
    NoisyLatentCacheSocket,
    StoryFrameSocket,
)

PRECISIONS = {"float32": torch.float32, "float16": torch.float16}


class NoisyLatentCacheNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityNoisyLatentCache",
            display_name="Noisy Latent Cache",
            category="StoryIdentity/sampling",
            description="Samples a frame exactly as KSampler does and keeps what the model predicted at every call, so "
            "that Progressive-Mask Re-denoise can change the characters and nothing else.",
            search_aliases=["ksampler", "template", "cache", "IdentityStory"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The base model, without an identity LoRA: the one that follows prompts best."
                ),
                io.Conditioning.Input("positive", tooltip="The frame's prompt; ControlNet and the like welcome."),
                io.Conditioning.Input("negative", tooltip="The frame's negative prompt."),
                io.Latent.Input("latent_image", tooltip="One picture; an empty latent, or one with a noise mask."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="The frame's seed, from Each Frame or Story Frames.",
                ),
                io.Int.Input("steps", default=50, min=1, max=1000, tooltip="Sampling steps (the paper's T)."),
                io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance scale."),
                io.Combo.Input(
                    "sampler_name",
                    options=comfy.samplers.KSampler.SAMPLERS,
                    default="euler",
                    tooltip="Any sampler but dpm_adaptive.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.KSampler.SCHEDULERS,
                    default="normal",
                    tooltip="The noise schedule.",
                ),
                io.Float.Input(
                    "denoise", default=1.0, min=0.01, max=1.0, step=0.01, tooltip="Below 1 it starts from latent_image."
                ),
                step_or_share(
                    "keep_from_step",
                    tooltip="Noisy latents are kept from this step on, to check at the start of re-denoising that the "
                    "replay arrived where the template was. Use that start, or less; predictions are always kept.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="float32",
                    tooltip="float16 halves the cache; the background is then equal to about 3 digits, not exactly.",
                ),
                io.Boolean.Input(
                    "keep_attention_maps",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Also keep where the model looks for each character, for Layout from Attention. The "
                    "positive must come from Encode Frame.",
                ),
                io.Noise.Input("noise", optional=True, tooltip="Replaces the seed."),
                io.Sampler.Input("sampler", optional=True, tooltip="Replaces sampler_name."),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="Replaces steps, scheduler and denoise. Noise levels must not rise.",
                ),
                io.Boolean.Input(
                    "keep_unconditional",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip='Also keep the unconditional predictions, for guidance "template\'s" in Progressive-Mask '
                    "Re-denoise. The cache grows by half or more.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent", tooltip="The template: the same as KSampler's. Decode it for the layout."
                ),
                NoisyLatentCacheSocket.Output(
                    display_name="cache",
                    tooltip="For Progressive-Mask Re-denoise, and with attention maps for Layout from Attention.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        sampler_name: str | None,
        keep_from_step: int | float | None = None,
        input_types: dict[str, str] | None = None,
    ) -> bool | str:
        name = "keep_from_step"
        if problem := link_problem(cls, name, input_types) or step_problem(name, keep_from_step):
            return problem
        if sampler_name is None:
            return True
        if sampler_name not in comfy.samplers.KSampler.SAMPLERS:
            return f"There is no sampler {quote(sampler_name)} in this ComfyUI."
        try:
            check_sampler(sampler_name)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Conditioning,
        negative: Conditioning,
        latent_image: dict[str, Any],
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        denoise: float,
        keep_from_step: int | float,
        precision: str,
        keep_attention_maps: bool = False,
        noise: Any = None,
        sampler: Any = None,
        sigmas: torch.Tensor | None = None,
        keep_unconditional: bool = False,
    ) -> io.NodeOutput:
        require_parts("Noisy Latent Cache", model=model)
        refuse_shared_attention("Noisy Latent Cache", model)
        warn(generator_as_base("Noisy Latent Cache", model))
        if sampler is not None:
            sampler_name = sampler_name_of(sampler)
        if sigmas is None:
            sigmas = schedule(model, sampler_name, scheduler, steps, denoise)
        samples = frame_latent(model, latent_image)
        if noise is not None:
            start, seed = noise.generate_noise({**latent_image, "samples": samples}), noise.seed
        else:
            start = comfy.sample.prepare_noise(samples, seed, latent_image.get("batch_index"))
        cache = sample_template(
            model,
            positive,
            negative,
            samples,
            latent_image.get("noise_mask"),
            noise=start,
            seed=seed,
            cfg=cfg,
            sampler=sampler or comfy.samplers.sampler_object(sampler_name),
            sampler_name=sampler_name,
            sigmas=sigmas,
            keep_from_step=keep_from_step,
            dtype=PRECISIONS[precision],
            keep_maps=keep_attention_maps,
            keep_unconditional=keep_unconditional,
        )
        passed_on = {key: value for key, value in latent_image.items() if not key.startswith("downscale_ratio")}
        return io.NodeOutput({**passed_on, **as_latent(cache.final)}, cache)


class CastNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityCast",
            display_name="Cast",
            category="StoryIdentity/sampling",
            description="Adds a character to the cast of the frame: who they are, and what the identity generator is "
            "given for them. One node per character, in a chain.",
            search_aliases=["characters", "multiple characters", "character model", "IdentityStory"],
            inputs=[
                IdentitySocket.Input(
                    "identity",
                    optional=True,
                    tooltip="From Identity Discovery or Load Identity. Its name finds the character's mask in the "
                    "layout. Without one, name says who it is.",
                ),
                io.Conditioning.Input(
                    "positive",
                    tooltip="From Identity Conditioning or Reference Conditioning, whose empty one leaves the "
                    "character out of this frame; or any other, with a frame.",
                ),
                io.Conditioning.Input("negative", tooltip="The negative prompt for this character in the second pass."),
                CastSocket.Input("cast", optional=True, tooltip="The Cast node before this one, if there is one."),
                StoryFrameSocket.Input(
                    "frame",
                    optional=True,
                    tooltip="From Story Frames or Each Frame: leaves the character out of frames that do not show "
                    "them. ComfyUI's own conditioning is never empty.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="A MODEL that draws this character alone, such as one with their LoRA or InstantID. "
                    "Without it the one of Progressive-Mask Re-denoise does.",
                ),
                io.String.Input(
                    "name",
                    default="",
                    optional=True,
                    tooltip="The character's name, as in the story, where no identity is connected.",
                ),
            ],
            outputs=[
                CastSocket.Output(
                    display_name="cast", tooltip="For the next Cast node, or for Progressive-Mask Re-denoise."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        identity: Identity | None = None,
        positive: Conditioning | tuple[()] = (),
        negative: Conditioning | tuple[()] = (),
        cast: Cast = (),
        frame: Frame | None = None,
        model: Any | None = None,
        name: str = "",
    ) -> io.NodeOutput:
        member = CastMember(_who(identity, name.strip()), list(positive), list(negative), model)
        if frame is not None:
            appearance = frame.appearance_of(member.name)
            if appearance is None:
                return io.NodeOutput(cast)
            if identity is None:  # the name as the layout spells it
                member = replace(member, identity=appearance.character.name)
        if any(each.name == member.name for each in cast):
            raise ValueError(
                f"The cast has two identities called {quote(member.name)}. Rename one with Load Identity, or remove a "
                "Cast node."
            )
        if not positive:
            return io.NodeOutput(cast)
        return io.NodeOutput((*cast, member))


def _who(identity: Identity | None, name: str) -> Identity | str:
    """The identity, or the name where there is none.

    Raises:
        ValueError: If there is neither, or both and they differ.
    """
    if identity is None:
        if not name:
            raise ValueError("Cast: nobody is named. Connect an identity, or write the character's name into name.")
        return name
    if name and name != identity.name:
        raise ValueError(
            f"Cast: name is {quote(name)}, but the identity is of {quote(identity.name)}. Empty name, disconnect the "
            "identity, or rename it with Load Identity."
        )
    return identity


class RedenoiseNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityRedenoise",
            display_name="Progressive-Mask Re-denoise",
            category="StoryIdentity/sampling",
            description="Runs the template's schedule again: the background comes from the cache, bit for bit, and "
            "each character from the identity generator, inside a mask that grows (IdentityStory, section 3.2).",
            search_aliases=["re-denoise", "inject identity", "face consistency", "inpaint", "IdentityStory"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The identity generator, such as PhotoMaker Loader's. It needs the template's VAE and kind "
                    "of noise.",
                ),
                CastSocket.Input("cast", tooltip="The characters of this frame."),
                NoisyLatentCacheSocket.Input(
                    "cache", tooltip="From Noisy Latent Cache, or from another Progressive-Mask Re-denoise."
                ),
                LayoutSocket.Input(
                    "layout", tooltip="Where each character is in the template; of the same size as the cached picture."
                ),
                step_or_share(
                    "start",
                    tooltip="Below 1: the share of the steps left to the template (0.2: the paper's 10 of 50). 1 or "
                    "more: the step at which re-denoising begins. Earlier: stronger identity; later: closer to the "
                    "template.",
                ),
                io.Int.Input(
                    "max_kernel",
                    default=50,
                    min=0,
                    max=1024,
                    tooltip="How far masks have grown at the last step, in pixels of a 1024-pixel picture.",
                ),
                io.Float.Input(
                    "cfg", default=7.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance scale of the characters."
                ),
                io.Combo.Input(
                    "mask_edge",
                    options=["hard", "soft"],
                    default="hard",
                    tooltip="hard selects whole latent cells, as published; soft blends cells covered in part.",
                ),
                io.Combo.Input(
                    "guidance",
                    options=list(GUIDANCE),
                    default=OWN,
                    optional=True,
                    advanced=True,
                    tooltip="Whose unconditional prediction guides a character. own: as published. shared: one for all "
                    "with equal negative prompts, the same picture for less. template's: the cached one, an "
                    "approximation.",
                ),
                io.Boolean.Input(
                    "region",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="The identity generator sees only the part of the picture around each mask: a small "
                    "character costs less. An approximation; the background stays as it is.",
                ),
                io.Int.Input(
                    "region_margin",
                    default=MARGIN,
                    min=0,
                    max=1024,
                    optional=True,
                    advanced=True,
                    tooltip="With region: how far that part reaches beyond the mask, in pixels of a 1024-pixel "
                    "picture.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The finished frame, for VAE Decode."),
                NoisyLatentCacheSocket.Output(
                    display_name="cache",
                    tooltip="What this pass did, for another Progressive-Mask Re-denoise with another identity "
                    "generator and other characters.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, start: int | float | None = None, input_types: dict[str, str] | None = None) -> bool | str:
        return link_problem(cls, "start", input_types) or step_problem("start", start) or True

    @classmethod
    def execute(
        cls,
        model: Any,
        cast: Cast,
        cache: NoisyLatentCache,
        layout: Layout,
        start: int | float,
        max_kernel: int,
        cfg: float,
        mask_edge: str,
        guidance: str = OWN,
        region: bool = False,
        region_margin: int = MARGIN,
    ) -> io.NodeOutput:
        require_parts("Progressive-Mask Re-denoise", model=model)
        refuse_shared_attention("Progressive-Mask Re-denoise", model)
        refuse_fused_prompts(model, cast)
        warn_if_ignored(model, cast)
        warn(base_as_generator(model, cast))
        done = redenoise(
            model,
            cast,
            cache,
            layout,
            start=start,
            max_kernel=max_kernel,
            cfg=cfg,
            soft_edge=mask_edge == "soft",
            guidance=guidance,
            region_margin=region_margin if region else None,
        )
        masks = ProgressiveMasks(layout.masks, cache.steps, start, scaled_kernel(max_kernel, *layout.size))
        seen = shares_seen(model, cast, cache, layout, masks, region_margin) if region else {}
        return io.NodeOutput(as_latent(done.final), done, ui=report(describe_redenoising(layout, masks, seen)))
