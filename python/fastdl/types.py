"""Names for signatures. See ``torch.types``."""

from __future__ import annotations

from fastdl.dtypes import Size, device

Device = device | str | int | None
Number = int | float | bool
_device = device
_size = Size | list[int] | tuple[int, ...]
