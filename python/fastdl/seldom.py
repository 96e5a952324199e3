"""Names of the top level that few programs use; see ``torch``. ``fastdl.__getattr__`` loads this module for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastdl.amp import get_autocast_dtype, is_autocast_enabled
from fastdl.autograd import no_grad
from fastdl.cuda import OutOfMemoryError as OutOfMemoryError
from fastdl.futures import Future as Future
from fastdl.jit import ScriptModule as ScriptModule
from fastdl.nn import functional
from fastdl.tensor import Tensor


class PyTorchFileReader:
    """For annotations: ``load`` reads what ``torch.save`` wrote."""


class SymInt:
    """An integer that is not known yet, for ``isinstance``: sizes are known here, no number is one."""


class SymFloat:
    """See :class:`SymInt`."""


class SymBool:
    """See :class:`SymInt`."""


sym_int, sym_float, sym_max, sym_min = int, float, max, min


def fill(input: Tensor, value: Any) -> Tensor:
    """A tensor like ``input`` full of ``value``, a number or a tensor without dimensions. See ``torch.fill``.

    Example:
        >>> import fastdl
        >>> fastdl.fill(fastdl.zeros(2), 3)
        tensor([3., 3.])
    """
    return input.clone().fill_(value)


def batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    """``nn.functional.batch_norm`` with its arguments in another order, all of them. See ``torch.batch_norm``."""
    return functional.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def instance_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    """``nn.functional.instance_norm`` with its arguments in another order. See ``torch.instance_norm``."""
    return functional.instance_norm(
        input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
    )


def is_inference_mode_enabled() -> bool:
    """False: ``inference_mode`` is ``no_grad`` here, its tensors may be used in a graph later."""
    return False


def is_deterministic_algorithms_warn_only_enabled() -> bool:
    """False: there is nothing to warn of."""
    return False


def is_autocast_cpu_enabled() -> bool:
    """The older form of ``is_autocast_enabled("cpu")``."""
    return is_autocast_enabled("cpu")


def get_autocast_cpu_dtype() -> Any:
    """The older form of ``get_autocast_dtype("cpu")``."""
    return get_autocast_dtype("cpu")


def get_autocast_gpu_dtype() -> Any:
    """The older form of ``get_autocast_dtype("cuda")``."""
    return get_autocast_dtype("cuda")


def while_loop(cond_fn: Callable[..., Any], body_fn: Callable[..., Any], carried_inputs: Any) -> Any:
    """``carried_inputs = body_fn(*carried_inputs)`` as long as ``cond_fn(*carried_inputs)`` holds.

    See ``torch.while_loop``.

    Example:
        >>> import fastdl
        >>> fastdl.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, 2 * x), (fastdl.tensor(0), fastdl.tensor(1.0)))
        (tensor(3), tensor(8.))
    """
    carried = tuple(carried_inputs)
    while cond_fn(*carried):
        carried = tuple(body_fn(*carried))
    return carried


def _assert(condition: Any, message: str) -> None:
    assert condition, message


def _assert_async(input: Tensor, assert_msg: str = "") -> None:
    """A RuntimeError unless the tensor's one number is not 0."""
    if not input.item():
        raise RuntimeError(assert_msg or "Expected Tensor with single nonzero value, but got zero")


def _shape_as_tensor(input: Tensor) -> Tensor:
    from fastdl.creation import tensor

    return tensor(list(input.shape))


def _standard_gamma(concentration: Tensor, generator: Any = None) -> Tensor:
    """Samples of a gamma distribution of rate 1, with gradients by ``concentration``."""
    from fastdl.distributions import Gamma

    return Gamma(concentration, concentration.new_ones(())).rsample()


def _sample_dirichlet(concentration: Tensor, generator: Any = None) -> Tensor:
    """Samples of a Dirichlet distribution, which PyTorch's function of this name gives without gradients."""
    from fastdl.distributions import Dirichlet

    with no_grad():
        return Dirichlet(concentration).rsample()


def _segment_reduce(data: Tensor, reduce: str, **options: Any) -> Tensor:
    """:func:`segment_reduce`, where extremes have another name as well."""
    from fastdl.functions import segment_reduce

    return segment_reduce(data, reduce.removeprefix("a") if reduce in ("amax", "amin") else reduce, **options)


def _convert_indices_from_coo_to_csr(input: Tensor, size: int, *, out_int32: bool = False) -> Tensor:
    """Where each of ``size`` rows begins among sorted indices of rows, and the end."""
    from fastdl.functions import bincount, cumsum
    from fastdl.nn.functional import pad

    ends = pad(cumsum(bincount(input, minlength=size), 0), (1, 0))
    return ends.int() if out_int32 else ends


def _convert_indices_from_csr_to_coo(
    crow_indices: Tensor, col_indices: Tensor, *, out_int32: bool = False, transpose: bool = False
) -> Tensor:
    """Indices of rows and of columns (with ``transpose`` the other way round) from where each row begins."""
    from fastdl.functions import repeat_interleave, stack
    from fastdl.sequences import arange

    rows = repeat_interleave(arange(crow_indices.shape[0] - 1), crow_indices[1:] - crow_indices[:-1])
    pair = stack([col_indices.long(), rows] if transpose else [rows, col_indices.long()])
    return pair.int() if out_int32 else pair
