"""Input pictures: a pose as a ControlNet for poses wants it, and a scene with two people-like shapes."""

from pathlib import Path

from PIL import Image, ImageDraw

# A standing figure in parts of the picture's width and height, and its bones.
JOINTS = {
    "nose": (0.5, 0.16),
    "neck": (0.5, 0.26),
    "right elbow": (0.34, 0.4),
    "right hand": (0.3, 0.54),
    "left elbow": (0.66, 0.4),
    "left hand": (0.7, 0.54),
    "hip": (0.5, 0.55),
    "right foot": (0.42, 0.92),
    "left foot": (0.58, 0.92),
}
BONES = (
    ("nose", "neck"),
    ("neck", "right elbow"),
    ("right elbow", "right hand"),
    ("neck", "left elbow"),
    ("left elbow", "left hand"),
    ("neck", "hip"),
    ("hip", "right foot"),
    ("hip", "left foot"),
)
COLOURS = ("#ff0000", "#ff5500", "#ffaa00", "#aaff00", "#00ff55", "#00ffff", "#0055ff", "#aa00ff")


def write_pictures(input_dir: Path) -> None:
    pose(256, 256).save(input_dir / "pose.png")
    two_people(256, 192).save(input_dir / "two_people.png")


def pose(width: int, height: int) -> Image.Image:
    picture = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(picture)
    for (start, end), colour in zip(BONES, COLOURS, strict=True):
        ends = [(JOINTS[joint][0] * width, JOINTS[joint][1] * height) for joint in (start, end)]
        draw.line(ends, fill=colour, width=max(1, height // 40))
    return picture


def two_people(width: int, height: int) -> Image.Image:
    picture = Image.new("RGB", (width, height), "#88aacc")
    draw = ImageDraw.Draw(picture)
    for middle, colour in ((0.28, "#aa3322"), (0.72, "#2255aa")):
        x, head = middle * width, height * 0.1
        draw.rectangle((x - 2 * head, 4 * head, x + 2 * head, height), fill=colour)
        draw.ellipse((x - head, 1.5 * head, x + head, 4 * head), fill="#ddbb99")
    return picture
