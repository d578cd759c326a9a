"""The form of JSON files and of settings, checked by pydantic; what does not fit is one sentence."""

import math
from collections.abc import Iterable
from typing import Annotated, Any, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from ..core.quoting import printable, quote, quote_all


class Entry(BaseModel):
    """A JSON object. Nothing is converted; keys that a later version added are left out."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


_BOUNDS = {
    "ge": "{} or more",
    "gt": "above {}",
    "le": "at most {}",
    "lt": "under {}",
    "min_length": "a list of {} or more",
}
"""Bounds as pydantic has them, in words."""


class Settings(BaseModel):
    """Settings, each with what it means and its range; whole numbers become fractions where those are wanted.

    Raises:
        ValueError: One sentence that names the setting, its value and what it must be.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ValueError(_sentence(type(self), error)) from error


def setting(default: Any, meaning: str, **bounds: Any) -> Any:
    """A field of `Settings`: its default (`...`: none), what it means, and bounds as `pydantic.Field` has them."""
    return Field(default, description=meaning, **bounds)


def _finite(value: Any) -> int | float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or (isinstance(value, float) and not math.isfinite(value)):
        raise PydanticCustomError("finite_number", "Input should be a finite number")
    return value


def _unicode(text: str) -> str:
    if not is_encodable(text):
        raise PydanticCustomError("unicode_text", "Input should be text that UTF-8 can hold")
    return text


Form = TypeVar("Form", bound=Entry)
Item = TypeVar("Item")
Items = Annotated[list[Item], FailFast()]
"""A list, of which the first wrong item is reported."""
Number = Annotated[Any, AfterValidator(_finite)]
"""An int or a float, as it was written."""
Text = Annotated[str, AfterValidator(_unicode)]
"""Text without lone surrogates."""


def checked(form: type[Form], content: Any, where: str) -> Form:
    """The content in its form.

    Args:
        form: What it must be.
        content: Parsed JSON.
        where: What messages call the file.

    Raises:
        ValueError: If something in it is missing or of another kind; it names the place, the value and what belongs
            there.
    """
    try:
        return form.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        wanted = printable(first["msg"].removeprefix("Value error, "))
        found = "" if first["type"] == "missing" else f" It is {quote(first['input'])}."
        raise ValueError(f"{printable(where)} is damaged at {_place(first['loc'])}: {wanted}.{found}") from error


def is_encodable(text: str) -> bool:
    """Whether UTF-8 can hold a text; it cannot hold lone surrogates, as file names that are no UTF-8 have in Python."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _sentence(kind: type[Settings], error: ValidationError) -> str:
    """What is wrong with settings: all strange or missing names, or else the first value that does not fit."""
    faults = error.errors(include_url=False)
    strange, missing = (
        [str(each["loc"][0]) for each in faults if each["type"] == what] for what in ("extra_forbidden", "missing")
    )
    if strange:
        return f"there is no setting {quote_all(sorted(strange))}. There are {', '.join(kind.model_fields)}."
    if missing:
        return f"there is no {', '.join(missing)}, which must be given."
    first = faults[0]
    if first["type"] == "value_error":
        return str(first.get("ctx", {})["error"])
    name, value = str(first["loc"][0]), first["input"]
    return f"{name} is {quote(value)}; it must be {_wanted(first['type'], value, kind.model_fields[name])}."


def _wanted(fault: str, value: Any, field: FieldInfo) -> str:
    """What the value of a setting must be, in words."""
    kind = field.annotation
    if fault == "literal_error":
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if fault == "finite_number" or (kind is float and type(value) is int and fault == "float_type"):
        return "a finite number"
    if fault.endswith("_type"):
        return f"of type {getattr(kind, '__name__', kind)}"
    bounds = {name: getattr(each, name) for each in field.metadata for name in (*_BOUNDS, fault) if hasattr(each, name)}
    if fault == "multiple_of":
        return f"a multiple of {bounds[fault]}"
    return " and ".join(form.format(bounds[name]) for name, form in _BOUNDS.items() if name in bounds)


def _place(keys: Iterable[str | int]) -> str:
    """The way to a value: names, and numbers of items from 1."""
    words = [str(key + 1) if isinstance(key, int) else str(key) for key in keys]
    return quote(" > ".join(words)) if words else "its top"
