"""From portraits to an identity, and from an identity to a conditioning."""

import hashlib
from dataclasses import asdict
from typing import Any

import comfy.samplers
import comfy.utils
import torch
from comfy_api.latest import io, ui

from ..core.character_mentions import find_word
from ..core.identity import Identity, discover_identity, largest_usable_rank, safe_file_name
from ..core.quoting import quote
from ..core.story import Frame, Story
from .host import photomaker as pm
from .host.checkpoint_parts import require_parts
from .host.folders import check_present, full_path, identity_path, names
from .host.portraits import sample_portraits
from .host.prompt import word_end_position
from .types import IdentitySocket, StoryFrameSocket, StorySocket


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
                StorySocket.Input("story", tooltip="From the Story node."),
                io.String.Input(
                    "character",
                    default="",
                    tooltip="The character's name, as in the story. It may stay empty if the story has only one.",
                ),
                io.Int.Input("count", default=64, min=1, max=1024, tooltip="Portraits to draw (the paper's m)."),
                io.Int.Input(
                    "batch_size", default=4, min=1, max=64, tooltip="Drawn at a time; lower it if memory runs out."
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="The first portrait's seed; the next ones count up, so batch_size does not change the "
                    "starting noise.",
                ),
                io.Int.Input("steps", default=50, min=1, max=1000, tooltip="Sampling steps."),
                io.Float.Input("cfg", default=5.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance scale."),
                io.Combo.Input(
                    "sampler_name", options=comfy.samplers.KSampler.SAMPLERS, default="euler", tooltip="The sampler."
                ),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.KSampler.SCHEDULERS,
                    default="normal",
                    tooltip="The noise schedule.",
                ),
                io.Int.Input("width", default=1024, min=64, max=4096, step=8, tooltip="Portrait width in pixels."),
                io.Int.Input("height", default=1024, min=64, max=4096, step=8, tooltip="Portrait height in pixels."),
                io.String.Input(
                    "template",
                    default="a close-up photo of {character}",
                    tooltip="The portrait prompt; {character} becomes the description.",
                ),
                io.String.Input(
                    "negative",
                    multiline=True,
                    default="3d, cartoon, anime, sketches, illustration, painting",
                    tooltip="The portraits' negative prompt. For drawn styles, take the words of your style out.",
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
        story: Story,
        character: str,
        count: int,
        template: str,
        negative: str,
        **settings: Any,
    ) -> io.NodeOutput:
        require_parts("Character Portraits", model=model, clip=clip, vae=vae)
        person = story.character(character.strip())
        safe_file_name(person.name)  # for Save Identity, which runs only after all the portraits are drawn
        if "{character}" not in template:
            raise ValueError(
                f"The portrait template {quote(template)} has no {{character}} for the description to go into."
            )
        positive, negative_cond = (
            clip.encode_from_tokens_scheduled(clip.tokenize(text))
            for text in (template.replace("{character}", person.description), negative)
        )
        images = sample_portraits(model, vae, positive, negative_cond, count=count, **settings)
        return io.NodeOutput(images, person.name, person.description, ui=ui.PreviewImage(images, cls=cls))


class PhotoMakerLoaderNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityPhotoMakerLoader",
            display_name="PhotoMaker Loader",
            category="StoryIdentity/identity",
            description="Makes the identity generator: PhotoMaker v1's encoder, and its LoRA applied to the MODEL.",
            search_aliases=["photomaker", "identity generator", "face", "IdentityStory"],
            inputs=[
                io.Model.Input("model", tooltip="An SDXL model; it stays as it is, the output is a patched clone."),
                io.Combo.Input(
                    "photomaker_name",
                    options=names("photomaker", "photomaker-v1.bin"),
                    tooltip="A PhotoMaker v1 file in models/photomaker.",
                ),
                io.Float.Input(
                    "lora_strength",
                    default=1.0,
                    min=-2.0,
                    max=2.0,
                    step=0.05,
                    tooltip="Strength of the file's LoRA on the MODEL. 1 is as trained; 0 leaves the model alone.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The patched clone, for Progressive-Mask Re-denoise."),
                io.Photomaker.Output(
                    display_name="photomaker",
                    tooltip="The encoder, for Identity Discovery and Identity Conditioning. ComfyUI's own PhotoMaker "
                    "Encode takes it too.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, photomaker_name: str | None) -> bool | str:
        return check_present("photomaker", photomaker_name)

    @classmethod
    def execute(cls, model: Any, photomaker_name: str, lora_strength: float) -> io.NodeOutput:
        require_parts("PhotoMaker Loader", model=model)
        encoder, lora = pm.load_weights(str(full_path("photomaker", photomaker_name)), photomaker_name)
        patched = pm.apply_lora(model, lora, lora_strength, photomaker_name, pm.text_width(encoder))
        return io.NodeOutput(patched, pm.PhotoMakerEncoder(encoder))


class IdentityDiscoveryNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityIdentityDiscovery",
            display_name="Identity Discovery (SVD)",
            category="StoryIdentity/identity",
            description="Finds the identity that most portraits agree on, by filtering their embeddings with an SVD, "
            "round by round (IdentityStory, section 3.1).",
            search_aliases=["identity", "svd", "face embedding", "average face", "IdentityStory"],
            inputs=[
                io.Image.Input("portraits", tooltip="One batch of portraits of one character, drawn or photographed."),
                io.Photomaker.Input(
                    "photomaker", tooltip="The identity encoder, from PhotoMaker Loader or ComfyUI's own loader."
                ),
                io.String.Input(
                    "name", default="", tooltip="The character's name, exactly as in the story. It is required."
                ),
                io.String.Input("description", default="", tooltip="Kept in the identity file; may be empty."),
                io.Int.Input(
                    "rank",
                    default=10,
                    min=1,
                    max=2047,
                    tooltip="Directions that count as the identity (the paper's k).",
                ),
                io.Float.Input(
                    "keep_ratio",
                    default=0.6,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the portraits kept per round (the paper's r).",
                ),
                io.Int.Input(
                    "iterations",
                    default=3,
                    min=0,
                    max=20,
                    tooltip="Rounds (the paper's p). 0 takes the plain mean of all portraits.",
                ),
                io.Combo.Input(
                    "rank_too_large",
                    options=["error", "lower it"],
                    default="error",
                    tooltip="What to do when there are too few portraits for the rank. The report says what was used.",
                ),
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
    ) -> io.NodeOutput:
        name = name.strip()
        if not name:
            raise ValueError("Identity Discovery needs the character's name: connect it from Character Portraits.")
        safe_file_name(name)  # for Save Identity
        progress = comfy.utils.ProgressBar(len(portraits))
        embeddings = pm.embed_portraits(photomaker, portraits, batch_size=8, advance=progress.update)
        used = rank
        if rank_too_large == "lower it":
            count, width = embeddings.shape
            used = max(1, min(rank, largest_usable_rank(count, width, keep_ratio, iterations)))
        found = discover_identity(embeddings, used, keep_ratio, iterations)
        settings = {"portraits": len(portraits), "rank": used, "keep_ratio": keep_ratio, "iterations": iterations}
        rounds = [asdict(each) for each in found.rounds]
        identity = Identity(
            name,
            description,
            pm.encoder_id(photomaker),
            found.embedding,
            {"discovery": {**settings, "rounds": rounds}},
        )
        rows = [len(portraits), *(len(each.kept) for each in found.rounds)]
        report = "\n".join(
            [
                f"{name}: {' → '.join(map(str, rows))} portraits, rank {used}"
                + (f" (asked: {rank})" if used != rank else ""),
                f"mean pairwise cosine: {found.cohesion_before:.4f} before, {found.cohesion_after:.4f} after",
                *(
                    f"round {i}: {each.energy:.2%} of the energy in the rank; kept "
                    + ", ".join(str(index + 1) for index in each.kept)
                    for i, each in enumerate(found.rounds, 1)
                ),
            ]
        )
        if len(found.kept) < 3:
            report += f"\nonly {len(found.kept)} left: hardly an agreement; draw more portraits"
        return io.NodeOutput(identity, portraits[found.kept], report)


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
    ) -> io.NodeOutput:
        require_parts("Identity Conditioning", clip=clip)
        identity.require_encoder(pm.encoder_id(photomaker))
        if frame is None:
            label = f"Identity Conditioning of {quote(identity.name)}"
            prompt, span = text, _first_word(text, class_word)
        else:
            prompt, span, label = frame.prompt, frame.span_of(identity.name), frame.label
        if span is None:
            return io.NodeOutput([])
        position = word_end_position(clip, prompt, span, label)
        fused = []
        for tensor, extras in clip.encode_from_tokens_scheduled(clip.tokenize(prompt)):
            if identity.embedding.shape[0] != tensor.shape[-1]:
                raise ValueError(
                    f"{label}: the identity is {identity.embedding.shape[0]} wide, this CLIP's conditioning "
                    f"{tensor.shape[-1]}. Use the CLIP of the model it was made for: for PhotoMaker v1, an SDXL "
                    "checkpoint's."
                )
            fused.append([pm.fuse_identity(photomaker, tensor, identity.embedding, position), extras])
        return io.NodeOutput(fused)


class SaveIdentityNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentitySaveIdentity",
            display_name="Save Identity",
            category="StoryIdentity/identity",
            description="Writes the identity to models/identities, a few kilobytes, to be used in other stories.",
            search_aliases=["save character", "save face", "IdentityStory"],
            inputs=[
                IdentitySocket.Input("identity", tooltip="From Identity Discovery or Load Identity."),
                io.String.Input("filename", default="", tooltip="Without extension; empty takes the character's name."),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    tooltip="Off: an existing file stays and the new one is numbered (Mira_2). On: it is replaced.",
                ),
            ],
            outputs=[
                IdentitySocket.Output(display_name="identity", tooltip="The same identity, passed on."),
                io.String.Output(
                    display_name="path", tooltip="Where the file is. Connect it to Preview Any to read it."
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename: str | None) -> bool | str:
        """A name of None comes through a link; it is checked when it arrives."""
        try:
            return filename is None or not filename.strip() or bool(safe_file_name(filename))
        except ValueError as error:
            return str(error)

    @classmethod
    def execute(cls, identity: Identity, filename: str, overwrite: bool) -> io.NodeOutput:
        path = identity.save(identity_path(safe_file_name(filename.strip() or identity.name), overwrite))
        return io.NodeOutput(identity, str(path), ui=ui.PreviewText(f"saved as {path}"))


class LoadIdentityNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityLoadIdentity",
            display_name="Load Identity",
            category="StoryIdentity/identity",
            description="Reads an identity that Save Identity wrote.",
            search_aliases=["load character", "load face", "IdentityStory"],
            inputs=[
                io.Combo.Input(
                    "identity_file",
                    options=names("identities"),
                    tooltip="A file in models/identities.",
                ),
                io.String.Input(
                    "rename", default="", tooltip="The character's name in this story; empty keeps the saved one."
                ),
            ],
            outputs=[
                IdentitySocket.Output(display_name="identity", tooltip="For Identity Conditioning and Cast."),
                io.String.Output(
                    display_name="info", tooltip="Name, encoder, number of values, and the saved description."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, identity_file: str | None) -> bool | str:
        return check_present("identities", identity_file)

    @classmethod
    def fingerprint_inputs(cls, identity_file: str | None = None, **_: str) -> str | float:
        """Run again when the file has another content. A name that comes through a link is not known yet: run again."""
        if identity_file is None:
            return float("nan")
        return hashlib.sha256(full_path("identities", identity_file).read_bytes()).hexdigest()

    @classmethod
    def execute(cls, identity_file: str, rename: str) -> io.NodeOutput:
        saved = Identity.load(full_path("identities", identity_file))
        identity = Identity(
            rename.strip() or saved.name, saved.description, saved.encoder, saved.embedding, saved.metadata
        )
        info = f"{identity.name} ({identity.encoder}, {len(identity.embedding)} numbers)\n{identity.description}"
        return io.NodeOutput(identity, info)


def _first_word(text: str, class_word: str) -> tuple[int, int]:
    """Where the class word stands first; without it the identity would go nowhere, so that is an error."""
    places = find_word(class_word.strip(), text) if class_word.strip() else []
    if not places:
        raise ValueError(
            f"The class word {quote(class_word)} is not a word of the prompt {quote(text)}. Write the word that stands "
            "for this person (woman, boy ...) into both, or connect a frame."
        )
    return places[0]
