"""Story Cast: everybody who is in a frame, in one node."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from comfy_api.latest import io

from ..core.identity import Identity
from ..core.known_identities import identities_of
from ..core.story import FRAME, Frame
from .host.checkpoint_parts import require_parts
from .host.list_inputs import first
from .host.prompt import prompt_input
from .identity import IdentityConditioningNode
from .reference_conditioning import ReferenceConditioningNode, reference_widgets
from .sampling import CastNode
from .types import Cast, CastSocket, Conditioning, IdentitySocket, StoryFrameSocket


class Generator(NamedTuple):
    """What makes a member's positive: PhotoMaker, reference latents, or one conditioning for everybody."""

    clip: Any
    photomaker: Any
    vae: Any
    references: dict[str, Any]
    prompt: str


class StoryCastNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityStoryCast",
            display_name="Story Cast",
            category="StoryIdentity/sampling",
            description="The cast of a frame, however many are in it: chooses their identities by name and makes for "
            "each what the identity generator is given. One node in place of two per character.",
            search_aliases=["consistent character", "same person", "cast", "characters", "multiple characters"],
            inputs=[
                IdentitySocket.Input(
                    "identities",
                    tooltip="Everybody's: from Find Identity, Collect Characters or Load Identity; several by Create "
                    "List. Those who are not in the frame are left out.",
                ),
                StoryFrameSocket.Input("frame", tooltip="From Each Frame or Story Frames."),
                io.Clip.Input("clip", tooltip="The text encoder of the identity generator's checkpoint."),
                io.Conditioning.Input("negative", tooltip="The negative prompt of the characters in the second pass."),
                io.Photomaker.Input(
                    "photomaker",
                    optional=True,
                    tooltip="From PhotoMaker Loader: merges the identity into the class word.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="The VAE of an editing model, in place of photomaker: portraits become reference "
                    "latents, as in Reference Conditioning.",
                ),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="In place of both: one conditioning for everybody, such as the frame's prompt for a MODEL "
                    "that knows them.",
                ),
                prompt_input(),
                *reference_widgets(),
            ],
            outputs=[
                CastSocket.Output(
                    display_name="cast",
                    is_output_list=True,
                    tooltip="For Progressive-Mask Re-denoise, or for Cast, which adds somebody by hand.",
                )
            ],
            is_input_list=True,
        )

    @classmethod
    def validate_inputs(cls, input_types: list[dict[str, str]] | None = None) -> bool | str:
        """Refuse none or several ways to make a positive before anything runs."""
        connected = first(input_types) or {}
        try:
            _require_one(**{name: connected.get(name) for name in ("photomaker", "vae", "positive")})
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        identities: Sequence[Identity],
        frame: Sequence[Frame],
        clip: Sequence[Any],
        negative: Sequence[Conditioning],
        photomaker: Sequence[Any] = (None,),
        vae: Sequence[Any] = (None,),
        positive: Sequence[Conditioning | None] = (None,),
        prompt: Sequence[str] = (FRAME,),
        **references: Sequence[Any],
    ) -> io.NodeOutput:
        generator = Generator(
            clip[0], photomaker[0], vae[0], {name: value[0] for name, value in references.items()}, prompt[0]
        )
        require_parts("Story Cast", clip=generator.clip)
        _require_one(photomaker=generator.photomaker, vae=generator.vae, positive=positive[0])
        everybody = [identities_of(each, identities) for each in frame]
        casts = [
            _cast(who, each, generator, _of(negative, number), _of(positive, number))
            for number, (each, who) in enumerate(zip(frame, everybody, strict=True))
        ]
        return io.NodeOutput(casts)


def _require_one(**ways: Any) -> None:
    """Refuse none and more than one of the ways to make a positive.

    Raises:
        ValueError: Naming what is connected.
    """
    given = [name for name, value in ways.items() if value is not None]
    if len(given) != 1:
        there = " and ".join(given) or "nothing"
        raise ValueError(
            f"Story Cast: {there} of photomaker, vae and positive is connected. Connect exactly one: photomaker for "
            "PhotoMaker, the vae of an editing model for references, or a positive of your own."
        )


def _of(values: Sequence[Any], number: int) -> Any:
    """The value of a frame; the last one counts for all that follow, as ComfyUI takes lists."""
    return values[min(number, len(values) - 1)]


def _cast(
    identities: Sequence[Identity],
    frame: Frame,
    generator: Generator,
    negative: Conditioning,
    positive: Conditioning | None,
) -> Cast:
    """Everybody of a frame, as a chain of Cast nodes makes it."""
    cast: Cast = ()
    for identity in identities:
        own = positive if positive is not None else _positive(identity, frame, generator)
        cast = CastNode.execute(identity, own, negative, cast, frame)[0]
    return cast


def _positive(identity: Identity, frame: Frame, generator: Generator) -> Conditioning:
    """What the single nodes give for a character."""
    common = {"identity": identity, "frame": frame, "prompt": generator.prompt}
    if generator.photomaker is not None:
        return IdentityConditioningNode.execute(generator.clip, generator.photomaker, **common)[0]
    return ReferenceConditioningNode.execute(generator.clip, generator.vae, **common, **generator.references)[0]
