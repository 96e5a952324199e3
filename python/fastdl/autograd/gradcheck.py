"""``gradcheck``: backward against central differences, entry by entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastdl.autograd.gradients import grad
from fastdl.autograd.mode import enable_grad, no_grad
from fastdl.devices import to_host
from fastdl.dtypes import DIFFERENTIABLE
from fastdl.errors import warn_caller
from fastdl.kernels import is_writable
from fastdl.tensor import Tensor


class GradcheckError(RuntimeError):
    """A gradient that :func:`gradcheck` found to be wrong."""


def _outputs(result: Any) -> list[Tensor]:
    outputs = list(result) if isinstance(result, (tuple, list)) else [result]
    return [o for o in outputs if isinstance(o, Tensor) and o.dtype.kind in DIFFERENTIABLE]


def _parts(array: Any) -> Any:
    """All real numbers of an array: of complex ones two."""
    flat = np.ascontiguousarray(to_host(array)).reshape(-1)
    return flat.view(flat.real.dtype) if flat.dtype.kind == "c" else flat


def _numerical(func: Callable[..., Any], inputs: Sequence[Any], x: Tensor, eps: float) -> list[Any]:
    """For every output, d output / d x by central differences: an (x.numel, output.numel) array.

    Complex numbers count as two, on both sides.
    """
    from fastdl.ops.complex import as_real

    values = as_real(x._data)
    rows: list[list[Any]] = []
    with no_grad():
        for place in np.ndindex(values.shape):
            kept = values[place].copy()
            values[place] = kept + eps
            high = [_parts(o._data).astype(np.float64) for o in _outputs(func(*inputs))]
            values[place] = kept - eps
            low = [_parts(o._data).astype(np.float64) for o in _outputs(func(*inputs))]
            values[place] = kept
            rows.append([(h - w) / (2 * eps) for h, w in zip(high, low, strict=True)])
    if not rows:
        return [np.zeros((0, _parts(o._data).size)) for o in _outputs(func(*inputs))]
    return [np.array(column) for column in zip(*rows, strict=True)]


def _analytical(output: Tensor, x: Tensor) -> Any:
    """d output / d x by one backward for each element of the output."""
    columns = np.zeros((_parts(x._data).size, _parts(output._data).size))
    if not output._requires_grad:
        return columns
    units = (1, 1j) if output.dtype.kind == "c" else (1,)
    for i in range(columns.shape[1]):
        seed = np.zeros(output.shape, output.dtype, like=output._data)
        seed.reshape(-1)[i // len(units)] = units[i % len(units)]
        (g,) = grad(output, x, Tensor._wrap(seed), retain_graph=True, allow_unused=True)
        if g is not None:
            if g.shape != x.shape or g.dtype != x.dtype:
                raise GradcheckError(
                    f"gradcheck: a gradient has shape {g.shape} and dtype {g.dtype}, its input {x.shape} and {x.dtype}"
                )
            columns[:, i] = _parts(g._data)
    return columns


def gradcheck(
    func: Callable[..., Any],
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    fast_mode: bool = False,
) -> bool:
    """Compare backward with central differences for all inputs that require a gradient.

    See ``torch.autograd.gradcheck``.

    Args:
        func: maps the inputs to a tensor or a tuple of tensors.
        inputs: a tensor or a tuple; those that require a gradient should be float64 or complex128.
        eps: the step of the differences.
        atol, rtol: |analytical - numerical| <= atol + rtol * |numerical|.
        raise_exception: raise :class:`GradcheckError` (default) or return False.
        nondet_tol: how much two backward passes on the same inputs may differ.
        check_undefined_grad, check_grad_dtypes, fast_mode: accepted for code written for PyTorch; shapes and dtypes are
            always checked, entry by entry.

    Example:
        >>> import fastdl
        >>> x = fastdl.tensor([0.5, 2.0], dtype=fastdl.float64, requires_grad=True)
        >>> fastdl.autograd.gradcheck(lambda x: x * x, (x,))
        True
    """
    arguments = list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]
    checked = [(i, x) for i, x in enumerate(arguments) if isinstance(x, Tensor) and x._requires_grad]
    if not checked:
        raise ValueError("gradcheck: at least one input must be a tensor that requires a gradient")
    for i, x in checked:
        if x.dtype not in (np.float64, np.complex128):
            warn_caller(f"gradcheck: input {i} has dtype {x.dtype}; differences need float64 to be accurate")
        if not is_writable(x._data):
            raise RuntimeError(f"gradcheck: input {i} has repeated or read-only memory; pass x.clone()")
    try:
        with enable_grad():
            _compare(func, arguments, checked, eps, atol, rtol, nondet_tol)
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True


def _place(position: int, of: Tensor) -> list[int]:
    """The index of the ``position``-th number of a tensor; of complex ones there are two at each place."""
    if of.dtype.kind == "c":
        position //= 2
    return [int(i) for i in np.unravel_index(position, of.shape)] if of.ndim else []


def _compare(
    func: Callable[..., Any],
    arguments: list[Any],
    checked: list[tuple[int, Tensor]],
    eps: float,
    atol: float,
    rtol: float,
    nondet_tol: float,
) -> None:
    outputs = _outputs(func(*arguments))
    if not outputs:
        raise ValueError("gradcheck: func must return at least one floating-point tensor")
    if not any(o._requires_grad for o in outputs):
        raise ValueError(
            "gradcheck: no output requires a gradient: func breaks the graph (numpy(), detach(), .data?)"
        )
    for i, x in checked:
        numerical = _numerical(func, arguments, x, eps)
        for k, output in enumerate(outputs):
            analytical = _analytical(output, x)
            again = _analytical(output, x)
            if np.abs(again - analytical).max(initial=0.0) > nondet_tol:
                raise GradcheckError(
                    f"gradcheck: backward is not reproducible: two passes for output {k} and input {i} differ by "
                    f"{np.abs(again - analytical).max():g}"
                )
            if not np.allclose(analytical, numerical[k], rtol, atol):
                error = np.abs(analytical - numerical[k])
                row, column = np.unravel_index(int(np.nanargmax(error)), error.shape)
                place, target = _place(int(row), x), _place(int(column), output)
                raise GradcheckError(
                    f"gradcheck: Jacobian mismatch for output {k} with respect to input {i}.\n"
                    f"Largest at d output{target} / d input{place}: numerical "
                    f"{numerical[k][row, column]:g}, "
                    f"analytical {analytical[row, column]:g}.\n"
                    f"numerical:\n{numerical[k]}\nanalytical:\n{analytical}"
                )


def gradgradcheck(
    func: Callable[..., Any],
    inputs: Any,
    grad_outputs: Any = None,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    gen_non_contig_grad_outputs: bool = False,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    fast_mode: bool = False,
) -> bool:
    """Compare second derivatives with central differences of first ones: :func:`gradcheck` of backward.

    See ``torch.autograd.gradgradcheck``.

    Args:
        func, inputs: as for :func:`gradcheck`.
        grad_outputs: what backward starts from, one for each output; random numbers (always the same) if not given.
        gen_non_contig_grad_outputs: make these of strided memory.
        eps, atol, rtol, raise_exception, nondet_tol, check_undefined_grad, check_grad_dtypes, fast_mode: as for
            :func:`gradcheck`.

    Example:
        >>> import fastdl
        >>> x = fastdl.tensor([0.5, 2.0], dtype=fastdl.float64, requires_grad=True)
        >>> fastdl.autograd.gradgradcheck(lambda x: x * x * x, (x,))
        True
    """
    arguments = list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]
    with enable_grad():
        outputs = [o for o in _outputs(func(*arguments)) if o._requires_grad]
    if grad_outputs is None:
        rng = np.random.default_rng(0)
        seeds = []
        for output in outputs:
            values: Any = rng.standard_normal((*output.shape, 2))
            values = values @ (1, 1j) if output.is_complex() else values[..., 0]
            values = values.astype(output.dtype)
            seeds.append(Tensor._wrap(values if gen_non_contig_grad_outputs else np.array(values, order="C")))
        for seed in seeds:
            seed.requires_grad = True
    else:
        seeds = list(grad_outputs) if isinstance(grad_outputs, (tuple, list)) else [grad_outputs]
    count = len(arguments)

    def gradients(*everything: Any) -> Any:
        given, vectors = everything[:count], everything[count:]
        wanted = [x for x in given if isinstance(x, Tensor) and x._requires_grad]
        with enable_grad():  # also where values alone are wanted
            fresh = [o for o in _outputs(func(*given)) if o._requires_grad]
            found = grad(fresh, wanted, list(vectors), create_graph=True, allow_unused=True)
        return tuple([g for g in found if g is not None and g._requires_grad])

    with enable_grad():
        if not gradients(*arguments, *seeds):
            raise ValueError("gradgradcheck: no gradient depends on the inputs or on grad_outputs")
    return gradcheck(
        gradients,
        [*arguments, *seeds],
        eps=eps,
        atol=atol,
        rtol=rtol,
        raise_exception=raise_exception,
        nondet_tol=nondet_tol,
        check_undefined_grad=check_undefined_grad,
        check_grad_dtypes=check_grad_dtypes,
        fast_mode=fast_mode,
    )
