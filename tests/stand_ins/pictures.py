"""Input pictures: a pose as a ControlNet for poses wants it, a scene with two people-like shapes, and faces."""

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
    for number, turn in enumerate((-0.15, 0.0, 0.15), start=1):
        face(256, 256, turn).save(input_dir / f"nora_{number}.png")
        face(256, 256, turn, "#c9c4bb", "#a33a2c").save(input_dir / f"otto_{number}.png")


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


def face(width: int, height: int, turn: float, hair: str = "#1d1a1a", coat: str = "#3f6b45") -> Image.Image:
    """One person, looking aside by `turn` of the picture's width, before another background each time."""
    picture = Image.new("RGB", (width, height), COLOURS[round(20 * turn) % len(COLOURS)])
    draw = ImageDraw.Draw(picture)

    def oval(x: float, y: float, across: float, down: float, colour: str) -> None:
        box = ((x - across) * width, (y - down) * height, (x + across) * width, (y + down) * height)
        draw.ellipse(box, fill=colour)

    oval(0.5, 1.05, 0.38, 0.25, coat)
    oval(0.5, 0.42, 0.28, 0.34, hair)
    oval(0.5 + turn / 4, 0.5, 0.22, 0.28, "#e3b592")
    for side in (-0.08, 0.08):
        oval(0.5 + turn + side, 0.46, 0.025, 0.025, "#2a2a2a")
    oval(0.5 + turn, 0.64, 0.07, 0.02, "#a8433f")
    return picture
