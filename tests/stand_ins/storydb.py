"""Folders of toy pictures, as a user might have them."""

from dataclasses import replace

import numpy as np
from PIL import Image
from story_identity.lab.evaluation.stories import with_others
from story_identity.lab.toyworld.people import sample_person
from story_identity.lab.toyworld.world import draw, portrait_plan, sample_plan


def new_person(random, **fixed):
    return sample_person(random, **fixed)


def new_plan(person, random):
    """A scene of one person, whose hair and clothes the caption tells."""
    told = {"people": (person,), "names_hair": (True,), "names_clothes": (True,)}
    return replace(sample_plan(random, people=1), **told)


def write(path, scene, caption=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene.image).save(path)
    if caption != "":
        path.with_suffix(".txt").write_text(caption or scene.caption, encoding="utf-8")


def write_character(folder, person, count, random, first=0):
    """Pictures 00.png, 01.png, ... of one person in all sorts of scenes, every fifth a close-up; gives their names."""
    names = [f"{number:02d}.png" for number in range(first, first + count)]
    for place, name in enumerate(names):
        plan = portrait_plan(person, names_clothes=True) if place % 5 == 4 else new_plan(person, random)
        write(folder / name, draw(plan, random))
    return names


def plant(folder, person, random):
    """One bad picture of each kind; returns the reasons for which they should go, by file name."""
    own, other = (new_plan(person, random) for _ in range(2))
    write(folder / "p_wrong_person.png", draw(with_others(own, random), random))
    elsewhere = replace(other, place="beach" if own.place != "beach" else "kitchen", side="", props=("dog",))
    scene = draw(replace(own, props=()), random)
    write(folder / "p_wrong_caption.png", scene, draw(elsewhere, random).caption)
    blank = replace(draw(own, random), image=np.full((64, 64, 3), 128, np.uint8))
    write(folder / "p_blank.png", blank)
    write(folder / "p_corrupt.png", scene)
    whole = (folder / "p_corrupt.png").read_bytes()
    (folder / "p_corrupt.png").write_bytes(whole[: len(whole) // 2])
    return {
        "p_wrong_person.png": "wrong person",
        "p_wrong_caption.png": "wrong caption",
        "p_blank.png": "blank",
        "p_corrupt.png": "unreadable",
    }
