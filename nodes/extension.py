"""The list of nodes."""

from comfy_api.latest import ComfyExtension, io

from .host.folders import register_folders


class StoryIdentityExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        register_folders()
        from . import amsa as attention
        from . import identity, injector, layout, sampling, scores, sheet, story, toyworld

        return [
            story.StoryNode,
            story.StoryFramesNode,
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
            scores.LoadFaceRecogniserNode,
            scores.ScoreStoryNode,
            toyworld.ToyWorldLoaderNode,
        ]
