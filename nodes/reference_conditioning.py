"""Reference Conditioning: a character's portraits as the references of an editing model."""

from typing import Any

import comfy.utils
import torch
from comfy_api.latest import io

from ..core.frame_text import UNNUMBERED
from ..core.identity import Identity
from ..core.quoting import quote
from ..core.reference_words import with_reference
from ..core.story import FRAME, Frame
from .host.checkpoint_parts import require_parts
from .host.prompt import first_word, prompt_input
from .host.references import METHODS, MODELS_OWN, encode_references, encode_words, with_references
from .types import IdentitySocket, StoryFrameSocket

PROMPT_ONLY, WITH_PICTURES = TEXT_ENCODERS = ("prompt only", "prompt and pictures")
"""What the text encoder is given."""
NOUNS = {PROMPT_ONLY: "image", WITH_PICTURES: "picture"}
"""What the prompt calls a reference picture."""


def reference_widgets() -> list[io.Input]:
    """How portraits become references."""
    return [
        io.Int.Input(
            "portraits",
            default=1,
            min=1,
            max=16,
            tooltip="How many references, the best first. Each costs as much attention as a picture of its size.",
        ),
        io.Float.Input(
            "megapixels",
            default=1.0,
            min=0.01,
            max=16.0,
            step=0.01,
            tooltip="Each reference is scaled to this many pixels; 1 is 1024 x 1024.",
        ),
        io.Combo.Input(
            "reference_method",
            options=list(METHODS),
            default=MODELS_OWN,
            tooltip="How the model keeps references and picture apart. Krea 2 has no way of its own and ignores "
            "them until one is chosen.",
        ),
        io.Combo.Input(
            "text_encoder",
            options=list(TEXT_ENCODERS),
            default=PROMPT_ONLY,
            tooltip="prompt and pictures: shows the text encoder up to 3 references too, as "
            "TextEncodeQwenImageEditPlus does. For Qwen-Image-Edit.",
        ),
    ]


class ReferenceConditioningNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityReferenceConditioning",
            display_name="Reference Conditioning",
            category="StoryIdentity/identity",
            description="Gives an editing model (Flux.1 Kontext, Flux.2, Qwen-Image-Edit, OmniGen2, Krea 2) an "
            "identity's portraits as references, and says in the prompt who of the frame they show.",
            search_aliases=["reference latent", "kontext", "qwen image edit", "klein", "edit model", "IdentityStory"],
            inputs=[*cls._sockets(), *cls._widgets()],
            outputs=[
                io.Conditioning.Output(
                    display_name="positive",
                    tooltip="The prompt with the references, for Cast. It is empty where the frame does not show the "
                    "character.",
                )
            ],
        )

    @classmethod
    def _sockets(cls) -> list[io.Input]:
        return [
            io.Clip.Input("clip", tooltip="The text encoder of the editing model."),
            io.Vae.Input("vae", tooltip="The VAE of the editing model."),
            IdentitySocket.Input(
                "identity",
                optional=True,
                tooltip="From Identity Discovery or Load Identity. Its portraits are the references, its name finds "
                "the character in the frame.",
            ),
            io.Image.Input(
                "images", optional=True, tooltip="Pictures of the character, in place of the identity's portraits."
            ),
            StoryFrameSocket.Input(
                "frame", optional=True, tooltip="The frame; its prompt and class word are used, not the text below."
            ),
        ]

    @classmethod
    def _widgets(cls) -> list[io.Input]:
        return [
            *reference_widgets(),
            prompt_input(),
            io.String.Input(
                "text", multiline=True, default="", optional=True, tooltip="The prompt, where there is no frame."
            ),
            io.String.Input(
                "class_word",
                default="",
                optional=True,
                tooltip="Where there is no frame: the word of the prompt that is this person, such as woman. Its "
                "first occurrence is used.",
            ),
            io.String.Input(
                "name",
                default="",
                optional=True,
                tooltip="With a frame and no identity: the character's name. It may stay empty if the story has only "
                "one.",
            ),
        ]

    @classmethod
    def execute(
        cls,
        clip: Any,
        vae: Any,
        identity: Identity | None = None,
        images: torch.Tensor | None = None,
        frame: Frame | None = None,
        portraits: int = 1,
        megapixels: float = 1.0,
        reference_method: str = MODELS_OWN,
        text_encoder: str = PROMPT_ONLY,
        prompt: str = FRAME,
        text: str = "",
        class_word: str = "",
        name: str = "",
    ) -> io.NodeOutput:
        require_parts("Reference Conditioning", clip=clip, vae=vae)
        pictures = _pictures(identity, images, portraits)
        if frame is None:
            words, span, description = text, first_word(text, class_word), ""
        else:
            appearance = frame.appearance_of(_name(identity, name.strip(), frame))
            if appearance is None:
                return io.NodeOutput([])
            words, span = frame.prompt_about(appearance, prompt)
            description = appearance.character.description
        said = with_reference(words, span, description, len(pictures), NOUNS[text_encoder])
        encoded = encode_words(clip, said, pictures if text_encoder == WITH_PICTURES else None)
        advance = comfy.utils.ProgressBar(len(pictures)).update
        latents = encode_references(vae, pictures, megapixels, advance)
        return io.NodeOutput(with_references(encoded, latents, reference_method))


def _pictures(identity: Identity | None, images: torch.Tensor | None, count: int) -> torch.Tensor:
    """The references `(count, h, w, 3)` in [0, 1].

    Raises:
        ValueError: If there are none, or fewer than asked for.
    """
    if images is None:
        if identity is None:
            raise ValueError("Reference Conditioning: there is no reference. Connect an identity or images.")
        return identity.portrait_images(count)
    if len(images) < count:
        raise ValueError(
            f"Reference Conditioning: portraits is {count}, but images has {len(images)}. Lower portraits, or connect "
            "more pictures."
        )
    return images[:count, ..., :3]


def _name(identity: Identity | None, name: str, frame: Frame) -> str:
    """Who of the story it is.

    Raises:
        ValueError: If nobody is named and the story has several, or name and identity differ.
    """
    if identity is not None:
        if name and name != identity.name:
            raise ValueError(
                f"Reference Conditioning: name is {quote(name)}, but the identity is of {quote(identity.name)}. Empty "
                "name, or rename the identity with Load Identity."
            )
        return identity.name
    if not name and len(frame.story_names) == 1:
        return frame.story_names[0]
    if not name and frame.index == UNNUMBERED:
        raise ValueError(
            f"Reference Conditioning: {frame.label} is between Each Frame and Collect Frames and does not know who "
            "else is in the story. Write the character's name into name, or connect an identity."
        )
    return name
