"""The list of nodes, and what the pack registers with ComfyUI."""

from typing import Any

from comfy_api.latest import ComfyExtension, io
from server import PromptServer

from .host.folders import register_folders


class StoryIdentityExtension(ComfyExtension):
    async def on_load(self) -> None:
        """Check and prepare workflows that are sent, and let a user see and forget what Collect Frames keeps."""
        from .host.result_cache import add_routes

        server = getattr(PromptServer, "instance", None)  # programs that use ComfyUI's nodes alone have none
        if server is not None:
            server.add_on_prompt_handler(_prepared)
            add_routes(server)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        register_folders()
        from . import (
            amsa,
            characters,
            example_picture,
            find_identity,
            frames,
            identity,
            identity_files,
            injector,
            layout,
            loop_values,
            page,
            reference_conditioning,
            sampling,
            save_frame,
            scores,
            sheet,
            story,
            story_cast,
            takes,
            toyworld,
        )

        return [
            characters.CharactersNode,
            story.StoryNode,
            story.StoryFramesNode,
            frames.EachFrameNode,
            frames.CollectFramesNode,
            takes.ChooseTakesNode,
            save_frame.SaveFrameNode,
            frames.RunFramesNode,
            frames.FrameConstantNode,
            loop_values.FrameValueNode,
            loop_values.FrameListNode,
            story.EncodeStoryNode,
            story.EncodeFrameNode,
            characters.EachCharacterNode,
            characters.CollectCharactersNode,
            characters.RunCharactersNode,
            characters.CharacterConstantNode,
            find_identity.FindIdentityNode,
            identity.CharacterPortraitsNode,
            identity.PhotoMakerLoaderNode,
            identity.IdentityDiscoveryNode,
            identity_files.SaveIdentityNode,
            identity_files.LoadIdentityNode,
            identity.IdentityConditioningNode,
            reference_conditioning.ReferenceConditioningNode,
            sampling.NoisyLatentCacheNode,
            layout.GroundedSAMLoaderNode,
            layout.GroundedSAMLayoutNode,
            layout.LayoutFromMasksNode,
            layout.PreviewLayoutNode,
            amsa.LayoutFromAttentionNode,
            amsa.PreviewAttentionMasksNode,
            sampling.CastNode,
            story_cast.StoryCastNode,
            sampling.RedenoiseNode,
            amsa.AMSANode,
            injector.LoadIDAdapterNode,
            injector.FaceFeaturesNode,
            injector.ShuffledIDInjectorNode,
            sheet.StorySheetNode,
            page.StoryPageNode,
            scores.LoadFaceRecogniserNode,
            scores.LoadCaptionEncoderNode,
            scores.ScoreStoryNode,
            toyworld.ToyWorldLoaderNode,
            example_picture.ExamplePictureNode,
        ]


def _prepared(request: dict[str, Any]) -> dict[str, Any]:
    """A request to run a workflow, with what Story and Collect Frames have to know of it."""
    from .host.graph_names import with_fault
    from .host.loops import prepared

    prompt = request.get("prompt")
    return {**request, "prompt": prepared(with_fault(prompt))} if isinstance(prompt, dict) else request
