"""Rules for operations on all slices at once: elementwise ones, those along axes, products, parts.

A rule(level, operation, inputs, options) gives what the operation gives of slices, as sliced tensors; it raises
:class:`Refused` for cases that are left to slices.py. It holds for the operation's subclasses, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastdl.autograd import op, view
from fastdl.batched.tensor import aligned, everywhere, made, size_at, sliced_in, values_at
from fastdl.ops import (
    activation_rules,
    binary,
    calculus,
    cast,
    diagonals,
    distance,
    dropout,
    evaluated,
    extreme,
    fourier,
    gather,
    indexing,
    join,
    masks,
    matrix,
    order,
    parts,
    products,
    rearrange,
    reduce,
    softmax,
    special,
    statistics,
    unary,
    views,
)
from fastdl.ops import elementwise as selection
from fastdl.ops import embedding as tables
from fastdl.ops.einsum import Einsum
from fastdl.ops.linear import ACTIVATIONS, AddMatMul, Linear, MatMul, Outer, matmul
from fastdl.ops.views import reshape, transpose
from fastdl.sequences import arange
from fastdl.tensor import Tensor

Rule = Callable[[int, Any, tuple[Tensor | None, ...], dict[str, Any]], Any]


class Refused(Exception):
    """A case that the rule leaves to others."""


def _ndim(inputs: tuple[Tensor | None, ...]) -> int:
    return int(max([t._data.ndim for t in inputs if t is not None]))


def elementwise(level: int, cls: Any, inputs: tuple[Tensor | None, ...], options: dict[str, Any]) -> Any:
    """Operands broadcast against each other as slices do."""
    ndim = _ndim(inputs)
    given = [t for t in inputs if t is not None]
    if sliced_in(options) or options.get("out") is not None:
        raise Refused
    if len({t._data.dtype for t in given}) > 1 and any([t._data.ndim == 0 for t in given]):
        raise Refused  # a tensor of 0 axes does not decide the dtype; one of all slices would
    return made(
        level, cls.apply(*[None if t is None else aligned(level, t, ndim) for t in inputs], **options)
    )


def _shifted(options: dict[str, Any], ndim: int) -> dict[str, Any]:
    """The options that name axes, for tensors with one more in front."""
    if sliced_in(options):
        raise Refused
    new = dict(options)
    named = [name for name in ("dim", "axis", "axes", "dims") if name in options]
    if not named:
        raise Refused
    for name in named:
        d = new[name]
        if isinstance(d, int):
            new[name] = d + 1 if d >= 0 else d
        elif d is None and name != "dims":
            new[name] = tuple(range(1, ndim + 1))
        elif d:
            new[name] = tuple([i + 1 if i >= 0 else i for i in d])
        else:
            raise Refused
    return new


def along(level: int, cls: Any, inputs: tuple[Tensor | None, ...], options: dict[str, Any]) -> Any:
    """Operations along axes, which their options name; slices without axes are one element."""
    ndim = _ndim(inputs)
    if ndim == 0:
        raise Refused
    new = _shifted(options, ndim)
    size = size_at(level, inputs)
    given = [None if t is None else everywhere(level, size, t) for t in inputs]
    if len(given) > 1:
        given = [None if t is None else aligned(level, made(level, t), ndim) for t in given]
    return made(level, cls.apply(*given, **new))


def last_axes(level: int, cls: Any, inputs: tuple[Tensor | None, ...], options: dict[str, Any]) -> Any:
    """Operations on the last axes, whatever stands before them."""
    if sliced_in(options) or len(inputs) != 1:
        raise Refused
    return made(level, cls.apply(values_at(level, inputs[0]), **options))


def as_one(level: int, cls: Any, inputs: tuple[Tensor | None, ...], options: dict[str, Any]) -> Any:
    """Operations that take all inputs along an axis: the same with one more axis in front of all of them."""
    size, ndim = size_at(level, inputs), _ndim(inputs)
    if any([t is not None and t._data.ndim != ndim for t in inputs]):
        raise Refused
    new = dict(options)
    d = new["dim"]
    new["dim"] = d + 1 if d >= 0 else d
    for name, value in options.items():
        if values_at(level, value) is not None:
            new[name] = values_at(level, value)._data
        elif name == "index":
            new[name] = everywhere(level, size, Tensor._wrap(value))._data
        elif sliced_in(value):
            raise Refused
    return made(level, cls.apply(*[None if t is None else everywhere(level, size, t) for t in inputs], **new))


def index_select(level: int, cls: Any, inputs: tuple[Tensor | None, ...], options: dict[str, Any]) -> Any:
    """Entries along one axis: the same of all slices, or those of one long axis of all of them."""
    (x,), dim, index = inputs, options["dim"], options["index"]
    assert x is not None
    here = values_at(level, index)
    if here is None:
        return along(level, cls, inputs, options)
    if dim != 0:
        raise Refused
    size, n = here._data.shape[0], x._data.shape[0]
    values = values_at(level, x)
    if values is None:
        found = cls.apply(x, dim=0, index=here.reshape(-1)._data)
    else:
        first = _first_of_each(size, n, here)
        flat = values.reshape(size * n, *values._data.shape[2:])
        found = cls.apply(flat, dim=0, index=(here + first.reshape(size, 1)).reshape(-1)._data)
    return made(level, found.reshape(*here._data.shape, *x._data.shape[1:]))


def _first_of_each(size: int, n: int, like: Tensor) -> Tensor:
    """Where each of ``size`` slices of ``n`` entries begins among all."""
    return arange(0, size * n, n, device=like.device) if n else like.new_zeros((size,))


def embedding(level: int, cls: Any, inputs: tuple[Tensor | None, ...], options: dict[str, Any]) -> Any:
    """Rows of one table, or of a long table of all slices' tables."""
    weight, index = inputs
    assert weight is not None
    assert index is not None
    table, places = values_at(level, weight), values_at(level, index)
    if table is None:
        return made(level, cls.apply(weight, places, **options))
    if options["padding_idx"] >= 0 or options["scale_grad_by_freq"] or sliced_in(options):
        raise Refused
    size, n = table._data.shape[0], weight._data.shape[0]
    first = _first_of_each(size, n, index).reshape(size, *(1,) * index._data.ndim)
    at = (index if places is None else places) + first
    return made(level, cls.apply(table.reshape(size * n, -1), at, **options))


