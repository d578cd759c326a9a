"""The workflows in which an identity is found and put into frames (IdentityStory)."""

from typing import Any

from .any_cast import Way, found, whole_story
from .drawing import ENTERING, draw_frame
from .graph import Group, graph, node
from .groups import BLUE, GREEN, GREY, SDXL, TOY, World, note
from .kinds import Node
from .schemas import Json

INES = {
    "characters": "Ines | woman | a woman with curly grey hair, freckles and a yellow raincoat",
    "prompts": (
        "Ines climbs the spiral stairs of a lighthouse, carrying an oil lamp\n"
        "a lighthouse on a cliff in a storm, high waves, nobody around\n"
        "Ines looks through a brass telescope, rain on the window\n"
        "Ines rows a small wooden boat between the waves at dusk\n"
        "Ines wraps a wet puppy in a blanket, in the warm light of a stove\n"
        "Ines drinks tea on the steps of the lighthouse, a puppy beside her, calm sea at sunrise"
    ),
    "style": "cinematic photo",
}
ADA_AND_OTTO = {
    "characters": (
        "Ada | woman | a young woman with black braids and a red coat\n"
        "Otto | man | an old man with a white beard and a blue cap"
    ),
    "prompts": (
        "Ada and Otto repair a bicycle in a cluttered workshop\n"
        "Ada rides a bicycle down a steep cobbled street, laughing\n"
        "a bicycle leaning against a fountain in an empty square at noon\n"
        "Otto searches behind a market stall, puzzled\n"
        "Ada and Otto share ice cream on a bench in the evening sun"
    ),
    "style": "cinematic photo",
}
FIRST = """## What to change first
- **Characters**: one line each, `name | class word | description`. One, two or five: the nodes stay the same.
- **Story**: one prompt per line. A frame may show all of them, some, or nobody.
- Press Run again: only the lines you changed are drawn. Identities are kept in `models/identities`."""
TOLD = """Everything is saved, in ComfyUI's folder `output/StoryIdentity`. A red node refuses what is written in it: \
*View details*, then the *i* there, says why. Names are spelt as in Characters, capitals included; once it has run, \
the Story shows who is in which frame, and ⚠ where a name looks misspelt."""
QUICK = "- **Quick try**: `count` 16 and `steps` 25 in Find Identity. The values set here are the paper's."
MISSING = """- Someone is not found: lower `box_threshold` in **Draw the frame**, or set `on_missing` to "skip". What \
runs once per frame is in that node: open it."""


def in_two_passes(
    name: str, world: World, *, loads: bool = True, posed: bool = False, maps: bool = False, **finding: Any
) -> Way:
    """Portraits and templates by the base model, the second pass with PhotoMaker; see `draw_frame`."""
    drawn = draw_frame(name, world, loads=loads, posed=posed, maps=maps)
    origins = (world.model, world.generator, world.clip, world.vae, world.photomaker)
    ties = [f"{entry}={origin}" for entry, origin in zip(ENTERING.split(), origins, strict=True)]
    ties += [f"detector={world.detector}"] if "detector" in drawn.takes else []
    ties += ["pose=pose.image"] if posed else []
    find = found(portraits_of(world), "story.story" if posed else "people.characters", **finding)
    return Way(find, drawn, " ".join(ties), sheet=world.values["StorySheet"], posed=posed)


def portraits_of(world: World) -> str:
    """What Find Identity is tied to."""
    return f"model={world.portraits} clip={world.clip} vae={world.vae} encoder={world.photomaker}"


def one_character() -> Json:
    return on_sdxl("identitystory_sdxl.json", "A story with your characters", INES)


def two_characters() -> Json:
    return on_sdxl("identitystory_sdxl_two_characters.json", "Two characters", ADA_AND_OTTO)


def on_sdxl(name: str, title: str, text: dict[str, str]) -> Json:
    about = f"""# {title}
IdentityStory with SDXL: faces are found from text alone, then put into every frame; the rest of each picture stays \
as the base model drew it. The sheet shows each frame before and after, and who is where.

{TOLD}

{FIRST}
{QUICK}
{MISSING}"""
    return whole_story(name, about, text, models(), in_two_passes(name, SDXL), high=620)


def without_detector() -> Json:
    name = "identitystory_attention_layout.json"
    about = f"""# No detector
As the workflow for one character, but who is where comes from the model's own attention while it draws the template: \
no Grounded-SAM, so 3.5 GB less to fetch, and drawn and fantasy people are found too. A detector's edges are sharper.

{FIRST}
{QUICK}
- Someone is not found: `on_missing` "skip" in **Draw the frame**, or another seed. In the same node, Layout from \
Attention has a `threshold`: 0.5 or more if masks reach into the background.
- Two characters: descriptions as unlike as you can make them; else take a detector."""
    return whole_story(name, about, INES, models(), in_two_passes(name, SDXL, maps=True), high=640)


def in_eight_steps() -> Json:
    name = "identitystory_sdxl_8_steps.json"
    about = f"""# Eight steps
As the workflow for one character, with the SDXL-Lightning LoRA: 8 steps without guidance, 14 evaluations of the model \
for a frame of one person and 512 for an identity, in place of some 180 and 6,400. Pictures vary less, and prompts \
are followed a little less well.

{FIRST}
- `start` in **Draw the frame** is a share of the steps: 0.2 of 8. Lower, the identity is stronger.
{MISSING}"""
    few = {"steps": 8, "cfg": 1.0, "scheduler": "sgm_uniform"}
    values = {
        "NoisyLatentCache": {**few, "keep_from_step": 0.2},
        "Redenoise": {"start": 0.2, "cfg": 1.0},
        "StorySheet": SDXL.values["StorySheet"],
    }
    world = SDXL._replace(model="lightning.MODEL", portraits="lightning.MODEL", values=values)
    loaders = [
        node("sdxl", "CheckpointLoaderSimple", size=(360, 0)),
        node("lightning", "LoraLoaderModelOnly", "model=sdxl.MODEL", size=(360, 0)),
        node("photomaker", "PhotoMakerLoader", "model=lightning.MODEL", size=(360, 0)),
    ]
    return whole_story(name, about, INES, loaders, in_two_passes(name, world, **few), high=640)


