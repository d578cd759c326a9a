"""ComfyUI-StoryIdentity: picture stories whose characters stay the same person in every frame."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():  # noqa: ANN201 - the host's type exists only inside the host
    """Called once by ComfyUI (0.14 or newer) when it loads the pack."""
    from .nodes.extension import StoryIdentityExtension

    return StoryIdentityExtension()
