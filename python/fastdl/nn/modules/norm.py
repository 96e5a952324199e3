"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any, ClassVar

import numpy as np

from fastdl.nn.modules.module import Module
from fastdl.nn.parameter import Parameter, empty
from fastdl.ops import norm as ops
from fastdl.ops.local_response import local_response_norm
from fastdl.tensor import Tensor

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "LocalResponseNorm",
    "RMSNorm",
    "SyncBatchNorm",
]


def _filled(shape: tuple[int, ...], value: float, device: Any, dtype: Any) -> Any:
    array = empty(shape, device, dtype)
    array.fill(value)
    return array


def _fill(*values: tuple[Tensor | None, float]) -> None:
    """Set those tensors that are there to their values."""
    for tensor, value in values:
        if tensor is not None:
            tensor._data.fill(value)
            tensor._bump_version()


class _ChannelNorm(Module):
    """What batch and instance normalisation share: parameters and running statistics for each channel."""

    num_features: int
    eps: float
    momentum: float | None
    affine: bool
    track_running_stats: bool
    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    _version = 2

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        device: Any,
        dtype: Any,
        bias: bool,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        channels = (num_features,)
        self.register_parameter("weight", Parameter(_filled(channels, 1, device, dtype)) if affine else None)
        self.register_parameter(
            "bias", Parameter(_filled(channels, 0, device, dtype)) if affine and bias else None
        )
        tracked = track_running_stats
        self.register_buffer(
            "running_mean", Tensor._wrap(_filled(channels, 0, device, dtype)) if tracked else None
        )
        self.register_buffer(
            "running_var", Tensor._wrap(_filled(channels, 1, device, dtype)) if tracked else None
        )
        self.register_buffer(
            "num_batches_tracked", Tensor._wrap(_filled((), 0, device, np.int64)) if tracked else None
        )

    def reset_running_stats(self) -> None:
        """Forget the running statistics: mean 0, variance 1, no batch seen."""
        _fill((self.running_mean, 0), (self.running_var, 1), (self.num_batches_tracked, 0))

    def reset_parameters(self) -> None:
        """Running statistics as above, weight 1, bias 0."""
        self.reset_running_stats()
        _fill((self.weight, 1), (self.bias, 0))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *rest: Any
    ) -> None:
        # Checkpoints older than the counter lack it: the module keeps its own.
        if self.num_batches_tracked is not None and local_metadata.get("version", 1) < 2:
            state_dict.setdefault(f"{prefix}num_batches_tracked", self.num_batches_tracked)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_ChannelNorm):
    _ranks: ClassVar[tuple[int, ...]]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias)

    def _check_input_dim(self, input: Tensor) -> None:  # which users override
        if input._data.ndim not in self._ranks:
            wanted = " or ".join([f"{rank}D" for rank in self._ranks])
            raise ValueError(f"{type(self).__name__}: expected {wanted} input (got {input.ndim}D input)")

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        momentum = self.momentum
        training = self.training
        mean, var = self.running_mean, self.running_var
        batches = self.num_batches_tracked if training else None
        if batches is not None and momentum is None:  # the plain average of all batches
            np.add(batches._data, 1, out=batches._data)
            momentum, batches = 1.0 / float(batches._data), None
        if mean is None and var is None:
            training = True
        return ops.counted_batch_norm(
            input,
            mean,
            var,
            self.weight,
            self.bias,
            training,
            0.0 if momentum is None else momentum,
            self.eps,
            batches,
        )


_BATCH_DOC = """Normalises each channel of {layout} by the batch's mean and variance. See ``torch.nn.{name}``.

    Args:
        num_features: number of channels C.
        eps: added to the variance.
        momentum: how far running statistics move towards a batch's; None: they are the average of all batches.
        affine: whether a weight and a bias are learned (1 and 0 at first).
        track_running_stats: whether running statistics are kept, for evaluation; without them evaluation uses
            the batch's own.
        device: where the parameters are; the CPU by default.
        dtype: of parameters and statistics, float32 by default.
        bias: False: no bias is learned.

    ``state_dict``: ``weight``, ``bias``, ``running_mean``, ``running_var`` (C,) and ``num_batches_tracked``.

    Example:
        >>> import fastdl
        >>> norm = fastdl.nn.{name}(3)
        >>> norm(fastdl.randn({sizes})).shape, norm.running_mean.shape
        (({sizes}), (3,))
    """