def matrix_product(level: int, cls: Any, inputs: tuple[Tensor | None, ...], options: dict[str, Any]) -> Any:
    """a @ b."""
    a, b = inputs
    assert a is not None
    assert b is not None
    x, y = values_at(level, a), values_at(level, b)
    rows, columns = a._data.ndim, b._data.ndim
    if y is None and columns == 2:  # the slices are more rows
        return made(level, matmul(x, b))
    if x is None and rows == 2 and columns == 1:
        return made(level, matmul(y, transpose(a, 0, 1)))
    ndim = max(rows, columns, 2)
    left, right = a if x is None else x, b if y is None else y
    if rows == 1:
        left = left.unsqueeze(-2)
    if columns == 1:
        right = right.unsqueeze(-1)
    if x is not None:
        left = aligned(level, made(level, left), ndim)
    if y is not None:
        right = aligned(level, made(level, right), ndim)
    product = matmul(left, right)
    if columns == 1:
        product = product.squeeze(-1)
    if rows == 1:
        product = product.squeeze(-1 if columns == 1 else -2)
    return made(level, product)


def linear(level: int, cls: Any, inputs: tuple[Tensor | None, ...], options: dict[str, Any]) -> Any:
    """x weight^T + bias."""
    x, weight, bias = inputs
    assert x is not None
    assert weight is not None
    here, weights = values_at(level, x), values_at(level, weight)
    activation = options.get("activation", "")
    if weight._data.ndim != 2 or sliced_in(options):
        raise Refused
    if activation and (weights is not None or values_at(level, bias) is not None):
        return ACTIVATIONS[activation](linear(level, Linear, inputs, {}))
    if weights is None:
        added = bias is not None and values_at(level, bias) is None
        y: Any = made(level, cls.apply(here, weight, bias if added else None, **options))
        return y if bias is None or added else y + bias
    size = weights._data.shape[0]
    count = x._data.shape[-1]
    rows = reshape(x, (-1, count)) if here is None else reshape(here, (size, -1, count))
    product = matmul(rows, transpose(weights, 1, 2))
    if bias is not None:
        added_bias = values_at(level, bias)
        product = product + (bias if added_bias is None else added_bias.unsqueeze(1))
    return made(level, reshape(product, (size, *x._data.shape[:-1], -1)))


