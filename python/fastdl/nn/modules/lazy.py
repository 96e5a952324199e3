"""Layers that find out their input's size at the first call: ``LazyLinear`` and its like.

Until then parameters are :class:`~fastdl.nn.UninitializedParameter`; the first input gives them a shape, draws their
values, and turns the layer into an ordinary one. An optimizer may be made before or after that.
"""

from __future__ import annotations

from typing import Any

from fastdl.autograd.mode import no_grad
from fastdl.nn.modules.conv import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
)
from fastdl.nn.modules.linear import Linear
from fastdl.nn.modules.module import Module
from fastdl.nn.modules.norm import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
)
from fastdl.nn.parameter import UninitializedParameter
from fastdl.tensor import Tensor

__all__ = [
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "LazyConv1d",
    "LazyConv2d",
    "LazyConv3d",
    "LazyConvTranspose1d",
    "LazyConvTranspose2d",
    "LazyConvTranspose3d",
    "LazyInstanceNorm1d",
    "LazyInstanceNorm2d",
    "LazyInstanceNorm3d",
    "LazyLinear",
]


class _Lazy(Module):
    """Mixed into a layer before its class, ``cls_to_become``: postpones the parameters until sizes are known."""

    cls_to_become: type[Module]

    def _postpone(self) -> None:
        """Parameters without a shape in place of those that the layer has."""
        for name, parameter in list(self._parameters.items()):
            if parameter is not None:
                setattr(self, name, UninitializedParameter(device=parameter.device, dtype=parameter.dtype))

    def has_uninitialized_params(self) -> bool:
        """Is the size of the input still unknown?"""
        return any(isinstance(p, UninitializedParameter) for p in self._parameters.values())

    def initialize_parameters(self, input: Tensor) -> None:
        """Take sizes from an input and draw the parameters; a second call does nothing."""
        if self.has_uninitialized_params() or not self._size_known():
            with no_grad():
                self._set_size(self._size_of(input))
                for name, shape in self._shapes().items():
                    self._parameters[name].materialize(shape)  # type: ignore[union-attr]
                self.reset_parameters()

    def forward(self, input: Tensor, *args: Any, **options: Any) -> Any:
        self.initialize_parameters(input)
        self.__class__ = self.cls_to_become  # type: ignore[assignment]
        return self.forward(input, *args, **options)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        sized = next(
            (n for n in ("weight", "running_mean") if getattr(state_dict.get(prefix + n), "ndim", 0) > 0),
            None,
        )
        if sized is not None and (self.has_uninitialized_params() or not self._size_known()):
            self._set_size(self._size_of_saved(tuple(state_dict[prefix + sized].shape)))
            for name, shape in self._shapes().items():
                self._parameters[name].materialize(shape)  # type: ignore[union-attr]
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _size_known(self) -> bool:
        return True

    def _size_of(self, input: Tensor) -> int:
        """The size that the layer needs to know, from an input."""
        raise NotImplementedError

    def _size_of_saved(self, shape: tuple[int, ...]) -> int:
        """The same, from the shape of a saved weight."""
        raise NotImplementedError

    def _set_size(self, size: int) -> None:
        raise NotImplementedError

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all parameters, when the size is known."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Draw the parameters, once they have a shape."""
        if not self.has_uninitialized_params():
            super().reset_parameters()  # type: ignore[misc]


class LazyLinear(_Lazy, Linear):
    """:class:`Linear` whose in_features is the last extent of its first input. See ``torch.nn.LazyLinear``.

    Example:
        >>> import fastdl
        >>> layer = fastdl.nn.LazyLinear(2)
        >>> layer(fastdl.ones(1, 5)).shape
        (1, 2)
        >>> layer
        Linear(in_features=5, out_features=2, bias=True)
    """

    cls_to_become = Linear

    def __init__(self, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None) -> None:
        super().__init__(1, out_features, bias, device, dtype)
        self.in_features = 0
        self._postpone()

    def _size_of(self, input: Tensor) -> int:
        return input.shape[-1]

    def _size_of_saved(self, shape: tuple[int, ...]) -> int:
        return shape[-1]

    def _set_size(self, size: int) -> None:
        self.in_features = size

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = {"weight": (self.out_features, self.in_features), "bias": (self.out_features,)}
        return {name: shape for name, shape in shapes.items() if self._parameters[name] is not None}


