"""From portraits to an identity, and from an identity to a conditioning."""

import logging
from typing import Any

import torch
from comfy_api.latest import io, ui

from ..core.detectors.faces import NOTICE, Recogniser
from ..core.identity import Identity, safe_file_name
from ..core.photomaker import with_repeated_word
from ..core.quoting import printable, quote
from ..core.story import FRAME, Frame, Story
from ..core.story_characters import character_named
from ..core.text_search import composed
from .host import photomaker as pm
from .host.checkpoint_parts import require_parts
from .host.discovery import find_identity
from .host.folders import check_present, full_path, names
from .host.miswiring import generator_as_base, mark_fused, refuse_shared_attention
from .host.node_text import report, warn
from .host.portraits import check_template, draw_portraits
from .host.prompt import first_word, prompt_input, word_end_position
from .identity_widgets import discovery_widgets, portrait_widgets, representatives_widget
from .types import (
    Characters,
    CharactersSocket,
    FaceRecogniserSocket,
    IdentitySocket,
    StoryFrameSocket,
    StorySocket,
    characters_of,
)


class CharacterPortraitsNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityCharacterPortraits",
            display_name="Character Portraits",
            category="StoryIdentity/identity",
            description="Draws many portraits of one character from text alone, for Identity Discovery to choose from.",
            search_aliases=["portraits", "character", "text only identity", "IdentityStory"],
            inputs=[
                io.Model.Input("model", tooltip="The base model, without any identity LoRA."),
                io.Clip.Input("clip", tooltip="The checkpoint's text encoder."),
                io.Vae.Input("vae", tooltip="The checkpoint's VAE."),
                io.MultiType.Input(
                    "story", [StorySocket, CharactersSocket], tooltip="From Story, Characters or Each Character."
                ),
                io.String.Input(
                    "character",
                    default="",
                    tooltip="The character's name, as in the story. It may stay empty if the story has only one.",
                ),
                *portrait_widgets(
                    "The first portrait's seed; the next ones count up, so batch_size does not change the starting "
                    "noise."
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="portraits", tooltip="One batch with all portraits, also shown on the node."
                ),
                io.String.Output(display_name="name", tooltip="The character's name, for Identity Discovery."),
                io.String.Output(
                    display_name="description", tooltip="The character's description, for Identity Discovery."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        story: Story | Characters,
        character: str,
        count: int,
        template: str,
        negative: str,
        **settings: Any,
    ) -> io.NodeOutput:
        require_parts("Character Portraits", model=model, clip=clip, vae=vae)
        person = character_named(characters_of(story), character.strip())
        safe_file_name(person.name)  # for Save Identity, which runs only after all the portraits are drawn
        check_template(template)
        refuse_shared_attention("Character Portraits", model)
        warn(generator_as_base("Character Portraits", model))
        images = draw_portraits(model, clip, vae, person.description, template, negative, count=count, **settings)
        return io.NodeOutput(images, person.name, person.description, ui=ui.PreviewImage(images, cls=cls))


class PhotoMakerLoaderNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityPhotoMakerLoader",
            display_name="PhotoMaker Loader",
            category="StoryIdentity/identity",
            description="Makes the identity generator: PhotoMaker's encoder, and its LoRA applied to the MODEL. "
            "Version 1 needs no face recogniser; version 2 needs insightface, whose models are for non-commercial "
            "research only.",
            search_aliases=["photomaker", "identity generator", "face", "IdentityStory"],
            inputs=[
                io.Model.Input("model", tooltip="An SDXL model; it stays as it is, the output is a patched clone."),
                io.Combo.Input(
                    "photomaker_name",
                    options=names("photomaker", "photomaker-v1.bin"),
                    tooltip="A PhotoMaker file in models/photomaker, version 1 or 2.",
                ),
                io.Float.Input(
                    "lora_strength",
                    default=1.0,
                    min=-2.0,
                    max=2.0,
                    step=0.05,
                    tooltip="Strength of the file's LoRA on the MODEL. 1 is as trained; 0 leaves the model alone.",
                ),
                FaceRecogniserSocket.Input(
                    "recogniser",
                    optional=True,
                    tooltip="For PhotoMaker v2: insightface from Load Face Recogniser. Identity Discovery needs it; "
                    "identities from files do not, nor does PhotoMaker v1.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The patched clone, for Progressive-Mask Re-denoise."),
                io.Photomaker.Output(
                    display_name="photomaker",
                    tooltip="The encoder, for Identity Discovery and Identity Conditioning. ComfyUI's own PhotoMaker "
                    "Encode takes version 1's too.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, photomaker_name: str | None) -> bool | str:
        return check_present("photomaker", photomaker_name)

    @classmethod
    def execute(
        cls, model: Any, photomaker_name: str, lora_strength: float, recogniser: Recogniser | None = None
    ) -> io.NodeOutput:
        require_parts("PhotoMaker Loader", model=model)
        encoder, lora = pm.load_weights(str(full_path("photomaker", photomaker_name)), photomaker_name)
        if recogniser is not None:
            pm.check_recogniser(encoder, recogniser, photomaker_name)
        patched = pm.apply_lora(model, lora, lora_strength, photomaker_name, pm.text_width(encoder))
        photomaker = pm.PhotoMakerEncoder(encoder, recogniser=recogniser)
        if pm.reads_faces(photomaker):
            logging.warning("PhotoMaker Loader: %s: %s", printable(photomaker_name), NOTICE)
        return io.NodeOutput(patched, photomaker)


class IdentityDiscoveryNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityIdentityDiscovery",
            display_name="Identity Discovery (SVD)",
            category="StoryIdentity/identity",
            description="Finds the identity that most portraits agree on, by filtering their embeddings with an SVD, "
            "round by round (IdentityStory, section 3.1), and the portraits that represent it best.",
            search_aliases=["identity", "svd", "face embedding", "average face", "reference portrait", "IdentityStory"],
            inputs=[
                io.Image.Input("portraits", tooltip="One batch of portraits of one character, drawn or photographed."),
                io.MultiType.Input(
                    "photomaker",
                    [io.Photomaker, io.ClipVision, FaceRecogniserSocket],
                    tooltip="The identity encoder: from PhotoMaker Loader or ComfyUI's own, from Load CLIP Vision, or "
                    "from Load Face Recogniser. Identity Conditioning needs PhotoMaker's.",
                ),
                io.String.Input(
                    "name", default="", tooltip="The character's name, exactly as in the story. It is required."
                ),
                io.String.Input("description", default="", tooltip="Kept in the identity file; may be empty."),
                *discovery_widgets(),
                io.Combo.Input(
                    "rank_too_large",
                    options=["error", "lower it"],
                    default="error",
                    tooltip="What to do when there are too few portraits for the rank. The report says what was used.",
                ),
                representatives_widget(),
            ],
            outputs=[
                IdentitySocket.Output(
                    display_name="identity", tooltip="For Identity Conditioning, Cast and Save Identity."
                ),
                io.Image.Output(display_name="kept", tooltip="The portraits that were kept; look at them."),
                io.String.Output(
                    display_name="report",
                    tooltip="How many portraits each round kept, and how alike they are. Connect it to Preview Any.",
                ),
                io.Image.Output(
                    display_name="representative_portraits",
                    tooltip="The portraits nearest to the identity by cosine, best first. The identity carries them.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        portraits: torch.Tensor,
        photomaker: Any,
        name: str,
        description: str,
        rank: int,
        keep_ratio: float,
        iterations: int,
        rank_too_large: str,
        representatives: int = 4,
    ) -> io.NodeOutput:
        name = name.strip()
        name = composed(name)
        if not name:
            raise ValueError("Identity Discovery needs the character's name: connect it from Character Portraits.")
        safe_file_name(name)  # for Save Identity
        lower = rank_too_large == "lower it"
        found = find_identity(
            photomaker, portraits, name, description, rank, keep_ratio, iterations, representatives, lower
        )
        return io.NodeOutput(found.identity, found.kept, found.report, found.best, ui=report(found.report))


class IdentityConditioningNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityIdentityConditioning",
            display_name="Identity Conditioning",
            category="StoryIdentity/identity",
            description="Encodes a prompt with the identity merged into the character's class word. For a frame "
            "without the character it gives an empty conditioning, which Cast leaves out.",
            search_aliases=["photomaker encode", "identity prompt", "trigger word", "IdentityStory"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the identity generator's checkpoint."),
                io.Photomaker.Input("photomaker", tooltip="From PhotoMaker Loader."),
                IdentitySocket.Input(
                    "identity",
                    tooltip="From Identity Discovery or Load Identity. Its name finds the character in the frame.",
                ),
                StoryFrameSocket.Input(
                    "frame", optional=True, tooltip="The frame; its prompt and class word are used, not the text below."
                ),
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
                prompt_input(),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="positive",
                    tooltip="The prompt with the identity in it, for Cast. It is empty where the frame does not show "
                    "the character.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        clip: Any,
        photomaker: Any,
        identity: Identity,
        frame: Frame | None = None,
        text: str = "",
        class_word: str = "",
        prompt: str = FRAME,
    ) -> io.NodeOutput:
        require_parts("Identity Conditioning", clip=clip)
        identity.require_encoder(pm.encoder_id(photomaker))
        if frame is None:
            label = f"Identity Conditioning of {quote(identity.name)}"
            words, span = text, first_word(text, class_word)
        else:
            appearance, label = frame.appearance_of(identity.name), frame.label
            if appearance is None:
                return io.NodeOutput([])
            words, span = frame.prompt_about(appearance, prompt)
        tokens = pm.identity_tokens(photomaker)
        words, spans = with_repeated_word(words, span, tokens)
        positions = [word_end_position(clip, words, each, label) for each in spans]
        fused = []
        for tensor, extras in clip.encode_from_tokens_scheduled(clip.tokenize(words)):
            if identity.embedding.shape[0] != tokens * tensor.shape[-1]:
                times = f"{tokens} tokens of " if tokens > 1 else ""
                raise ValueError(
                    f"{label}: the identity is {identity.embedding.shape[0]} wide, this CLIP's conditioning "
                    f"{times}{tensor.shape[-1]}. Use the CLIP of the model it was made for: for PhotoMaker, an SDXL "
                    "checkpoint's."
                )
            fused.append([pm.fuse_identity(photomaker, tensor, identity.embedding, *positions), mark_fused(extras)])
        return io.NodeOutput(fused)
