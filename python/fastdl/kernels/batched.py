"""What a tensor holds in the place of an array while :func:`fastdl.func.vmap` computes all slices at once.

The slices lie along axis 0 of another tensor, ``values``, which is how gradients reach them. A :class:`BatchedArray`
shows the shape of one slice and can be looked at as a view is made (reshaped, transposed, cut); whoever takes it for an
array otherwise gets an error, and the slices are then computed one by one (fastdl/batched).
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NoReturn

from fastdl.kernels.stand_in import StandIn


class NotAtOnce(NotImplementedError, TypeError, AttributeError):
    """What cannot be computed for all slices at once; :func:`fastdl.func.vmap` takes them one by one then."""


REFUSALS = (TypeError, AttributeError, NotImplementedError)
"""What kernels, NumPy and CuPy say to slices, beside NotAtOnce."""
FAILURES = (*REFUSALS, RuntimeError, ValueError, IndexError)
"""What may come of a function of slices: the errors that it has for one slice come again when that is computed."""


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise NotAtOnce("vmap: this takes the slices one by one")


class BatchedArray(StandIn):
    """Slices along axis 0 of the tensor ``values``. ``level``: how many calls of vmap are around theirs."""

    __slots__ = ("level", "values")
    made = False
    """Has this process any? Who would have to look for them everywhere looks here first."""
    flags = SimpleNamespace(c_contiguous=True, writeable=True)

    def __init__(self, values: Any, level: int) -> None:
        self.values, self.level = values, level
        BatchedArray.made = True

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents of a slice."""
        return self.values._data.shape[1:]  # type: ignore[no-any-return]

    @property
    def ndim(self) -> int:
        """The number of a slice's axes."""
        return self.values._data.ndim - 1  # type: ignore[no-any-return]

    def reshape(self, *shape: Any) -> BatchedArray:
        """The slices in another shape."""
        extents = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        return BatchedArray(self.values.reshape(self.values._data.shape[0], *extents), self.level)

    def transpose(self, dims: Any) -> BatchedArray:
        """The slices with their axes in another order."""
        return BatchedArray(self.values.permute(0, *[d % self.ndim + 1 for d in dims]), self.level)

    def swapaxes(self, a: int, b: int) -> BatchedArray:
        """The slices with two axes exchanged."""
        return BatchedArray(self.values.transpose(a % self.ndim + 1, b % self.ndim + 1), self.level)

    def expand(self, shape: tuple[int, ...]) -> BatchedArray:
        """The slices broadcast to a shape."""
        more = len(shape) - self.ndim
        size = self.values._data.shape[0]
        values = self.values.reshape(size, *(1,) * more, *self.shape) if more else self.values
        return BatchedArray(values.expand(size, *shape), self.level)

    def __getitem__(self, key: Any) -> BatchedArray:
        """A part of every slice, by integers and slices."""
        keys = key if isinstance(key, tuple) else (key,)
        return BatchedArray(self.values[(slice(None), *keys)], self.level)

    def __getattr__(self, name: str) -> Any:
        raise NotAtOnce(f"vmap: .{name} takes the slices one by one", name=name, obj=self)

    __array__ = __array_ufunc__ = __array_function__ = __bool__ = __len__ = __iter__ = __setitem__ = _refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __hash__ = object.__hash__
