"""The workflows for families of diffusion transformers, whose model, text encoder and VAE are files of their own."""

import re
from typing import Any, NamedTuple

from .any_cast import Way, found, whole_story
from .graph import Group, fold, folded_node, graph, node
from .groups import BLUE, GREEN, GREY, ROSE, note
from .identitystory import FIRST, INES
from .kinds import Folded, Node
from .schemas import Json
from .storynizor import LENA_AND_BRUNO, NORA
from .together import amsa

WIDE, NARROW = (420, 0), (320, 0)
FROM_MODELS = ("model", "clip", "vae", "editing_model", "editing_clip")
FILE = re.compile(r"(unet|clip|vae)_name\d?")
PREFIX = "StoryIdentity/{}/frame"
FACE = """- The face is the best of the portraits: another `seed` in **Find Identity** is another face.
- `start` in **Draw the frame**: earlier for a stronger identity, later to stay closer to the template.
- Someone is not found: `on_missing` "skip" in **Draw the frame**, or another `seed` in **Each Frame**.
- **Load all models** and **Draw the frame** are subgraphs: their symbol at the right of the title opens them."""
EDITING = f"{FIRST}\n{FACE}"
SHARING = """- The **Story**: one character per line, one prompt per line. Encode Story counts the frames.
- `seed` in **KSampler**.
- `strength` 0 in **AMSA Model Patch** draws each frame by itself, from the same noise, to compare.
- Many frames, little memory: `anchors` 2 in **AMSA Model Patch**; later frames then see the first two alone."""


class Drawing(NamedTuple):
    """What draws portraits and templates: its files, and the values that its model wants."""

    loaders: list[Node]
    model: str
    empty: str
    steps: int
    cfg: float

    @property
    def sampling(self) -> Json:
        return {"steps": self.steps, "cfg": self.cfg, "sampler_name": "euler", "scheduler": "simple"}


class Editing(NamedTuple):
    """What puts the identity in: an editing model, its own files if it has any, and how it reads references."""

    loaders: list[Node]
    model: str
    clip: str
    references: Json
    cfg: float
    guidance: float | None = None


def loader(key: str, unet: str) -> Node:
    return node(key, "UNETLoader", size=WIDE, unet_name=unet, weight_dtype="default")


def encoder(name: str, family: str) -> Node:
    return node("clip", "CLIPLoader", size=WIDE, clip_name=name, type=family, device="default")


def vae(name: str) -> Node:
    return node("vae", "VAELoader", size=WIDE, vae_name=name)


def shifted(model: str, shift: float) -> Node:
    return node("shifted", "ModelSamplingAuraFlow", f"model={model}", size=WIDE, shift=shift)


KLEIN = Drawing(
    [
        loader("drawer", "flux-2-klein-4b.safetensors"),
        encoder("qwen_3_4b.safetensors", "flux2"),
        vae("flux2-vae.safetensors"),
    ],
    model="drawer.MODEL",
    empty="EmptyFlux2LatentImage",
    steps=4,
    cfg=1.0,
)
Z_IMAGE = Drawing(
    [
        loader("drawer", "z_image_turbo_bf16.safetensors"),
        encoder("qwen_3_4b.safetensors", "lumina2"),
        vae("ae.safetensors"),
    ],
    model="drawer.MODEL",
    empty="EmptySD3LatentImage",
    steps=8,
    cfg=1.0,
)
QWEN_IMAGE = Drawing(
    [
        loader("drawer", "qwen_image_fp8_e4m3fn.safetensors"),
        shifted("drawer.MODEL", 3.1),
        encoder("qwen_2.5_vl_7b_fp8_scaled.safetensors", "qwen_image"),
        vae("qwen_image_vae.safetensors"),
    ],
    model="shifted.MODEL",
    empty="EmptySD3LatentImage",
    steps=20,
    cfg=2.5,
)
KLEIN_EDITS = Editing([], "drawer.MODEL", "clip.CLIP", {}, cfg=1.0)
QWEN_EDITS = Editing(
    [loader("editor", "qwen_image_edit_2511_fp8mixed.safetensors")],
    "editor.MODEL",
    "clip.CLIP",
    {"text_encoder": "prompt and pictures"},
    cfg=2.5,
)
KONTEXT_EDITS = Editing(
    [
        loader("editor", "flux1-dev-kontext_fp8_scaled.safetensors"),
        node(
            "editor_clip",
            "DualCLIPLoader",
            size=WIDE,
            clip_name1="clip_l.safetensors",
            clip_name2="t5xxl_fp8_e4m3fn_scaled.safetensors",
            type="flux",
            device="default",
        ),
    ],
    "editor.MODEL",
    "editor_clip.CLIP",
    {},
    cfg=1.0,
    guidance=2.5,
)


