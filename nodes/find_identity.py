"""Find Identity: portraits, discovery and the identity file of every character, in one node."""

from typing import Any, NamedTuple

import torch
from comfy_api.latest import io, ui
from comfy_execution.utils import get_executing_context

from ..core.character_mentions import Character
from ..core.frame_seeds import character_seeds, described_alike
from ..core.identity import Identity, largest_usable_rank, safe_file_name
from ..core.quoting import quote
from ..core.story import Story
from .characters import digests_of
from .host import photomaker as pm
from .host.checkpoint_parts import require_parts
from .host.discovery import find_identity
from .host.folders import picture_path
from .host.loops import workflow_of
from .host.miswiring import generator_as_base, refuse_shared_attention
from .host.node_text import show_text, warn
from .host.picture_files import pictures_of_one_size
from .host.portraits import check_template, check_vae, draw_portraits
from .host.saved_identities import Note, input_digest, save_found, saved_identity
from .identity_widgets import discovery_widgets, portrait_widgets, representatives_widget
from .types import Characters, CharactersSocket, FaceRecogniserSocket, IdentitySocket, StorySocket, characters_of

IF_IT_FITS, NEVER = REUSE = ("if it fits", "never")
"""When a saved identity is taken."""

_DRAWING = {"model": "model", "clip": "text encoder", "vae": "VAE"}
"""The inputs that portraits are drawn with, and what notes call them."""

_DRAWN_BY = ("count", "steps", "cfg", "sampler_name", "scheduler", "template", "negative")
_FOUND_BY = ("rank", "keep_ratio", "iterations")
_SHOWN_BY = ("width", "height", "representatives")
"""The settings that decide which identity is found; for pictures only the last ones do. batch_size is none of them: a
portrait starts from the same noise in every batch."""


class Task(NamedTuple):
    """What there is to do for a character.

    Args:
        character: Who it is.
        seed: The first portrait's.
        note: What the identity is found from; None if it cannot be said, so that it cannot be used again.
        saved: The saved identity, if one fits.
        report: Which it is, or why none is taken.
    """

    character: Character
    seed: int
    note: Note | None
    saved: Identity | None
    report: str


class FindIdentityNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentityFindIdentity",
            display_name="Find Identity",
            category="StoryIdentity/identity",
            description="The identities of all characters: draws portraits of each from text alone, finds the identity "
            "they agree on, and saves it. An identity that was saved before and still fits is not drawn again.",
            search_aliases=["consistent character", "same person", "character sheet", "portraits", "face", "svd"],
            inputs=[
                io.Model.Input("model", lazy=True, tooltip="The base model, without any identity LoRA."),
                io.Clip.Input("clip", lazy=True, tooltip="The checkpoint's text encoder."),
                io.Vae.Input("vae", lazy=True, tooltip="The checkpoint's VAE."),
                io.MultiType.Input(
                    "encoder",
                    [io.Photomaker, io.ClipVision, FaceRecogniserSocket],
                    lazy=True,
                    tooltip="The identity encoder: from PhotoMaker Loader, Load CLIP Vision or Load Face Recogniser. "
                    "Story Cast with photomaker needs PhotoMaker's.",
                ),
                io.MultiType.Input(
                    "characters",
                    [CharactersSocket, StorySocket],
                    tooltip="From Characters, Each Character or Story. Of those with pictures none are drawn.",
                ),
                *portrait_widgets(
                    "Where the characters' seeds come from: a character's own follows from it and their description. "
                    "Another value gives everybody another face."
                ),
                *discovery_widgets(),
                representatives_widget(),
                io.Combo.Input(
                    "reuse",
                    options=list(REUSE),
                    default=IF_IT_FITS,
                    tooltip="Whether an identity in models/identities is taken that was found from the same "
                    "description, models and settings. never: always draws.",
                ),
            ],
            outputs=[
                IdentitySocket.Output(
                    display_name="identities",
                    is_output_list=True,
                    tooltip="One per character, for Story Cast. A node that takes one IDENTITY runs once for each.",
                ),
                io.Image.Output(
                    display_name="portraits",
                    is_output_list=True,
                    tooltip="Per character the portraits that represent them, best first.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="Which identities were loaded and which were found, and why. It is also on the node.",
                ),
            ],
            hidden=[io.Hidden.dynprompt, io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, template: str | None) -> bool | str:
        """Refuse a portrait prompt without a place for the description before anything runs."""
        try:
            check_template(template or "{character}")
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def check_lazy_status(cls, characters: Characters | Story, **given: Any) -> list[str]:
        """Ask for models only if there is something to find with them."""
        to_find = [task for task in cls._tasks(characters_of(characters), given) if task.saved is None]
        names = ["encoder"] if to_find else []
        if any(not task.character.reference_images for task in to_find):
            names += _DRAWING
        return [name for name in names if given.get(name) is None]

    @classmethod
    def execute(cls, characters: Characters | Story, **given: Any) -> io.NodeOutput:
        tasks = cls._tasks(characters_of(characters), given)
        to_draw = [task for task in tasks if task.saved is None and not task.character.reference_images]
        if any(task.saved is None for task in tasks) and pm.reads_faces(given["encoder"]):
            pm.face_recogniser(given["encoder"], "Find Identity")
        if to_draw:
            require_parts("Find Identity", **{name: given.get(name) for name in _DRAWING})
            refuse_shared_attention("Find Identity", given["model"])
            warn(generator_as_base("Find Identity", given["model"]))
            check_template(given["template"])
            check_vae(given["model"], given["vae"])
            _check_count(given["count"], given["keep_ratio"], given["iterations"])
        pictures = {task.character.name: _pictures(task.character, given) for task in tasks if task.saved is None}
        identities, reports = [], []
        for number, task in enumerate(tasks, start=1):
            show_text("\n".join([*reports, f"character {number} of {len(tasks)}: {task.report}"]))
            identity, report = (
                (task.saved, task.report) if task.saved else cls._found(task, given, pictures[task.character.name])
            )
            identities.append(identity)
            reports.append(report)
        portraits = [each.portrait_images() for each in identities]
        report = "\n\n".join(reports)
        shown = ui.PreviewImage(torch.cat(portraits), cls=cls).as_dict()
        return io.NodeOutput(identities, portraits, report, ui={**shown, "text": (report,)})

    @classmethod
    def _tasks(cls, people: Characters, given: dict[str, Any]) -> list[Task]:
        """What there is to do for everybody."""
        digests, seeds = cls._model_digests(), character_seeds(people, given["seed"])
        tasks = []
        for character, seed, alike in zip(people, seeds, described_alike(people), strict=True):
            safe_file_name(character.name)  # everybody's, before the first portrait is drawn
            note = _note(character, seed, given, digests)
            saved = None
            if note is None:
                report = "found anew, since what the models come from cannot be known from their nodes."
            elif given["reuse"] == NEVER:
                report = "found anew, as reuse says."
            else:
                found = saved_identity(note, character.name, character.description)
                saved = found.identity
                report = f"loaded from {found.file}." if saved else f"found. {found.why_not}"
            if alike and not character.reference_images:
                report += f" The words are those of {quote(alike[0], 60)}; another seed makes another face of them."
            tasks.append(Task(character, seed, note, saved, f"{quote(character.name, 60)}: {report}"))
        return tasks

    @classmethod
    def _model_digests(cls) -> dict[str, str | None]:
        """Digests of the models, by what notes call them."""
        inputs, context = {**_DRAWING, "encoder": "identity encoder"}, get_executing_context()
        if context is None:  # a program that calls the node without a workflow
            return dict.fromkeys(inputs.values())
        graph = workflow_of(cls.hidden.dynprompt)
        return {called: input_digest(graph, context.node_id, name) for name, called in inputs.items()}

    @classmethod
    def _found(cls, task: Task, given: dict[str, Any], pictures: torch.Tensor | None) -> tuple[Identity, str]:
        """Find an identity in pictures or, where there are none, in portraits, and save it if it can be used again."""
        person, discovery = task.character, {name: given[name] for name in _FOUND_BY}
        if pictures is None:
            settings = {name: given[name] for name in (*_DRAWN_BY, "batch_size", "width", "height")}
            models = given["model"], given["clip"], given["vae"]
            pictures = draw_portraits(*models, person.description, seed=task.seed, **settings)
        else:
            discovery["iterations"] = 0  # all of them show the character, so that none is left out
        known = given["encoder"], pictures, person.name, person.description
        found = find_identity(*known, representatives=given["representatives"], lower_rank=True, **discovery)
        lines = [task.report, found.report]
        if task.note is not None:
            lines.append(f"saved as {save_found(found.identity, task.note).name}")
        return found.identity, "\n".join(lines)


def _check_count(count: int, keep_ratio: float, iterations: int) -> None:
    """Refuse so few portraits that no discovery can tell them apart, before they are drawn.

    Raises:
        ValueError: If they are too few for any rank.
    """
    if iterations and largest_usable_rank(count, count, keep_ratio, iterations) < 1:
        raise ValueError(
            f"Find Identity: count is {count}, too few portraits for any rank with keep_ratio {keep_ratio:g} and "
            f"iterations {iterations}. Raise count, or lower iterations."
        )


def _pictures(character: Character, given: dict[str, Any]) -> torch.Tensor | None:
    """A character's reference pictures as one batch, if they have any."""
    if not character.reference_images:
        return None
    paths = [picture_path(name, character.name) for name in character.reference_images]
    return pictures_of_one_size(paths, given["width"], given["height"])


def _note(character: Character, seed: int, given: dict[str, Any], digests: dict[str, str | None]) -> Note | None:
    """What an identity is found from; None if a model is not known."""
    if character.reference_images:
        known: dict[str, Any] = {"pictures": " ".join(digests_of(character))}
        used, names = ["identity encoder"], _SHOWN_BY
    else:
        known = {"description": character.description, "class word": character.word, "seed": seed}
        used, names = list(digests), (*_DRAWN_BY, *_FOUND_BY, *_SHOWN_BY)
    if any(digests[called] is None for called in used):
        return None
    return {**known, **{name: given[name] for name in names}, **{called: digests[called] for called in used}}
