"""Limits on gradients, in place; see ``torch.nn.utils.clip_grad_norm_`` and its relatives."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import Any

import numpy as np

from fastdl.arrays import assign, pooled_copy
from fastdl.dtypes import float32, is_half
from fastdl.errors import not_for_complex, warn_caller
from fastdl.kernels import array, on_device, select
from fastdl.kernels.sparse import SparseArray, is_sparse, not_for_sparse
from fastdl.ops.arrays import any_true
from fastdl.ops.complex import as_real
from fastdl.ops.promotion import is_kernel_dtype
from fastdl.tensor import Tensor

__all__ = ["clip_grad_norm", "clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm"]


def _gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    params = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    return [p._grad for p in params if p._grad is not None]


def _whole(grad: Tensor) -> Any:
    """The array of a gradient; of a sparse one the elements that are stored, each of them whole."""
    array = grad._data
    return grad.coalesce()._data.values._data if array.__class__ is SparseArray else array


def _stored(grad: Tensor) -> Any:
    """The array of a gradient, of a sparse one that of its values."""
    array = grad._data
    return array.values._data if array.__class__ is SparseArray else array


def _parts(arrays: list[Any], norm_type: float = 2.0) -> list[Any]:
    """Complex arrays as pairs of real numbers, whose 2-norm is theirs; for other norms their absolute values."""
    if "c" not in [a.dtype.kind for a in arrays]:
        return arrays
    return [np.absolute(a) if a.dtype.kind == "c" and norm_type != 2 else as_real(a) for a in arrays]


def get_total_norm(
    tensors: Tensor | Iterable[Tensor],
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """The norm of all elements of all tensors together, as if they were one vector; 0-dim.

    Args:
        tensors: floating-point tensors.
        norm_type: the p of the p-norm; may be ``inf``; 0 counts the tensors that are not all zeros.
        error_if_nonfinite: raise RuntimeError if the norm is NaN or infinite (default False).
        foreach: accepted for compatibility.
    """
    arrays = _parts([_whole(t) for t in ([tensors] if isinstance(tensors, Tensor) else tensors)], norm_type)
    if not arrays:
        return Tensor._wrap(np.zeros((), np.float32))
    if norm_type == 0:  # of the tensors' norms, as in PyTorch: 1 for every tensor that is not all zeros
        norm = sum([any_true(a) for a in arrays])
    else:
        wide = [pooled_copy(a, float32) if is_half(a.dtype) and not on_device(a) else a for a in arrays]
        norm = select(arrays[0]).total_norm(wide, float(norm_type))
    if error_if_nonfinite and not isfinite(norm):
        raise RuntimeError(
            f"The total norm of order {float(norm_type)} for gradients from `parameters` is non-finite, so it cannot "
            "be clipped. To disable this error and scale the gradients by the non-finite norm anyway, set "
            "`error_if_nonfinite=False`"
        )
    return Tensor._wrap(array(norm, arrays[0], arrays[0].dtype))


def clip_grads_with_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    total_norm: Tensor,
    foreach: bool | None = None,
) -> None:
    """Scale the gradients by ``max_norm / (total_norm + 1e-6)`` where that is below 1."""
    grads = _gradients(parameters)
    if grads and on_device(_stored(grads[0])):  # the GPU is not waited for
        kernels, norm = select(_stored(grads[0])), total_norm._data
        share = kernels.div_forward(float(max_norm), kernels.add_forward(norm, 1e-6))
        kernels.scale_arrays(_parts([_stored(g) for g in grads]), kernels.minimum_forward(share, 1.0))
        for g in grads:
            g._bump_version()
        return
    factor = float(max_norm) / (float(total_norm._data) + 1e-6)
    if not grads or factor >= 1:
        return
    floats = [g for g in grads if not is_half(g._data.dtype)]
    if floats:
        arrays = _parts([_stored(g) for g in floats])
        select(arrays[0]).scale_arrays(arrays, factor)
    for g in grads:
        if is_half(g._data.dtype):
            assign(g._data, select(g._data).mul_forward(g._data, factor))
        g._bump_version()


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scale the gradients so that their norm, taken over all of them together, is at most ``max_norm``.

    Returns:
        the norm before, a 0-dim tensor.

    Example:
        >>> import fastdl
        >>> from fastdl import nn
        >>> p = nn.Parameter(fastdl.zeros(2))
        >>> p.grad = fastdl.tensor([3.0, 4.0])
        >>> nn.utils.clip_grad_norm_([p], 1.0)
        tensor(5.)
        >>> p.grad
        tensor([0.6000, 0.8000])
    """
    params = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    total_norm = get_total_norm(_gradients(params), norm_type, error_if_nonfinite)
    clip_grads_with_norm_(params, max_norm, total_norm)
    return total_norm


def clip_grad_norm(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """The older name of :func:`clip_grad_norm_`, with a warning."""
    warn_caller("clip_grad_norm is deprecated, use clip_grad_norm_ instead", FutureWarning)
    return clip_grad_norm_(parameters, max_norm, norm_type, error_if_nonfinite, foreach)


def clip_grad_value_(
    parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None
) -> None:
    """Clip every element of the gradients to [-clip_value, clip_value]."""
    limit = float(clip_value)
    grads = _gradients(parameters)
    if any([is_sparse(g) for g in grads]):
        raise not_for_sparse("clip_grad_value_")
    if any([g.is_complex() for g in grads]):
        raise not_for_complex("clip_grad_value_", "clip_grad_norm_ limits them")
    if limit >= 0 and grads and all([on_device(g._data) for g in grads]):
        select(grads[0]._data).clamp_arrays([g._data for g in grads], limit)
    else:
        for g in grads:
            a = g._data
            if limit >= 0 and is_kernel_dtype(
                a.dtype
            ):  # Python's call of NumPy's clip takes ten times as long
                select(a).clamp_forward(a, -limit, limit, a)
            else:
                np.clip(a, -limit, limit, out=a)
    for g in grads:
        g._bump_version()