def models(drawing: Drawing, editing: Editing | None, place: str) -> Node:
    """All loaders as one node, which shows what files they load."""
    nodes, about = drawing.loaders, "Loads the diffusion model, the text encoder and the VAE."
    given = {"model": drawing.model, "clip": "clip.CLIP", "vae": "vae.VAE"}
    if editing is not None:
        nodes = [*drawing.loaders, *editing.loaders, node("vision", "CLIPVisionLoader", size=WIDE)]
        about = "Loads diffusion models, text encoders, the VAE and the image encoder."
        given |= {"clip_vision": "vision.CLIP_VISION", "editing_model": editing.model, "editing_clip": editing.clip}
    files = [
        f"{each.key}.{spec['name']}" for each in nodes for spec in each.kind.widgets if FILE.fullmatch(spec["name"])
    ]
    gives = " ".join(f"{name}={origin}" for name, origin in given.items())
    body = fold("Load all models", about, [nodes], "", gives, " ".join(files), place)
    return folded_node("models", body, "", size=(360, 0))


def draw_the_frame(drawing: Drawing, editing: Editing, steps: int, place: str) -> Folded:
    """Template, layout, and the identities inside it, as a subgraph."""
    first = "model=in.model positive=encoded.positive negative=encoded.negative latent_image=empty.LATENT seed=in.seed"
    sampled = {**drawing.sampling, "steps": steps}
    again = "model=in.editing_model cast=cast.cast cache=cache.cache layout=layout.layout"
    casting, referring = cast_of(editing)
    columns = [
        [
            node("encoded", "EncodeFrame", "clip=in.clip frame=in.frame", size=NARROW),
            node("empty", drawing.empty, size=NARROW),
        ],
        [
            node("cache", "NoisyLatentCache", first, keep_attention_maps=True, **sampled),
            node("template", "VAEDecode", "samples=cache.latent vae=in.vae", title="The template"),
        ],
        [
            node("layout", "LayoutFromAttention", "cache=cache.cache image=template.IMAGE frame=in.frame"),
            *casting,
        ],
        [
            node("again", "Redenoise", again, size=NARROW, cfg=editing.cfg),
            node("decoded", "VAEDecode", "samples=again.latent vae=in.vae", size=NARROW, title="The frame"),
        ],
    ]
    return fold(
        "Draw the frame",
        "Draws one frame from text, then draws each character again in their mask, with a portrait as the reference.",
        columns,
        " ".join((*FROM_MODELS, "identities", "frame", "seed")),
        "image=decoded.IMAGE template=template.IMAGE layout=layout.layout",
        f"empty.width empty.height cache.steps cache.cfg layout.on_missing {referring}.portraits again.start again.cfg",
        place,
    )


def cast_of(editing: Editing) -> tuple[list[Node], str]:
    """The cast, and which of its nodes reads the portraits; with guidance of its own, the cast of one character.

    Story Cast makes conditionings that Flux Guidance cannot be put on.
    """
    from_text = "clip=in.editing_clip vae=in.vae frame=in.frame"
    if editing.guidance is None:
        everybody = f"{from_text} identities=in.identities negative=encoded.negative"
        return [node("cast", "StoryCast", everybody, size=NARROW, **editing.references)], "cast"
    guided = "identity=in.identities frame=in.frame positive=guided.CONDITIONING negative=encoded.negative"
    return [
        node("reference", "ReferenceConditioning", f"{from_text} identity=in.identities", **editing.references),
        node("guided", "FluxGuidance", "conditioning=reference.positive", guidance=editing.guidance),
        node("cast", "Cast", guided),
    ], "reference"


def sheet(pictures: str, **more: Any) -> Node:
    return node("sheet", "StorySheet", f"images={pictures}", size=(400, 0), columns=3, **more)


def identity_story(name: str, about: str, drawing: Drawing, editing: Editing, steps: int, **portraits: Any) -> Json:
    find = found(
        "model=models.model clip=models.clip vae=models.vae encoder=models.clip_vision",
        **{**drawing.sampling, **portraits},
    )
    ties = " ".join(f"{each}=models.{each}" for each in FROM_MODELS)
    drawn = draw_the_frame(drawing, editing, steps, name)
    way = Way(find, drawn, ties, PREFIX.format("lighthouse"), {"columns": 3})
    return whole_story(name, about, INES, [models(drawing, editing, name)], way, high=620)


def klein() -> Json:
    about = f"""# A story with Flux.2 klein
One model does all: it draws portraits from text alone, draws each frame, and then draws the character again inside \
their own mask, with the best portrait as its reference. Outside the mask the frame stays as it was. 4 steps, CFG 1.

{EDITING}"""
    return identity_story("identitystory_flux2_klein.json", about, KLEIN, KLEIN_EDITS, steps=4)


