"""What the model's own attention knows: AMSA Model Patch, Layout from Attention, Preview Attention Masks."""

from typing import Any

import torch
from comfy_api.latest import io, ui

from ..core.attention_layout import attention_layout
from ..core.automask import normalised
from ..core.frame_numbers import number_ranges
from ..core.frame_sharing import LAYERS, Sharing
from ..core.latent_cache import NoisyLatentCache
from ..core.sheet import draw_layout, draw_maps
from ..core.story import Frame, Story
from .host.checkpoint_parts import require_parts
from .host.shared_attention import SharedAttention
from .host.token_maps import look_at_latents
from .layout import one_picture
from .types import Conditioning, LayoutSocket, NoisyLatentCacheSocket, StoryFrameSocket, StorySocket

_THRESHOLD_TOOLTIP = (
    "Where a map, stretched from 0 to 1, is cut. 0 finds the place by itself, per frame and character (Otsu)."
)


class AMSANode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityAMSA",
            display_name="AMSA Model Patch",
            category="StoryIdentity/sampling",
            description="Lets the frames of a story see each other's people while they are sampled, and nothing else: "
            "auto-mask self-attention (Storynizor, section 3.1).",
            search_aliases=[
                "consistent self attention",
                "shared attention",
                "consistory",
                "storydiffusion",
                "Storynizor",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="SD1.5, SDXL, the toy world, or a diffusion transformer that the help page lists; "
                    "LoRAs and other patches welcome.",
                ),
                StorySocket.Input("story", tooltip="The story that Encode Story encodes."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="0 shares nothing, 1 shares in full; in between the two results are mixed.",
                ),
                io.Combo.Input(
                    "layers",
                    options=list(LAYERS),
                    default="all",
                    tooltip="Which resolutions of a UNet share. Without the largest it is quicker; with anchors it "
                    "needs less than half the main memory in SD1.5, three quarters in SDXL.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share from here on. The first step is always plain: there are no masks yet.",
                ),
                io.Float.Input("end_percent", default=1.0, min=0.0, max=1.0, step=0.01, tooltip="Share until here."),
                io.Boolean.Input(
                    "same_character",
                    default=True,
                    tooltip="Each character sees only themselves in other frames, which is meant to keep two people "
                    "apart; the background sees nobody. Off, every place sees everybody, as we read the paper.",
                ),
                io.Int.Input(
                    "anchors",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="For long stories: sample so many frames at a time. The first ones are the anchors, which "
                    "all later frames see too. 0: all frames at once.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.0,
                    min=0.0,
                    max=0.95,
                    step=0.05,
                    advanced=True,
                    tooltip=_THRESHOLD_TOOLTIP,
                ),
                io.Float.Input(
                    "decay",
                    default=0.5,
                    min=0.0,
                    max=0.95,
                    step=0.05,
                    advanced=True,
                    tooltip="The weight of the maps of earlier steps relative to the last step's.",
                ),
                io.String.Input(
                    "blocks",
                    default="all",
                    optional=True,
                    advanced=True,
                    tooltip='Which transformer blocks share, counted from 0: "all", or numbers and ranges such as '
                    '"0-9, 14". For diffusion transformers; a UNet has layers.',
                ),
                io.Combo.Input(
                    "positions",
                    options=["own", "matched"],
                    default="own",
                    optional=True,
                    advanced=True,
                    tooltip="Where, for this frame, other frames' people are: where they are in their own frame, or "
                    "moved onto where this frame shows the same person. For transformers with rotary positions.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="For KSampler or any other sampler node, with the batch of Encode Story.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        story: Story,
        strength: float,
        layers: str,
        start_percent: float,
        end_percent: float,
        same_character: bool,
        anchors: int,
        threshold: float,
        decay: float,
        blocks: str = "all",
        positions: str = "own",
    ) -> io.NodeOutput:
        require_parts("AMSA Model Patch", model=model)
        written = number_ranges(blocks, "blocks", "block")
        ranges = None if written is None else tuple(range(first, last + 1) for _, first, last in written)
        sharing = SharedAttention(
            story=story,
            sharing=Sharing(
                strength, threshold or "otsu", decay, same_character, layers, ranges, positions == "matched"
            ),
            start=start_percent,
            end=end_percent,
            anchors=anchors,
        )
        return io.NodeOutput(sharing.added_to(model))


class LayoutFromAttentionNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityLayoutFromAttention",
            display_name="Layout from Attention",
            category="StoryIdentity/layout",
            description="Finds the frame's characters where the model itself looked for their words while it sampled "
            "the template: no detector, no download.",
            search_aliases=["segment", "cross attention", "daam", "mask from prompt", "Storynizor", "IdentityStory"],
            inputs=[
                NoisyLatentCacheSocket.Input(
                    "cache", tooltip="From Noisy Latent Cache with keep_attention_maps, its positive from Encode Frame."
                ),
                io.Image.Input("image", tooltip="The decoded template: one picture."),
                StoryFrameSocket.Input("frame", tooltip="The frame that was encoded."),
                io.Float.Input("threshold", default=0.0, min=0.0, max=0.95, step=0.05, tooltip=_THRESHOLD_TOOLTIP),
                io.Int.Input("dilate_px", default=10, min=0, max=512, tooltip="Grow each mask by this many pixels."),
                io.Combo.Input(
                    "on_missing",
                    options=["error", "skip"],
                    default="error",
                    tooltip="A character that is not found: stop and say so, or leave them as the template drew them.",
                ),
            ],
            outputs=[
                LayoutSocket.Output(
                    display_name="layout",
                    tooltip="Where each character is, for Progressive-Mask Re-denoise and Preview Layout.",
                ),
                io.Mask.Output(
                    display_name="masks",
                    tooltip="One per character, in the order in which the prompt names them. None for a frame without "
                    "characters.",
                ),
                io.Image.Output(
                    display_name="preview",
                    tooltip="The picture with tinted, named masks. Who was not found is listed at the bottom.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        cache: NoisyLatentCache,
        image: torch.Tensor,
        frame: Frame,
        threshold: float,
        dilate_px: int,
        on_missing: str,
    ) -> io.NodeOutput:
        picture = one_picture(image)
        if cache.maps is None:
            raise ValueError(
                f"{frame.label}: the cache has no attention maps. Switch keep_attention_maps on in Noisy Latent Cache, "
                "and connect its positive from Encode Frame."
            )
        layout = attention_layout(
            cache.maps,
            [character.name for character in frame.cast],
            (picture.shape[0], picture.shape[1]),
            frame.label,
            method=threshold or "otsu",
            dilate_px=dilate_px,
            skip_missing=on_missing == "skip",
        )
        return io.NodeOutput(layout, layout.masks.float(), draw_layout(picture, layout).unsqueeze(0))


class PreviewAttentionMasksNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityPreviewAttentionMasks",
            display_name="Preview Attention Masks",
            category="StoryIdentity/layout",
            description="Shows where the model looks for each character's words: the finished latents are noised to a "
            "level and shown to the model once.",
            search_aliases=["attention map", "heat map", "cross attention", "daam", "Storynizor"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL without AMSA; its LoRAs count."),
                io.Conditioning.Input("positive", tooltip="From Encode Story, or from Encode Frame for one picture."),
                io.Latent.Input("samples", tooltip="The finished latents, one per frame, in the order of the story."),
                io.Image.Input("images", tooltip="The same latents, decoded."),
                io.Float.Input(
                    "percent",
                    default=0.5,
                    min=0.0,
                    max=0.99,
                    step=0.01,
                    tooltip="Which part of sampling to look at: 0 is noise alone, towards 1 the finished picture.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="The seed of the noise.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images",
                    tooltip="Each picture, darkened, with each character's map glowing in their colour, and their name "
                    "below its highest place.",
                )
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Conditioning,
        samples: dict[str, torch.Tensor],
        images: torch.Tensor,
        percent: float,
        seed: int,
    ) -> io.NodeOutput:
        require_parts("Preview Attention Masks", model=model)
        pictures = images[..., :3].cpu().float()
        if len(pictures) != len(samples["samples"]):
            raise ValueError(
                f"There are {len(pictures)} images for {len(samples['samples'])} latents; connect the images that "
                "these latents decode to."
            )
        names, maps = look_at_latents(model, positive, samples["samples"], percent, seed)
        maps = torch.nn.functional.interpolate(maps, (pictures.shape[1], pictures.shape[2]), mode="bilinear")
        drawn = [draw_maps(picture, normalised(own), names) for picture, own in zip(pictures, maps, strict=True)]
        shown = torch.stack(drawn)
        return io.NodeOutput(shown, ui=ui.PreviewImage(shown, cls=cls))
