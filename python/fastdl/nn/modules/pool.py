"""Pooling layers: modules around :mod:`fastdl.ops.pool`. See the classes of the same names in ``torch.nn``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from fastdl.nn.modules.module import Module
from fastdl.ops import adaptive_pool, unpool
from fastdl.ops import pool as ops
from fastdl.tensor import Tensor

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "MaxUnpool3d",
]

Ints = int | tuple[int, ...]


def as_tuple(value: Any, rank: int) -> Any:
    return (value,) * rank if isinstance(value, int) else tuple(value)


class _MaxPool(Module):
    pool: ClassVar[Callable[..., Any]]

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        dilation: Ints = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = stride if stride is not None else kernel_size
        self.padding = padding
        self.dilation = dilation
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def forward(self, input: Tensor) -> Any:
        return type(self).pool(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            self.return_indices,
        )

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class MaxPool1d(_MaxPool):
    """Maximum over windows of (N, C, L) or (C, L); see :func:`fastdl.nn.functional.max_pool1d`."""

    pool = staticmethod(ops.max_pool1d)


class MaxPool2d(_MaxPool):
    """Maximum over windows of (N, C, H, W) or (C, H, W); see :func:`fastdl.nn.functional.max_pool2d`.

    Example:
        >>> import fastdl
        >>> fastdl.nn.MaxPool2d(2)(fastdl.zeros(1, 3, 8, 6)).shape
        (1, 3, 4, 3)
    """

    pool = staticmethod(ops.max_pool2d)


class MaxPool3d(_MaxPool):
    """Maximum over windows of (N, C, D, H, W) or (C, D, H, W); see :func:`fastdl.nn.functional.max_pool3d`."""

    pool = staticmethod(ops.max_pool3d)


class AvgPool1d(Module):
    """Mean over windows of (N, C, L) or (C, L); see :func:`fastdl.nn.functional.avg_pool1d`."""

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size = as_tuple(kernel_size, 1)
        self.stride = as_tuple(stride if stride is not None else kernel_size, 1)
        self.padding = as_tuple(padding, 1)
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad

    def forward(self, input: Tensor) -> Tensor:
        return ops.avg_pool1d(
            input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class _AvgPool(Module):
    pool: ClassVar[Callable[..., Tensor]]

    def __init__(
        self,
        kernel_size: Ints,
        stride: Ints | None = None,
        padding: Ints = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = stride if stride is not None else kernel_size
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override

    def forward(self, input: Tensor) -> Tensor:
        return type(self).pool(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool2d(_AvgPool):
    """Mean over windows of (N, C, H, W) or (C, H, W); see :func:`fastdl.nn.functional.avg_pool2d`."""

    pool = staticmethod(ops.avg_pool2d)


class AvgPool3d(_AvgPool):
    """Mean over windows of (N, C, D, H, W) or (C, D, H, W); see :func:`fastdl.nn.functional.avg_pool3d`."""

    pool = staticmethod(ops.avg_pool3d)


class _LPPool(Module):
    pool: ClassVar[Callable[..., Tensor]]

    def __init__(
        self, norm_type: float, kernel_size: Ints, stride: Ints | None = None, ceil_mode: bool = False
    ) -> None:
        super().__init__()
        self.norm_type = norm_type
        self.kernel_size = kernel_size
        self.stride = stride
        self.ceil_mode = ceil_mode

    def forward(self, input: Tensor) -> Tensor:
        return type(self).pool(input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode)

    def extra_repr(self) -> str:
        return (
            f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"ceil_mode={self.ceil_mode}"
        )


class LPPool1d(_LPPool):
    """Power average over windows of (N, C, L) or (C, L); see :func:`fastdl.nn.functional.lp_pool1d`."""

    pool = staticmethod(ops.lp_pool1d)


class LPPool2d(_LPPool):
    """Power average over windows of (N, C, H, W) or (C, H, W); see :func:`fastdl.nn.functional.lp_pool2d`."""

    pool = staticmethod(ops.lp_pool2d)


class LPPool3d(_LPPool):
    """Power average over windows of (N, C, D, H, W) or (C, D, H, W); see ``torch.nn.LPPool3d``."""

    pool = staticmethod(ops.lp_pool3d)


class _AdaptiveAvgPool(Module):
    pool: ClassVar[Callable[..., Tensor]]

    def __init__(self, output_size: int | Sequence[int | None] | None) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: Tensor) -> Tensor:
        return type(self).pool(input, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """Mean over ``output_size`` windows; see :func:`fastdl.nn.functional.adaptive_avg_pool1d`."""

    pool = staticmethod(adaptive_pool.adaptive_avg_pool1d)


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """Mean over ``output_size`` windows; see :func:`fastdl.nn.functional.adaptive_avg_pool2d`."""

    pool = staticmethod(adaptive_pool.adaptive_avg_pool2d)


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """Mean over ``output_size`` windows; see :func:`fastdl.nn.functional.adaptive_avg_pool3d`."""

    pool = staticmethod(adaptive_pool.adaptive_avg_pool3d)


class _AdaptiveMaxPool(Module):
    pool: ClassVar[Callable[..., Any]]

    def __init__(self, output_size: int | Sequence[int | None] | None, return_indices: bool = False) -> None:
        super().__init__()
        self.output_size = output_size
        self.return_indices = return_indices

    def forward(self, input: Tensor) -> Any:
        return type(self).pool(input, self.output_size, self.return_indices)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """Maximum over ``output_size`` windows; see :func:`fastdl.nn.functional.adaptive_max_pool1d`."""

    pool = staticmethod(adaptive_pool.adaptive_max_pool1d)


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """Maximum over ``output_size`` windows; see :func:`fastdl.nn.functional.adaptive_max_pool2d`."""

    pool = staticmethod(adaptive_pool.adaptive_max_pool2d)


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """Maximum over ``output_size`` windows; see :func:`fastdl.nn.functional.adaptive_max_pool3d`."""

    pool = staticmethod(adaptive_pool.adaptive_max_pool3d)


class _MaxUnpool(Module):
    pool: ClassVar[Callable[..., Tensor]]
    rank: ClassVar[int]

    def __init__(self, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0) -> None:
        super().__init__()
        self.kernel_size = as_tuple(kernel_size, self.rank)
        self.stride = as_tuple(stride if stride is not None else kernel_size, self.rank)
        self.padding = as_tuple(padding, self.rank)

    def forward(self, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        return type(self).pool(input, indices, self.kernel_size, self.stride, self.padding, output_size)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxUnpool1d(_MaxUnpool):
    """Puts maxima back to where :class:`MaxPool1d` found them; see ``torch.nn.MaxUnpool1d``."""

    pool = staticmethod(unpool.max_unpool1d)
    rank = 1


class MaxUnpool2d(_MaxUnpool):
    """Puts maxima back to where :class:`MaxPool2d` found them; see ``torch.nn.MaxUnpool2d``."""

    pool = staticmethod(unpool.max_unpool2d)
    rank = 2


class MaxUnpool3d(_MaxUnpool):
    """Puts maxima back to where :class:`MaxPool3d` found them; see ``torch.nn.MaxUnpool3d``."""

    pool = staticmethod(unpool.max_unpool3d)
    rank = 3