class _LazyConv(_Lazy):
    axes: int
    transposed: bool
    in_channels: int
    out_channels: int
    groups: int
    kernel_size: tuple[int, ...]

    def __init__(self, out_channels: int, kernel_size: Any, *args: Any, **options: Any) -> None:
        groups = options.get("groups", args[3] if len(args) > 3 else 1)
        super().__init__(groups, out_channels, kernel_size, *args, **options)  # type: ignore[call-arg]
        self.in_channels = 0
        self._postpone()

    def _size_of(self, input: Tensor) -> int:
        if input.ndim not in (self.axes + 1, self.axes + 2):
            raise RuntimeError(
                f"{type(self).__name__}: input must be {self.axes + 1}-D or {self.axes + 2}-D, got shape {input.shape}"
            )
        return input.shape[-self.axes - 1]

    def _size_of_saved(self, shape: tuple[int, ...]) -> int:
        return shape[0] if self.transposed else shape[1] * self.groups

    def _set_size(self, size: int) -> None:
        if size % self.groups:
            raise ValueError(f"{type(self).__name__}: groups={self.groups} must divide in_channels={size}")
        self.in_channels = size

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        outer, inner = self.out_channels, self.in_channels
        if self.transposed:
            outer, inner = inner, outer
        shapes = {"weight": (outer, inner // self.groups, *self.kernel_size), "bias": (self.out_channels,)}
        return {name: shape for name, shape in shapes.items() if self._parameters[name] is not None}


class LazyConv1d(_LazyConv, Conv1d):
    """:class:`Conv1d` whose in_channels are those of its first input. See ``torch.nn.LazyConv1d``."""

    cls_to_become = Conv1d


class LazyConv2d(_LazyConv, Conv2d):
    """:class:`Conv2d` whose in_channels are those of its first input. See ``torch.nn.LazyConv2d``.

    Example:
        >>> import fastdl
        >>> layer = fastdl.nn.LazyConv2d(8, kernel_size=3, padding=1)
        >>> layer(fastdl.ones(1, 3, 6, 6)).shape
        (1, 8, 6, 6)
    """

    cls_to_become = Conv2d


class LazyConv3d(_LazyConv, Conv3d):
    """:class:`Conv3d` whose in_channels are those of its first input. See ``torch.nn.LazyConv3d``."""

    cls_to_become = Conv3d


class LazyConvTranspose1d(_LazyConv, ConvTranspose1d):
    """:class:`ConvTranspose1d` whose in_channels are those of its first input."""

    cls_to_become = ConvTranspose1d


class LazyConvTranspose2d(_LazyConv, ConvTranspose2d):
    """:class:`ConvTranspose2d` whose in_channels are those of its first input."""

    cls_to_become = ConvTranspose2d


class LazyConvTranspose3d(_LazyConv, ConvTranspose3d):
    """:class:`ConvTranspose3d` whose in_channels are those of its first input."""

    cls_to_become = ConvTranspose3d


class _LazyNorm(_Lazy):
    num_features: int
    running_mean: Tensor | None
    running_var: Tensor | None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(0, *args, **options)  # type: ignore[call-arg]
        self._postpone()

    def _size_known(self) -> bool:
        return self.num_features > 0

    def _size_of(self, input: Tensor) -> int:
        if input.ndim < 2:
            raise ValueError(f"{type(self).__name__}: input must be (N, C, ...), got shape {input.shape}")
        return input.shape[1]

    def _size_of_saved(self, shape: tuple[int, ...]) -> int:
        return shape[0]

    def _set_size(self, size: int) -> None:
        self.num_features = size
        for buffer, value in ((self.running_mean, 0.0), (self.running_var, 1.0)):
            if buffer is not None:
                buffer._data = buffer.new_full((size,), value)._data

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: (self.num_features,) for name, p in self._parameters.items() if p is not None}


class LazyBatchNorm1d(_LazyNorm, BatchNorm1d):
    """:class:`BatchNorm1d` whose num_features are the channels of its first input."""

    cls_to_become = BatchNorm1d


class LazyBatchNorm2d(_LazyNorm, BatchNorm2d):
    """:class:`BatchNorm2d` whose num_features are the channels of its first input."""

    cls_to_become = BatchNorm2d


class LazyBatchNorm3d(_LazyNorm, BatchNorm3d):
    """:class:`BatchNorm3d` whose num_features are the channels of its first input."""

    cls_to_become = BatchNorm3d


class _LazyInstanceNorm(_LazyNorm):
    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(eps, momentum, affine, track_running_stats, device, dtype, **options)


class LazyInstanceNorm1d(_LazyInstanceNorm, InstanceNorm1d):
    """:class:`InstanceNorm1d` whose num_features are the channels of its first input."""

    cls_to_become = InstanceNorm1d


class LazyInstanceNorm2d(_LazyInstanceNorm, InstanceNorm2d):
    """:class:`InstanceNorm2d` whose num_features are the channels of its first input."""

    cls_to_become = InstanceNorm2d


class LazyInstanceNorm3d(_LazyInstanceNorm, InstanceNorm3d):
    """:class:`InstanceNorm3d` whose num_features are the channels of its first input."""

    cls_to_become = InstanceNorm3d