class BatchNorm1d(_BatchNorm):
    __doc__ = _BATCH_DOC.format(layout="(N, C) or (N, C, L)", name="BatchNorm1d", sizes="8, 3")
    _ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    __doc__ = _BATCH_DOC.format(layout="(N, C, H, W)", name="BatchNorm2d", sizes="8, 3, 5, 5")
    _ranks = (4,)


class BatchNorm3d(_BatchNorm):
    __doc__ = _BATCH_DOC.format(layout="(N, C, D, H, W)", name="BatchNorm3d", sizes="8, 3, 5, 5, 5")
    _ranks = (5,)


class SyncBatchNorm(_BatchNorm):
    """Batch normalisation of (N, C, ...) over all processes: here there is one. See ``torch.nn.SyncBatchNorm``.

    For models that name it; ``process_group`` is kept and not used. Computes on the CPU, too.

    Example:
        >>> import fastdl
        >>> fastdl.nn.SyncBatchNorm.convert_sync_batchnorm(fastdl.nn.BatchNorm2d(3))
        SyncBatchNorm(3, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
    """

    _ranks = (2, 3, 4, 5)

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        self.process_group = process_group

    @classmethod
    def convert_sync_batchnorm(cls, module: Module, process_group: Any = None) -> Module:
        """The module with every batch normalisation in it replaced by this one, with its tensors."""
        converted = module
        if isinstance(module, _BatchNorm):
            converted = cls.__new__(cls)
            converted.__dict__.update(module.__dict__)
            converted.process_group = process_group
        for name, child in module.named_children():
            converted.add_module(name, cls.convert_sync_batchnorm(child, process_group))
        return converted


class _InstanceNorm(_ChannelNorm):
    _rank: ClassVar[int]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias)

    def forward(self, input: Tensor) -> Tensor:
        rank = self._rank
        if input.ndim not in (rank - 1, rank):
            raise ValueError(
                f"{type(self).__name__}: expected {rank - 1}D or {rank}D input (got {input.ndim}D input)"
            )
        single = input.ndim == rank - 1
        channels = input.shape[0 if single else 1]
        if channels != self.num_features and self.affine:
            raise ValueError(
                f"{type(self).__name__}: expected input's size at dim={0 if single else 1} to match "
                f"num_features ({self.num_features}), but got: {channels}."
            )
        y = ops.instance_norm(
            input.unsqueeze(0) if single else input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            0.0 if self.momentum is None else self.momentum,
            self.eps,
        )
        return y.squeeze(0) if single else y


_INSTANCE_DOC = """Normalises each channel of each sample of {layout} by itself. See ``torch.nn.{name}``.

    Args:
        num_features: number of channels C.
        eps: added to the variance.
        momentum: how far running statistics move.
        affine: whether a weight and a bias are learned (default False).
        track_running_stats: whether running statistics are kept, and used in evaluation (default False).
        device: where the parameters are; the CPU by default.
        dtype: of parameters and statistics, float32 by default.
        bias: False: no bias is learned.
    """


class InstanceNorm1d(_InstanceNorm):
    __doc__ = _INSTANCE_DOC.format(layout="(N, C, L) or (C, L)", name="InstanceNorm1d")
    _rank = 3


class InstanceNorm2d(_InstanceNorm):
    __doc__ = _INSTANCE_DOC.format(layout="(N, C, H, W) or (C, H, W)", name="InstanceNorm2d")
    _rank = 4


class InstanceNorm3d(_InstanceNorm):
    __doc__ = _INSTANCE_DOC.format(layout="(N, C, D, H, W) or (C, D, H, W)", name="InstanceNorm3d")
    _rank = 5


