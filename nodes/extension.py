"""The list of nodes."""

from comfy_api.latest import ComfyExtension, io

from .host.folders import register_folders


class StoryIdentityExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        register_folders()
        from . import (
            amsa,
            identity,
            identity_files,
            injector,
            layout,
            reference_conditioning,
            sampling,
            sheet,
            story,
            toyworld,
        )

        return [
            story.StoryNode,
            story.StoryFramesNode,
            story.EncodeStoryNode,
            story.EncodeFrameNode,
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
            sampling.RedenoiseNode,
            amsa.AMSANode,
            injector.FaceRecogniserLoaderNode,
            injector.LoadIDAdapterNode,
            injector.FaceFeaturesNode,
            injector.ShuffledIDInjectorNode,
            sheet.StorySheetNode,
            toyworld.ToyWorldLoaderNode,
        ]