def with_a_pose() -> Json:
    name = "identitystory_controlnet_pose.json"
    about = f"""# A pose, in both passes
The same ControlNet on the template's prompts and on the identity's, so that the second pass keeps the pose of the \
first. It is in **Draw the frame**: open it to take another one, or several.

## What to change first
- **Pose**: a drawn example. Put Load Image in its place, with a picture of an OpenPose skeleton, black behind it, at \
the size of the frames.
- The **Story**, of one character. The pose holds for all frames of a run; for a pose of its own set **Each Frame** \
`frames` to "1", "2" ... and change the picture.
{QUICK}"""
    text = {
        "characters": "Leo | man | a tall man with short blond hair, a moustache and a grey suit",
        "prompts": (
            "Leo stands on a stage under a spotlight, full body\n"
            "Leo stands in deep snow among fir trees, full body\n"
            "Leo stands on the deck of a sailing ship, full body\n"
            "Leo stands on the moon, the earth in the black sky, full body"
        ),
        "style": "cinematic photo",
    }
    world = SDXL._replace(values={**SDXL.values, "StorySheet": {"columns": 4}})
    return whole_story(name, about, text, models(), in_two_passes(name, world, posed=True), high=560)


def identity_only() -> Json:
    name = "identity_from_text.json"
    about = """# A face from a sentence
Draws 64 portraits, keeps those that agree on one face, and saves it as an identity: a few kilobytes that any of the \
other workflows can load.

## What to change first
- **Characters**: one line each, with a description of what the face shall be like.
- `seed` in **Find Identity**: other portraits, another face.
- **Quick try**: `count` 16 and `steps` 25.
- Your own pictures: a fourth part of the line names them, and no portraits are drawn."""
    people = "Mira | woman | a young woman with short red hair, green eyes and freckles"
    written = [node("people", "Characters", size=(400, 220), characters=people)]
    shown = node("shown", "PreviewImage", "images=found.portraits", title="Portraits", size=(440, 0))
    return graph(
        name,
        [],
        [
            [
                note(name, about, 480, wide=384),
                Group("Models", GREY, [models()]),
                Group("1 · Who they are", BLUE, [written]),
                Group("2 · Find the identity", GREEN, [[found(portraits_of(SDXL))], [shown]]),
            ]
        ],
    )


def models() -> list[Node]:
    return [
        node("sdxl", "CheckpointLoaderSimple", size=(360, 0)),
        node("freeu", "FreeU", "model=sdxl.MODEL", size=(360, 0), title="FreeU, for portraits"),
        node("photomaker", "PhotoMakerLoader", "model=sdxl.MODEL", size=(360, 0)),
    ]


def toy_world() -> Json:
    name = "toyworld_quickstart.json"
    about = f"""# A story, in the toy world
Small networks that come with the pack and draw simple people: nothing to download, no GPU, done in a few \
minutes. The nodes are those of the SDXL workflows.

## What to try first
- Press Run. Then change one line of the **Story** and press Run again: only that frame is drawn.
- Add a line to **Characters**: only that identity is found. The nodes stay the same for any number of people.
- Restart ComfyUI and press Run: identities come from `models/identities`, frames from the disk.
- `seed` in **Find Identity**: other faces. In **Each Frame**: other pictures.
- `seed 5 | ` before a line of the **Story**: another picture of that frame alone. Several to choose from: its number \
in `frames` and 3 in `takes`.
- `start` in **Draw the frame**: lower, the identity is stronger. Open this node to see all that runs once per frame.

The sheet shows each frame before and after, and who is where.

{TOLD}

The networks know these words: man, woman, boy, girl, robot; black, brown, blond, red, white hair (a robot has a \
lamp); standing, waving, sitting, jumping; beach, forest, city, kitchen, garden, snow; dog, cat, ball, balloon, kite; \
at night."""
    text = {
        "characters": (
            "Mira | woman | a woman with red hair\nPip | robot | a robot with a white lamp\n"
            "Ben | boy | a boy with black hair"
        ),
        "prompts": (
            "Mira waving and Pip in the garden with a balloon\n"
            "Ben sitting on the beach with a dog\n"
            "Pip jumping in the snow\n"
            "Mira and Ben jumping in the city at night"
        ),
        "negative": "",
    }
    loaders = [node("toy", "ToyWorldLoader", size=(360, 0))]
    return whole_story(
        name, about, text, loaders, in_two_passes(name, TOY, loads=False, **TOY.values["CharacterPortraits"]), high=700
    )


IDENTITYSTORY = {
    "identitystory_sdxl.json": one_character,
    "identitystory_sdxl_two_characters.json": two_characters,
    "identitystory_sdxl_8_steps.json": in_eight_steps,
    "identitystory_controlnet_pose.json": with_a_pose,
    "identity_from_text.json": identity_only,
    "identitystory_attention_layout.json": without_detector,
    "toyworld_quickstart.json": toy_world,
}
