"""Renaming the tensors of an original file to the names another implementation gives them."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

# (names in the file, as a pattern over the whole name; name in the implementation). `{}` in a name stands for query,
# key and value, which the file stacks in one tensor.
Rules = tuple[tuple[str, str], ...]


def rename(state: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """Rename every tensor by the rule that matches its name; one that no rule matches keeps its name.

    Stacked projections are split in three along their first axis.
    """
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = _renamed(key, rules)
        if "{}" in name:
            parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            renamed |= {name.format(part): third.clone() for part, third in parts}
        else:
            renamed[name] = tensor
    return renamed


def without(state: Mapping[str, Tensor], prefixes: Iterable[str]) -> dict[str, Tensor]:
    """The state dict without the tensors whose names begin with one of `prefixes`."""
    return {key: tensor for key, tensor in state.items() if not key.startswith(tuple(prefixes))}


def _renamed(key: str, rules: Rules) -> str:
    for pattern, name in rules:
        if match := re.fullmatch(pattern, key):
            return match.expand(name)
    return key