def qwen_edit() -> Json:
    about = f"""# A story with Qwen-Image and Qwen-Image-Edit
Qwen-Image draws portraits and frames from text alone. Qwen-Image-Edit then draws the character again inside their own \
mask; it and its text encoder see the best portrait. 20 steps, CFG 2.5.

{EDITING}
- **Faster**: a Lightning LoRA (Load LoRA, model only) after each of the two models, `steps` 4 and every `cfg` 1 \
in Find Identity and Draw the frame."""
    return identity_story("identitystory_qwen_edit.json", about, QWEN_IMAGE, QWEN_EDITS, steps=20, count=16)


def z_image_to_kontext() -> Json:
    about = f"""# Two families in one picture
Z-Image Turbo draws portraits and frames; Flux.1 Kontext draws the character again inside their own mask, with the \
best portrait as its reference. The two share a VAE and the kind of noise, and need nothing else in common. The \
frames take 20 steps, which is what Kontext wants.

## What to change first
- **Characters**: one line, `name | class word | description`, for one character. In **Draw the frame**, Flux Guidance \
stands between Reference Conditioning and Cast; several characters need these three nodes each.
- **Story**: one prompt per line. A frame may show nobody. Press Run again: only the lines you changed are drawn.
{FACE}
- `cfg_1` in **Draw the frame** stays 1: the negative prompt is encoded for Z-Image, and Kontext cannot read it.
- Flux.1 Kontext's licence is non-commercial. Any other editing model of the Flux.1 VAE fits in its place."""
    return identity_story("identitystory_z_image_to_kontext.json", about, Z_IMAGE, KONTEXT_EDITS, steps=20)


def storynizor(name: str, about: str, drawing: Drawing, story: Json, side: int) -> Json:
    """All frames of a story in one sampling, in which they see each other's characters."""
    tied = "model=amsa.model positive=encoded.positive negative=encoded.negative latent_image=empty.LATENT"
    told = [
        node("story", "Story", size=(380, 430), **story),
        node("encoded", "EncodeStory", "clip=models.clip story=story.story", size=(380, 0)),
        node("empty", drawing.empty, "batch_size=encoded.frames", size=(380, 0), width=side, height=side),
    ]
    drawn = [
        amsa("models.model"),
        node("sampler", "KSampler", tied, size=(340, 0), **drawing.sampling),
        node("decoded", "VAEDecode", "samples=sampler.LATENT vae=models.vae", size=(340, 0)),
    ]
    kept = {"title": "Finished frames", "filename_prefix": "StoryIdentity/frame", "size": (400, 0)}
    shown = [node("finished", "SaveImage", "images=decoded.IMAGE", **kept), sheet("decoded.IMAGE", captions=False)]
    return graph(
        name,
        [note(name, about, 560, wide=400), Group("Models", GREY, [[models(drawing, None, name)]])],
        [
            [
                Group("1 · The story", BLUE, [told]),
                Group("2 · Draw all frames together", GREEN, [drawn]),
                Group("3 · The frames", ROSE, [[shown[0]], [shown[1]]]),
            ]
        ],
    )


def storynizor_z_image() -> Json:
    about = f"""# Four frames that see each other, with Z-Image
Storynizor's auto-mask attention with Z-Image Turbo, in 8 steps at CFG 1: the person in each frame sees the same \
person in the frames before it, and becomes more alike. No training, no reference picture, no detector. Prompts differ \
in length, so each step runs the model once per frame.

## What to change first
{SHARING}"""
    return storynizor("storynizor_z_image.json", about, Z_IMAGE, NORA, 1024)


def storynizor_qwen_image() -> Json:
    about = f"""# Two characters, with Qwen-Image
Storynizor's auto-mask attention with Qwen-Image, in 20 steps at CFG 2.5: each character sees only themselves in the \
other frames. Frames may show both, one of them, or nobody.

## What to change first
{SHARING}
- Descriptions as unlike as you can make them keep two people apart.
- **Faster**: a Lightning LoRA (Load LoRA, model only) before AMSA Model Patch, `steps` 4 or 8 and `cfg` 1 in \
KSampler."""
    return storynizor("storynizor_qwen_image.json", about, QWEN_IMAGE, LENA_AND_BRUNO, 1328)


TRANSFORMERS = {
    "identitystory_flux2_klein.json": klein,
    "identitystory_qwen_edit.json": qwen_edit,
    "identitystory_z_image_to_kontext.json": z_image_to_kontext,
    "storynizor_qwen_image.json": storynizor_qwen_image,
    "storynizor_z_image.json": storynizor_z_image,
}
