"""The list of nodes, and what the pack registers with ComfyUI."""

import logging
from typing import Any

from comfy_api.latest import ComfyAPI, ComfyExtension, io
from server import PromptServer

from .host.folders import register_folders


class StoryIdentityExtension(ComfyExtension):
    async def on_load(self) -> None:
        """Prepare workflows for Collect Frames, and let finished frames outlive a run.

        ComfyUI has the interface for the latter since 0.17.
        """
        PromptServer.instance.add_on_prompt_handler(_prepared)
        try:
            from .host.result_cache import add_routes, frame_results
        except ImportError:
            logging.info("StoryIdentity: this ComfyUI keeps no finished frames from run to run; 0.17 or newer does.")
            return
        results = frame_results()
        await ComfyAPI().caching.register_provider(results)
        add_routes(results)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        register_folders()
        from . import amsa as attention
        from . import frames, identity, injector, layout, sampling, save_frame, sheet, story, toyworld

        return [
            story.StoryNode,
            story.StoryFramesNode,
            frames.EachFrameNode,
            frames.CollectFramesNode,
            save_frame.SaveFrameNode,
            frames.RunFramesNode,
            frames.FrameConstantNode,
            frames.FrameValueNode,
            frames.FrameListNode,
            story.EncodeStoryNode,
            story.EncodeFrameNode,
            identity.CharacterPortraitsNode,
            identity.PhotoMakerLoaderNode,
            identity.IdentityDiscoveryNode,
            identity.SaveIdentityNode,
            identity.LoadIdentityNode,
            identity.IdentityConditioningNode,
            sampling.NoisyLatentCacheNode,
            layout.GroundedSAMLoaderNode,
            layout.GroundedSAMLayoutNode,
            layout.LayoutFromMasksNode,
            layout.PreviewLayoutNode,
            attention.LayoutFromAttentionNode,
            attention.PreviewAttentionMasksNode,
            sampling.CastNode,
            sampling.RedenoiseNode,
            attention.AMSANode,
            injector.LoadIDAdapterNode,
            injector.FaceFeaturesNode,
            injector.ShuffledIDInjectorNode,
            sheet.StorySheetNode,
            toyworld.ToyWorldLoaderNode,
        ]


def _prepared(request: dict[str, Any]) -> dict[str, Any]:
    """A request to run a workflow, with what Collect Frames has to know of it."""
    from .host.loops import prepared

    prompt = request.get("prompt")
    return {**request, "prompt": prepared(prompt)} if isinstance(prompt, dict) else request
