"""The form of JSON files, checked by pydantic; what does not fit is one sentence."""

import math
from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, ValidationError
from pydantic_core import PydanticCustomError

from ..core.quoting import printable, quote


class Entry(BaseModel):
    """A JSON object. Nothing is converted; keys that a later version added are left out."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


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


def _place(keys: Iterable[str | int]) -> str:
    """The way to a value: names, and numbers of items from 1."""
    words = [str(key + 1) if isinstance(key, int) else str(key) for key in keys]
    return quote(" > ".join(words)) if words else "its top"
