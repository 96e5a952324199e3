"""The memory that a tensor and its views share, as programs count it; see ``torch.UntypedStorage``."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdl.dtypes import device
from fastdl.tensor import Tensor

__all__ = ["UntypedStorage"]


class UntypedStorage:
    """The whole array that a tensor is a view of: its size, address and device.

    Equal for tensors of one memory, and usable as a key. Numbers read bytes, slices are storages of the same memory,
    which ``fastdl.asarray(storage, dtype=fastdl.uint8)`` is a tensor of. There is no writing or resizing through it.

    Example:
        >>> import fastdl
        >>> x = fastdl.ones(3, 4)
        >>> row = x[1].untyped_storage()
        >>> row.nbytes(), row == x.untyped_storage(), row.data_ptr() == x.data_ptr()
        (48, True, True)
    """

    def __init__(self, tensor: Tensor) -> None:
        array = tensor._data
        while array.base.__class__ is array.__class__:
            array = array.base
        self._array = array
        self._first = Tensor._wrap(array)

    @classmethod
    def from_file(cls, filename: Any, shared: bool = False, nbytes: int = 0) -> UntypedStorage:
        """The first ``nbytes`` of a file as memory, read when they are used.

        With ``shared=True`` what is written goes to the file (made, or made longer, if need be), else to a copy.
        """
        if shared:
            with open(filename, "ab") as file:
                file.truncate(max(file.tell(), nbytes))
        return cls(
            Tensor._wrap(np.asarray(np.memmap(filename, np.uint8, "r+" if shared else "c", shape=nbytes)))
        )

    def untyped(self) -> UntypedStorage:
        """Itself."""
        return self

    def __getitem__(self, key: Any) -> Any:
        array = self._bytes()[key]
        if array.ndim == 0:
            return int(array)
        part = UntypedStorage.__new__(UntypedStorage)
        part._array, part._first = array, Tensor._wrap(array)
        return part

    def _bytes(self) -> Any:
        return self._array.reshape(-1).view(np.uint8)

    @property
    def device(self) -> device:
        """Where it lies."""
        return self._first.device

    def nbytes(self) -> int:
        """How many bytes."""
        return int(self._array.size * self._array.itemsize)

    size = __len__ = nbytes

    def data_ptr(self) -> int:
        """The address of the first byte."""
        return self._first.data_ptr()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UntypedStorage) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        return self.data_ptr(), self.nbytes(), str(self.device)

    def __repr__(self) -> str:
        return f"UntypedStorage({self.nbytes()} bytes, device={str(self.device)!r})"
