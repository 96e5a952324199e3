"""Max pooling over windows at random distances; see ``torch.nn.functional``.

Ordinary pooling with stride 1 finds where the maxima are; values and gradients are those of :func:`fastdl.gather`.
"""

from __future__ import annotations

from math import prod
from typing import Any

from fastdl.autograd.op import OF_ITSELF
from fastdl.dtypes import int64
from fastdl.errors import ArgumentError
from fastdl.ops.arithmetic import add, mul, sub
from fastdl.ops.arrays import full
from fastdl.ops.cast import to
from fastdl.ops.gather import gather
from fastdl.ops.join import cat
from fastdl.ops.pool import Ints, MaxPool, Plan, array_of, check_shape, to_sizes
from fastdl.ops.sampling import rand
from fastdl.ops.views import unsqueeze
from fastdl.sequences import arange
from fastdl.tensor import Tensor


def _starts(samples: Tensor, extent: int, windows: int, kernel: int) -> Tensor:
    """(N, C, windows): where windows begin. Distances alternate between the two integers around their mean; the last
    window ends where the input does. In the dtype of the samples, as in PyTorch."""
    samples = unsqueeze(samples, -1)
    last = Tensor._wrap(full(samples.shape, extent - kernel, int64, samples._data))
    if windows == 1:
        return last
    number = samples.dtype.type
    alpha = float(number(extent - kernel) / number(windows - 1))
    steps = arange(windows - 1, dtype=samples.dtype, device=samples.device)
    begin, offset = mul(add(steps, samples), alpha), mul(samples, alpha)
    return cat([sub(to(begin, int64), to(offset, int64)), last], -1)


def _fractional(
    op: str,
    rank: int,
    input: Tensor,
    kernel_size: Any,
    output_size: Any,
    output_ratio: Any,
    return_indices: bool,
    samples: Tensor | None,
) -> Any:
    x = array_of(input, op)
    check_shape(op, x.shape, rank)
    spatial = x.shape[-rank:]
    kernel = to_sizes(kernel_size, rank, op, "kernel_size")
    if output_size is not None:
        output = to_sizes(output_size, rank, op, "output_size")
    elif output_ratio is not None:
        ratios = output_ratio if isinstance(output_ratio, (tuple, list)) else (output_ratio,) * rank
        if len(ratios) != rank:
            raise ArgumentError(f"{op}: output_ratio must be a number or {rank} numbers, got {output_ratio}")
        output = tuple([int(n * ratio) for n, ratio in zip(spatial, ratios, strict=True)])
    else:
        raise ArgumentError(f"{op}: output_size or output_ratio must be given")
    for n, k, o in zip(spatial, kernel, output, strict=True):
        if k <= 0 or o <= 0 or o + k - 1 > n:
            raise ArgumentError(
                f"{op}: kernel_size and the output must be positive, and output + kernel_size - 1 at most the input's "
                f"extent; got kernel {kernel} and output {output} for an input of {spatial}"
            )
    planes = (1, *x.shape)[-rank - 2 : -rank]
    if samples is None:
        samples = rand(*planes, rank, dtype=input.dtype, device=input.device)
    elif samples.ndim != 3 or samples.shape[0] < planes[0] or samples.shape[1:] != (planes[1], rank):
        raise ArgumentError(f"{op}: _random_samples must have shape {(*planes, rank)}, got {samples.shape}")
    samples = to(samples.detach(), input.device)
    # The maximum of every window there could be, and from these the ones drawn: a position is the sum of one term for
    # each axis.
    sliding = tuple([n - k + 1 for n, k in zip(spatial, kernel, strict=True)])
    plan = Plan(spatial, kernel, (1,) * rank, (0,) * rank, (1,) * rank, sliding)
    _, winners = MaxPool.apply(input.detach(), plan=plan, return_indices=True)
    places: Any = 0
    for axis in range(rank):
        # A larger batch of samples serves as well; images take them in the order (W, H).
        drawn = samples[: planes[0], :, 1 - axis if rank == 2 else axis]
        starts = _starts(drawn, spatial[axis], output[axis], kernel[axis])
        shape = [output[axis] if i == axis else 1 for i in range(rank)]
        places = starts.reshape(*planes, *shape) * prod(sliding[axis + 1 :]) + places
    winners = winners.reshape(*planes, prod(sliding))
    found = gather(winners, 2, places.reshape(*planes, prod(output)))
    lead = x.shape[: x.ndim - rank]
    indices = found.reshape(*lead, prod(output))
    taken = gather(input.reshape(*lead, prod(spatial)), -1, indices)
    if taken._node is not None:
        taken._node.flat = OF_ITSELF
    y = taken.reshape(*lead, *output)
    return (y, indices.reshape(*lead, *output)) if return_indices else y


def fractional_max_pool2d(
    input: Tensor,
    kernel_size: Ints,
    output_size: Ints | None = None,
    output_ratio: float | tuple[float, ...] | None = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Any:
    """Maximum over windows at random distances; see ``torch.nn.functional.fractional_max_pool2d``.

    Args:
        input: (N, C, H, W) or (C, H, W), float32 or float64.
        kernel_size: window (kH, kW), or one int for both.
        output_size: (Hout, Wout), with ``Hout + kH - 1 <= H``.
        output_ratio: the output's extents as parts of the input's, instead of ``output_size``.
        return_indices: also return the maxima's flat positions in their input planes (int64).

    One offset in [0, 1) for each plane and axis is drawn from the default generator (``_random_samples``: given, of
    shape (N, C, 2)). Graham (2014).

    Example:
        >>> import fastdl
        >>> fastdl.nn.functional.fractional_max_pool2d(fastdl.ones(1, 3, 10, 7), 2, output_ratio=0.7).shape
        (1, 3, 7, 4)
    """
    return _fractional(
        "fractional_max_pool2d",
        2,
        input,
        kernel_size,
        output_size,
        output_ratio,
        return_indices,
        _random_samples,
    )


def fractional_max_pool3d(
    input: Tensor,
    kernel_size: Ints,
    output_size: Ints | None = None,
    output_ratio: float | tuple[float, ...] | None = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Any:
    """Of (N, C, D, H, W) or (C, D, H, W); see :func:`fractional_max_pool2d`."""
    return _fractional(
        "fractional_max_pool3d",
        3,
        input,
        kernel_size,
        output_size,
        output_ratio,
        return_indices,
        _random_samples,
    )


def fractional_max_pool2d_with_indices(
    input: Tensor,
    kernel_size: Ints,
    output_size: Ints | None = None,
    output_ratio: float | tuple[float, ...] | None = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`fractional_max_pool2d` with ``return_indices=True``."""
    return fractional_max_pool2d(input, kernel_size, output_size, output_ratio, True, _random_samples)  # type: ignore[no-any-return]


def fractional_max_pool3d_with_indices(
    input: Tensor,
    kernel_size: Ints,
    output_size: Ints | None = None,
    output_ratio: float | tuple[float, ...] | None = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`fractional_max_pool3d` with ``return_indices=True``."""
    return fractional_max_pool3d(input, kernel_size, output_size, output_ratio, True, _random_samples)  # type: ignore[no-any-return]
