"""Max pooling over windows at random distances: modules around :mod:`fastdl.ops.fractional_pool`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from fastdl.nn.modules.module import Module
from fastdl.nn.modules.pool import Ints, as_tuple
from fastdl.ops import fractional_pool as ops
from fastdl.tensor import Tensor

__all__ = ["FractionalMaxPool2d", "FractionalMaxPool3d"]


class _FractionalMaxPool(Module):
    pool: ClassVar[Callable[..., Any]]
    rank: ClassVar[int]
    _random_samples: Tensor | None

    def __init__(
        self,
        kernel_size: Ints,
        output_size: Ints | None = None,
        output_ratio: float | tuple[float, ...] | None = None,
        return_indices: bool = False,
        _random_samples: Tensor | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.kernel_size = as_tuple(kernel_size, self.rank)
        if min(self.kernel_size) <= 0:
            raise ValueError(f"{name}: kernel_size must be greater than 0, but got {kernel_size}")
        if output_size is None and output_ratio is None:
            raise ValueError(f"{name} requires specifying either an output size, or a pooling ratio")
        if output_size is not None and output_ratio is not None:
            raise ValueError(f"{name}: only one of output_size and output_ratio may be specified")
        self.return_indices = return_indices
        self.register_buffer("_random_samples", _random_samples)
        self.output_size = None if output_size is None else as_tuple(output_size, self.rank)
        self.output_ratio: tuple[float, ...] | None = None
        if output_ratio is not None:
            if isinstance(output_ratio, (int, float)):
                output_ratio = (output_ratio,) * self.rank
            ratios = tuple(output_ratio)
            self.output_ratio = ratios
            if not all(0 < ratio < 1 for ratio in ratios):
                raise ValueError(f"{name}: output_ratio must be between 0 and 1 (got {output_ratio})")

    def forward(self, input: Tensor) -> Any:
        return type(self).pool(
            input,
            self.kernel_size,
            self.output_size,
            self.output_ratio,
            self.return_indices,
            self._random_samples,
        )


class FractionalMaxPool2d(_FractionalMaxPool):
    """Maximum over windows at random distances; see :func:`fastdl.nn.functional.fractional_max_pool2d`."""

    pool = staticmethod(ops.fractional_max_pool2d)
    rank = 2


class FractionalMaxPool3d(_FractionalMaxPool):
    """Maximum over windows at random distances; see :func:`fastdl.nn.functional.fractional_max_pool3d`."""

    pool = staticmethod(ops.fractional_max_pool3d)
    rank = 3
