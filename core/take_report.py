"""Which take of each frame was kept, and why, for a person to read."""

from collections.abc import Sequence

from .takes import Choice

CEILING_MEANS = "what two pictures of one person have among themselves"


def choices_text(
    numbers: Sequence[int], choices: Sequence[Choice], ceiling: float | None = None, floor: float | None = None
) -> str:
    """A paragraph per frame: the take that is kept and why, and the numbers of all takes.

    Args:
        numbers: Of the frames, from 1.
        choices: One per frame.
        ceiling: As given to `choose_takes`.
        floor: Likewise.
    """
    rows = [_about(number, choice, ceiling, floor) for number, choice in zip(numbers, choices, strict=True)]
    return "\n".join(rows)


def written_choices(numbers: Sequence[int], choices: Sequence[Choice]) -> str:
    """The choice as `takes_by_number` reads it, such as "1: 2, 2: 1"."""
    return ", ".join(f"{number}: {choice.take + 1}" for number, choice in zip(numbers, choices, strict=True))


def _about(number: int, choice: Choice, ceiling: float | None, floor: float | None) -> str:
    count = len(choice.likeness)
    lines = [f"Frame {number}: take {choice.take + 1} of {count}, {_reason(choice, floor)}."]
    if any(each is not None for each in choice.likeness):
        lines.append(f"  likeness: {_listed(choice.likeness)}")
    if any(each is not None for each in choice.agreement):
        lines.append(f"  agreement with the caption: {_listed(choice.agreement)}")
    lines += _warnings(choice, ceiling)
    return "\n".join(lines)


def _reason(choice: Choice, floor: float | None) -> str:
    if choice.is_written:
        return "as written in takes"
    if len(choice.likeness) == 1:
        return "its only one"
    left_out = len(choice.below_floor)
    if floor is not None and left_out == len(choice.likeness):
        return f"since no take agrees with the caption as much as {100 * floor:.1f} and this one agrees best"
    reason = "which is the most alike"
    if all(each is None for each in choice.likeness):
        measured = any(each is not None for each in choice.agreement)
        reason = "which agrees best with the caption" if measured else "the first"
    elif _more_alike(choice):
        reason = "the most alike of those that are not copies" if choice.copies else "the most alike by all frames"
    if left_out:
        reason += f", of those that agree with the caption by {100 * (floor or 0):.1f} or more"
    return reason


def _more_alike(choice: Choice) -> list[int]:
    """The takes that are more alike than the one that is kept, and were not left out for their agreement."""
    own = choice.likeness[choice.take]
    return [
        take
        for take, each in enumerate(choice.likeness)
        if each is not None and (own is None or each > own) and take not in choice.below_floor
    ]


def _warnings(choice: Choice, ceiling: float | None) -> list[str]:
    if ceiling is None:
        return []
    lines = []
    stiff = [take for take in choice.copies if take != choice.take]
    if choice.take in choice.copies:
        value = choice.likeness[choice.take]
        lines.append(
            f"  ⚠ the likeness of take {choice.take + 1}, {100 * (value or 0):.1f}, is above {100 * ceiling:.0f}, "
            f"{CEILING_MEANS}: its faces may be copies, pose and expression included"
        )
    elif stiff:
        named = f"take{'s' if len(stiff) > 1 else ''} {', '.join(str(take + 1) for take in stiff)}"
        lines.append(
            f"  {named}: above {100 * ceiling:.0f}, {CEILING_MEANS}; faces that are copied, pose and expression "
            "included, have such numbers"
        )
    return lines


def _listed(values: Sequence[float | None]) -> str:
    return " · ".join("no number" if each is None else f"{100 * each:.1f}" for each in values)