def add_product(level: int, cls: Any, inputs: tuple[Tensor | None, ...], options: dict[str, Any]) -> Any:
    """beta c + alpha a @ b."""
    c, a, b = inputs
    product = a @ b  # type: ignore[operator]
    beta, alpha = options["beta"], options["alpha"]
    return (c if beta == 1 else c * beta) + (product if alpha == 1 else product * alpha)


def outer(level: int, cls: Any, inputs: tuple[Tensor | None, ...], options: dict[str, Any]) -> Any:
    """a b^T of two vectors."""
    a, b = inputs
    return a.unsqueeze(1) * b.unsqueeze(0)  # type: ignore[union-attr]


def einsum(level: int, cls: Any, inputs: tuple[Tensor | None, ...], options: dict[str, Any]) -> Any:
    """The slices are one more label."""
    label = ("slices", level)
    labels = [
        here if values_at(level, t) is None else [label, *here]
        for t, here in zip(inputs, options["labels"], strict=True)
    ]
    given = [t if (v := values_at(level, t)) is None else v for t in inputs]
    return made(level, cls.apply(*given, labels=labels, output=[label, *options["output"]]))


def _for(rule: Rule, *operations: Any) -> dict[Any, Rule]:
    return dict.fromkeys(operations, rule)


RULES: dict[Any, Rule] = {
    **_for(
        elementwise,
        unary.Unary,
        unary.RoundDecimals,
        activation_rules.Elementwise,
        activation_rules.MaximumZero,
    ),
    **_for(elementwise, binary.Binary, selection.Where, selection.Clamp, selection.Ternary, masks.MaskedFill),
    **_for(
        elementwise,
        evaluated.Evaluated,
        evaluated.Special,
        special.Logit,
        special.LogAddExp,
        special.CopySign,
    ),
    **_for(elementwise, view.Cast, op.Link, cast.Move, views.Clone, dropout.Dropout),
    **_for(along, reduce.Reduction, extreme.Amax, softmax.Softmax, softmax.LogSoftmax, softmax.Softmin),
    **_for(along, order.Cumsum, order.Cumprod, statistics.LogCumSumExp, rearrange.Flip, rearrange.Roll),
    **_for(
        along,
        calculus.Diff,
        activation_rules.Glu,
        distance.CosineSimilarity,
        products.Cross,
        parts.Unbind,
        parts.Split,
    ),
    **_for(along, fourier.Transform, fourier.RealTransform, fourier.InverseRealTransform),
    **_for(last_axes, diagonals.Triangle, matrix.Inverse, matrix.Determinant, matrix.LogDeterminant),
    **_for(last_axes, matrix.Cholesky, matrix.SymmetricEigen, matrix.SingularValues, matrix.Orthogonal),
    **_for(as_one, join.Cat, join.Stack, gather.TakeAlong, gather.Scatter),
    **_for(index_select, indexing.IndexSelect),
    **_for(embedding, tables.Embedding),
    **_for(matrix_product, MatMul),
    **_for(linear, Linear),
    **_for(add_product, AddMatMul),
    **_for(outer, Outer),
    **_for(einsum, Einsum),
}
