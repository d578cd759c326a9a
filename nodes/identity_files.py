"""The identity file: Save Identity, Load Identity."""

import hashlib
from dataclasses import replace

from comfy_api.latest import io, ui
from comfy_execution.graph_utils import ExecutionBlocker

from ..core.identity import Identity, safe_file_name
from ..core.text_search import composed
from .host.folders import check_present, full_path, identity_path, names
from .types import IdentitySocket


class SaveIdentityNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StoryIdentitySaveIdentity",
            display_name="Save Identity",
            category="StoryIdentity/identity",
            description="Writes the identity, with the portraits it carries, to models/identities, to be used in other "
            "stories.",
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
            description="Reads an identity that Save Identity or Find Identity wrote, and shows its portraits.",
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
                io.Image.Output(
                    display_name="portraits",
                    tooltip="The portraits that the identity carries, best first. Nodes connected here fail if it "
                    "carries none.",
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
        identity = replace(saved, name=composed(rename.strip() or saved.name))
        info = f"{identity.name} ({identity.encoder}, {len(identity.embedding)} numbers)\n{identity.description}"
        try:
            portraits = identity.portrait_images()
        except ValueError as error:
            return io.NodeOutput(identity, info, ExecutionBlocker(str(error)))
        shown = ui.PreviewImage(portraits, cls=cls)
        return io.NodeOutput(identity, f"{info}\n{len(portraits)} portraits", portraits, ui=shown)
