"""Tensor shapes in signatures, such as `Float[Tensor, "b n d"]`.

The tests check them by jaxtyping and beartype. Where jaxtyping is not installed, as in ComfyUI, an annotation is the
bare tensor type, so that the pack needs no package for it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Int64, Shaped, UInt8
else:
    try:
        from jaxtyping import Bool, Float, Int, Int64, Shaped, UInt8
    except ModuleNotFoundError:

        class Float:
            """Stands for every kind: the tensor type of `Kind[Tensor, "axes"]`, without the axes."""

            def __class_getitem__(cls, kind_and_axes: tuple[Any, str]) -> Any:
                return kind_and_axes[0]

        Bool = Int = Int64 = Shaped = UInt8 = Float

__all__ = ["Bool", "Float", "Int", "Int64", "Shaped", "UInt8"]