def _shape(normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    if isinstance(normalized_shape, Sequence):
        return tuple([index(n) for n in normalized_shape])
    return (index(normalized_shape),)


class LayerNorm(Module):
    """(x - mean) / sqrt(var + eps) * weight + bias over the last axes. See ``torch.nn.LayerNorm``.

    Args:
        normalized_shape: the last axes, as an int or a sequence.
        eps: added to the variance.
        elementwise_affine: whether weight and bias are learned (1 and 0 at first).
        bias: False: no bias is learned.
        device: where the parameters are; the CPU by default.
        dtype: of the parameters, float32 by default.

    Parameters: ``weight`` and ``bias``, of shape normalized_shape.

    Example:
        >>> import fastdl
        >>> fastdl.nn.LayerNorm(2)(fastdl.tensor([[1.0, 3.0], [5.0, 5.0]]))
        tensor([[-1.0000,  1.0000],
                [ 0.0000,  0.0000]], grad_fn=<LayerNormBackward>)
    """

    normalized_shape: tuple[int, ...]
    eps: float
    elementwise_affine: bool
    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = shape = _shape(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self.register_parameter(
            "weight", Parameter(_filled(shape, 1, device, dtype)) if elementwise_affine else None
        )
        self.register_parameter(
            "bias", Parameter(_filled(shape, 0, device, dtype)) if elementwise_affine and bias else None
        )

    def reset_parameters(self) -> None:
        """Weight 1, bias 0."""
        _fill((self.weight, 1), (self.bias, 0))

    def forward(self, input: Tensor) -> Tensor:
        return ops.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )


class RMSNorm(Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last axes. See ``torch.nn.RMSNorm``.

    Args:
        normalized_shape: the last axes, as an int or a sequence.
        eps: added to the mean; None: the dtype's machine epsilon.
        elementwise_affine: whether a weight is learned (1 at first).
        device: where the parameters are; the CPU by default.
        dtype: of the weight, float32 by default.

    Parameters: ``weight``, of shape normalized_shape.
    """

    normalized_shape: tuple[int, ...]
    eps: float | None
    elementwise_affine: bool
    weight: Tensor | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = shape = _shape(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self.register_parameter(
            "weight", Parameter(_filled(shape, 1, device, dtype)) if elementwise_affine else None
        )

    def reset_parameters(self) -> None:
        """Weight 1."""
        _fill((self.weight, 1))

    def forward(self, input: Tensor) -> Tensor:
        return ops.rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(Module):
    """Normalises each group of channels of each sample (N, C, ...). See ``torch.nn.GroupNorm``.

    Args:
        num_groups: how many groups the channels form; divides num_channels.
        num_channels: number of channels C.
        eps: added to the variance.
        affine: whether weight and bias are learned (1 and 0 at first).
        device: where the parameters are; the CPU by default.
        dtype: of the parameters, float32 by default.
        bias: False: no bias is learned.

    Parameters: ``weight`` and ``bias`` (C,).
    """

    num_groups: int
    num_channels: int
    eps: float
    affine: bool
    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if num_groups < 1 or num_channels % num_groups:
            raise ValueError(
                f"GroupNorm: num_channels ({num_channels}) must be divisible by num_groups ({num_groups})"
            )
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        shape = (num_channels,)
        self.register_parameter("weight", Parameter(_filled(shape, 1, device, dtype)) if affine else None)
        self.register_parameter(
            "bias", Parameter(_filled(shape, 0, device, dtype)) if affine and bias else None
        )

    def reset_parameters(self) -> None:
        """Weight 1, bias 0."""
        _fill((self.weight, 1), (self.bias, 0))

    def forward(self, input: Tensor) -> Tensor:
        return ops.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )


class LocalResponseNorm(Module):
    """x * (k + alpha / size * sum of x^2 over ``size`` neighbouring channels) ** -beta.

    See ``torch.nn.LocalResponseNorm``.
    """

    size: int
    alpha: float
    beta: float
    k: float

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, input: Tensor) -> Tensor:
        return local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
