"""The workflows in which an identity is found and put into frames (IdentityStory)."""

from .graph import Group, graph, node
from .groups import (
    BLUE,
    GREY,
    TOY,
    TRY_QUICKLY,
    discovery,
    finding,
    from_attention,
    models,
    note,
    put_in,
    story,
    template,
    who_is_where,
)
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


def one_character() -> Json:
    name = "identitystory_sdxl.json"
    about = f"""# One character, one story
IdentityStory with SDXL: a face is found from text alone, then put into every frame; the rest of each picture stays \
as the base model drew it.

## What to change first
- The **Story**: one character line, one prompt per line. A frame may show nobody.
- **Story Frames** `frames`: "2" makes frame 2 alone; its seed stays.
{TRY_QUICKLY}
- The identity is saved in `models/identities`. For the next story, put Load Identity in place of group 2.
- Someone is not found: lower `box_threshold`, or set `on_missing` to "skip"."""
    return graph(
        name,
        [note(name, about, 640), models()],
        [
            [story(**INES), finding(discovery())],
            [template(), who_is_where(), put_in("")],
        ],
    )


def without_detector() -> Json:
    name = "identitystory_attention_layout.json"
    about = f"""# No detector
As the workflow for one character, but who is where comes from the model's own attention while it draws the template: \
no Grounded-SAM, so 3.5 GB less to fetch, and drawn and fantasy people are found too. A detector's edges are sharper.

## What to change first
- The **Story**: one character line, one prompt per line. A frame may show nobody.
- `threshold` in **Layout from Attention**: 0 finds it by itself; 0.5 or more if masks reach into the background.
- Someone is not found: `on_missing` "skip", or another seed.
{TRY_QUICKLY}
- Two characters: descriptions as unlike as you can make them; else take a detector."""
    return graph(
        name,
        [note(name, about, 640), models()],
        [
            [story(**INES), finding(discovery())],
            [template(maps=True), from_attention(), put_in("", negative="encoded.negative")],
        ],
    )


def two_characters() -> Json:
    name = "identitystory_sdxl_two_characters.json"
    about = f"""# Two characters
As the workflow for one character, with a second group 2, a second Identity Conditioning and a chain of two Cast \
nodes. Frames may show both, one of them, or nobody.

## What to change first
- The **Story**: one line per character, `name | class word | description`.
- The names again in `character` of both **Character Portraits**.
{TRY_QUICKLY}
- A third character: one more group 2, Identity Conditioning and Cast."""
    text = {
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
    return graph(
        name,
        [note(name, about, 640), models()],
        [
            [
                story(**text),
                finding(discovery("Ada", 1), "Ada"),
                finding(discovery("Otto", 1001), "Otto"),
            ],
            [template(), who_is_where(), put_in("Ada", "Otto")],
        ],
    )


def with_a_pose() -> Json:
    name = "identitystory_controlnet_pose.json"
    about = f"""# A pose, in both passes
The same ControlNet on the template's prompts and on the identity's, so that the second pass keeps the pose of the \
first. Any ControlNet fits here, and any number of them.

## What to change first
- **Pose**: a picture of an OpenPose skeleton, black behind it, at the size of the frames.
- The **Story**. The pose holds for all frames of a run, so every frame here shows one person; for a pose of its own \
set **Story Frames** `frames` to "1", "2" ... and change the picture.
{TRY_QUICKLY}"""
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
    picture = [
        node("controlnet", "ControlNetLoader", size=(420, 0)),
        node("pose", "LoadImage", image="pose.png", size=(420, 560)),
    ]
    pose = Group("The pose", GREY, [picture])
    return graph(
        name,
        [],
        [
            [note(name, about, 640), models(), story(**text), finding(discovery())],
            [pose, template(posed=True), who_is_where(), put_in("", posed=True)],
        ],
    )


def identity_only() -> Json:
    name = "identity_from_text.json"
    about = """# A face from a sentence
Draws 64 portraits, keeps those that agree on one face, and saves it as an identity: a few kilobytes that any of the \
other workflows can load.

## What to change first
- The **Story**: the character line. The prompt is not used here, but a story has at least one.
- `seed` in **Character Portraits**: other portraits, another face.
- **Quick try**: `count` 16 and `steps` 25, and `rank_too_large` "lower it" in Identity Discovery.
- Your own pictures: Load Image in place of Character Portraits, and the name typed in."""
    text = {
        "characters": "Mira | woman | a young woman with short red hair, green eyes and freckles",
        "prompts": "Mira looks into the camera",
    }
    found = finding(discovery())
    return graph(
        name,
        [],
        [
            [
                note(name, about, 480),
                models(),
                Group("1 · The story", BLUE, [[node("story", "Story", size=(420, 0), **text)]]),
                found,
            ]
        ],
    )


def toy_world() -> Json:
    name = "toyworld_quickstart.json"
    about = """# The whole path in the toy world
Small networks that come with the pack and draw 64-pixel people: nothing to download, no GPU, done in about a minute. \
The nodes are those of the SDXL workflows; only the loader and the sizes differ.

## What to change first
- The **Story**, in the words the networks know: man, woman, boy, girl, robot; black, brown, blond, red, white hair \
(a robot has a lamp); standing, waving, sitting, jumping; beach, forest, city, kitchen, garden, snow; dog, cat, ball, \
balloon, kite; at night.
- `seed` in **Story Frames**: other pictures. `seed` in **Character Portraits**: other faces.
- `start` in **Progressive-Mask Re-denoise**: lower, the identity is stronger; higher, the frame stays closer to its \
template."""
    text = {
        "characters": "Mira | woman | a woman with red hair\nPip | robot | a robot with a white lamp",
        "prompts": (
            "Mira waving and Pip in the garden with a balloon\n"
            "Mira sitting on the beach with a dog\n"
            "Pip jumping in the snow\n"
            "Mira and Pip jumping in the city at night"
        ),
        "negative": "",
    }
    loader = Group("The toy world", GREY, [[node("toy", "ToyWorldLoader", size=(420, 0))]])
    return graph(
        name,
        [note(name, about, 520), loader],
        [
            [
                story(**text),
                finding(discovery("Mira", 1, TOY), "Mira"),
                finding(discovery("Pip", 1001, TOY), "Pip"),
            ],
            [template(world=TOY), who_is_where(TOY), put_in("Mira", "Pip", world=TOY)],
        ],
    )


IDENTITYSTORY = {
    "identitystory_sdxl.json": one_character,
    "identitystory_sdxl_two_characters.json": two_characters,
    "identitystory_controlnet_pose.json": with_a_pose,
    "identity_from_text.json": identity_only,
    "identitystory_attention_layout.json": without_detector,
    "toyworld_quickstart.json": toy_world,
}
