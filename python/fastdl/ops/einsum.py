"""``einsum``: sums of products named by letters, contracted pairwise by the batched matrix product.

Every operand becomes an array with one label per axis (repeated labels: its diagonal). Two operands at a time
are contracted: labels are batch (kept, in both), sum (dropped, in both) or belong to one side; permuted and
reshaped to ``(batch, m, k) @ (batch, k, n)`` that is one ``matmul``. Labels that nobody needs further are
summed as soon as they stand alone. The gradient of an operand is again an einsum: of the incoming gradient
and the other operands.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, reduce
from math import prod
from typing import Any, NamedTuple

import numpy as np

from fastdl.autograd.graph import replay
from fastdl.autograd.op import Op
from fastdl.dtypes import FLOATING, float32, float64, int64
from fastdl.kernels import array as array_of
from fastdl.kernels import select, strided
from fastdl.ops.arrays import cast, contiguous, integer_product
from fastdl.ops.cast import to
from fastdl.ops.complex_kernels import product
from fastdl.ops.parts import diagonal
from fastdl.ops.promotion import promote_types
from fastdl.ops.reduce import sum as sum_over
from fastdl.ops.views import permute, view_strides
from fastdl.tensor import Tensor

Labels = Sequence[Any]  # letters, sublist integers, or ("...", i) for the axes that an ellipsis stands for


@lru_cache(maxsize=1024)
def _repeats(labels: Labels) -> bool:
    return len(set(labels)) < len(labels)


def _diagonal(array: Any, labels: Labels) -> tuple[Any, Labels]:
    """A view with every label once: axes that share a label become their common diagonal."""
    if not _repeats(labels):
        return array, labels
    unique = tuple(dict.fromkeys(labels))
    strides = [
        sum(s for s, own in zip(array.strides, labels, strict=True) if own == label) for label in unique
    ]
    shape = [array.shape[labels.index(label)] for label in unique]
    return strided(array, shape, strides), unique


def _multiply(a: Any, b: Any) -> Any:
    if a.dtype.kind in FLOATING:
        return select(a).matmul(a, b)
    return product(a, b) if a.dtype.kind == "c" else integer_product(a, b)


def _reduce(array: Any, labels: Labels, keep: frozenset[Any]) -> tuple[Any, Labels]:
    """Sum over labels outside ``keep``."""
    if keep.issuperset(labels):
        return array, labels
    axes = tuple(i for i, label in enumerate(labels) if label not in keep)
    total = array_of(array.sum(axes, dtype=array.dtype), array)
    return total, tuple(label for label in labels if label in keep)


def _squeeze(array: Any, labels: Labels, other: Any, other_labels: Labels) -> tuple[Any, Labels]:
    """Drop axes of length 1 that broadcast against a longer axis of the other operand."""
    axes = tuple(
        i
        for i, label in enumerate(labels)
        if array.shape[i] == 1 and label in other_labels and other.shape[other_labels.index(label)] != 1
    )
    if not axes:
        return array, labels
    return array.squeeze(axes), tuple(label for i, label in enumerate(labels) if i not in axes)


class _Product(NamedTuple):
    """How two operands become one product: the order of their axes, and how many of each kind there are."""

    order_a: list[int]  # batch, left, inner
    order_b: list[int]  # batch, inner, right
    batch: int
    left: int
    inner: int
    right: int
    labels: Labels


@lru_cache(maxsize=1024)
def _product(la: Labels, lb: Labels, keep: frozenset[Any]) -> _Product:
    batch = tuple(label for label in la if label in lb and label in keep)
    inner = tuple(label for label in la if label in lb and label not in keep)
    left = tuple(label for label in la if label not in lb)
    right = tuple(label for label in lb if label not in la)
    return _Product(
        [la.index(label) for label in batch + left + inner],
        [lb.index(label) for label in batch + inner + right],
        len(batch),
        len(left),
        len(inner),
        len(right),
        batch + left + right,
    )


def _reshaped(array: Any, shape: tuple[int, ...]) -> Any:
    """In another shape. What must be copied for it is copied by the kernels: NumPy takes tens of times as long."""
    if array.size < 4096 or view_strides(array.shape, array.strides, shape) is not None:
        return array.reshape(shape)
    return contiguous(array).reshape(shape)


def _pair(a: Any, la: Labels, b: Any, lb: Labels, keep: frozenset[Any]) -> tuple[Any, Labels]:
    """Contract two operands; labels outside ``keep`` are summed."""
    if 1 in a.shape or 1 in b.shape:
        (a, la), (b, lb) = _squeeze(a, la, b, lb), _squeeze(b, lb, a, la)
    a, la = _reduce(a, la, keep.union(lb))
    b, lb = _reduce(b, lb, keep.union(la))
    p = _product(la, lb, keep)
    if p.batch and p.inner and not (p.left or p.right) and a.shape[-1] and a.dtype in (float32, float64):
        return _row_sums(a, la, b, lb, p.labels)
    a, b = a.transpose(p.order_a), b.transpose(p.order_b)
    batch, left = a.shape[: p.batch], a.shape[p.batch : p.batch + p.left]
    right = b.shape[p.batch + p.inner :]
    if p.inner:
        if not (p.left == p.inner == p.right == 1):
            m, n, k = prod(left), prod(right), prod(a.shape[p.batch + p.left :])
            a, b = _reshaped(a, (*batch, m, k)), _reshaped(b, (*batch, k, n))
        y = _multiply(a, b)
    elif a.dtype.kind in FLOATING and a.dtype.itemsize > 2:
        y = select(a).mul_forward(
            a.reshape(a.shape + (1,) * p.right), b.reshape((*batch, *[1] * p.left, *right))
        )
    else:
        y = a.reshape(a.shape + (1,) * p.right) * b.reshape((*batch, *[1] * p.left, *right))
    shape = (*batch, *left, *right)
    return y if y.shape == shape else y.reshape(shape), p.labels


def _row_sums(a: Any, la: Labels, b: Any, lb: Labels, labels: Labels) -> tuple[Any, Labels]:
    """The sums of products of corresponding elements, which no matrix product is: ``"bi,bi->b"``."""
    b = b.transpose([lb.index(label) for label in la])
    kept = [n if label in labels else 1 for n, label in zip(a.shape, la, strict=True)]
    total = select(a).sum_product_to(a, b, kept)
    return total.reshape([n for n, label in zip(a.shape, la, strict=True) if label in labels]), tuple(
        [label for label in la if label in labels]
    )


@lru_cache(maxsize=1024)
def _turned(la: Labels, lb: Labels, output: Labels) -> bool:
    """Does the product b a have its axes in the order of the result, where a b does not?"""
    keep = frozenset(output)
    return _product(la, lb, keep).labels != output == _product(lb, la, keep).labels


def _last(a: Any, la: Labels, b: Any, lb: Labels, output: Labels) -> Any:
    """The contraction of two operands that gives the result."""
    if _turned(la, lb, output):
        a, la, b, lb = b, lb, a, la
    return _ordered(*_pair(a, la, b, lb, frozenset(output)), output)


_OUTER = 8
"""What a term of an outer product costs, which goes to memory, beside one of a matrix product, which is added up."""


@lru_cache(maxsize=1024)
def _order(
    labels: tuple[Labels, ...], output: Labels, shapes: tuple[tuple[int, ...], ...]
) -> list[tuple[int, int, frozenset[Any]]]:
    """Which two parts are contracted, and what is kept of them, until two are left; the product takes the first's
    place. The pair whose product is cheapest goes first; on ties the leftmost."""
    size: dict[Any, int] = {}
    for shape, own in zip(shapes, labels, strict=True):
        for label, extent in zip(own, shape, strict=True):
            size[label] = extent if size.get(label, 1) == 1 else size[label]
    parts, steps = [set(own) for own in labels], []
    while len(parts) > 2:
        best: tuple[int, int, int] | None = None
        for i in range(len(parts)):
            for j in range(i + 1, len(parts)):
                both = parts[i] | parts[j]
                others = [own for p, own in enumerate(parts) if p not in (i, j)]
                cost = prod([size[label] for label in both])
                if both <= set(output).union(*others):
                    cost *= _OUTER
                if best is None or cost < best[0]:
                    best = (cost, i, j)
        assert best is not None
        _, i, j = best
        rest = [own for p, own in enumerate(parts) if p not in (i, j)]
        keep = frozenset(output).union(*rest)
        steps.append((i, j, keep))
        parts = [*rest[:i], (parts[i] | parts[j]) & keep, *rest[i:]]
    return steps


def contract(arrays: Sequence[Any], labels: Sequence[Labels], output: Labels) -> Any:
    """The einsum of arrays; in one operand no label occurs twice, those of ``output`` occur in some."""
    parts = list(zip(arrays, labels, strict=True))
    if len(parts) == 2:
        return _last(*parts[0], *parts[1], output)
    shapes = tuple([array.shape for array in arrays])
    for i, j, keep in _order(tuple(labels), output, shapes):
        rest = [part for p, part in enumerate(parts) if p not in (i, j)]
        parts = [*rest[:i], _pair(*parts[i], *parts[j], keep), *rest[i:]]
    return _last(*parts[0], *parts[1], output) if len(parts) == 2 else _ordered(*parts[0], output)


def _ordered(array: Any, labels: Labels, output: Labels) -> Any:
    """The axes as the result has them; what it lacks is summed over."""
    array, labels = _reduce(array, labels, frozenset(output))
    return array if labels == output else array.transpose([labels.index(label) for label in output])


class Einsum(Op):
    floats_only = True  # NumPy would add up in half precision
    aliases_grad = True

    def forward(self, *arrays: Any, labels: Sequence[Labels], output: Labels) -> Any:
        if len(arrays) == 1 and arrays[0].dtype.kind in "biu" and not set(output).issuperset(labels[0]):
            arrays = (cast(arrays[0], int64),)  # as sum()
        needs = self.needs  # a gradient takes the other operands
        self.saves = tuple([i for i in range(len(arrays)) if True in needs[:i] or True in needs[i + 1 :]])
        self.arrays, self.labels, self.output = arrays, labels, output
        views = [_diagonal(array, own) for array, own in zip(arrays, labels, strict=True)]
        y = contract([view for view, _ in views], [own for _, own in views], output)
        return y.copy() if len(arrays) == 1 and np.may_share_memory(y, arrays[0]) else array_of(y)

    def backward(self, grad: Any) -> Any:
        views = [_diagonal(array, own) for array, own in zip(self.arrays, self.labels, strict=True)]
        grads: list[Any] = []
        for i, (view, own) in enumerate(views):
            if not self.needs[i]:
                grads.append(None)
                continue
            others = [part for p, part in enumerate(views) if p != i]
            parts = [(grad, self.output), *others]
            # Labels that only this operand has were summed over; axes of length 1 may have been stretched.
            # Both are left out of the contraction and put back by broadcasting.
            size: dict[Any, int] = {}
            for array, labels in parts:
                for label, extent in zip(labels, array.shape, strict=True):
                    size[label] = max(size.get(label, extent), extent) if extent != 0 else 0
            target = tuple(
                label
                for label, extent in zip(own, view.shape, strict=True)
                if label in size and extent == size[label]
            )
            part = contract([array for array, _ in parts], [labels for _, labels in parts], target)
            part = part.reshape(
                [n if label in target else 1 for label, n in zip(own, view.shape, strict=True)]
            )
            if len(own) == len(self.labels[i]):
                grads.append(part if part.shape == view.shape else np.broadcast_to(part, view.shape))
            else:
                full = select(grad).empty(self.arrays[i].shape, grad.dtype)
                full.fill(0)
                _diagonal(full, self.labels[i])[0][...] = part
                grads.append(full)
        return tuple(grads)

    def backward_graph(self, grad: Any) -> Any:
        if any([len(set(own)) < len(own) for own in self.labels]):
            return replay(self, grad, self._of_diagonals, *self.arrays)
        inputs: list[Any] = [self.saved_input(i, array) for i, array in enumerate(self.arrays)]
        grads: list[Any] = []
        for i, (x, own) in enumerate(zip(inputs, self.labels, strict=True)):
            if not self.needs[i]:
                grads.append(None)
                continue
            operands = [grad, *[t for k, t in enumerate(inputs) if k != i]]
            labels = [self.output, *[names for k, names in enumerate(self.labels) if k != i]]
            # As in backward: what only this operand has, or stretches, is left out and put back by broadcasting.
            size: dict[Any, int] = {}
            for t, names in zip(operands, labels, strict=True):
                for label, extent in zip(names, t.shape, strict=True):
                    size[label] = max(size.get(label, extent), extent) if extent != 0 else 0
            target = tuple(
                [n for n, extent in zip(own, x.shape, strict=True) if n in size and extent == size[n]]
            )
            part = Einsum.apply(*operands, labels=labels, output=target)
            part = part.reshape([n if name in target else 1 for name, n in zip(own, x.shape, strict=True)])
            grads.append(part.expand(x.shape))
        return tuple(grads)

    def _of_diagonals(self, *operands: Any) -> Any:
        """The same einsum, on operands in which every label stands once."""
        views, labels = [], []
        for t, own in zip(operands, self.labels, strict=True):
            names = list(own)
            for label in dict.fromkeys(own):
                while names.count(label) > 1:
                    a = names.index(label)
                    b = names.index(label, a + 1)
                    t = t.diagonal(0, a, b)  # the common axis comes last
                    names = [n for i, n in enumerate(names) if i not in (a, b)] + [label]
            views.append(t)
            labels.append(tuple(names))
        return Einsum.apply(*views, labels=labels, output=self.output)


@lru_cache(maxsize=1024)
def _parse(equation: str, ndims: tuple[int, ...]) -> tuple[tuple[Labels, ...], Labels]:
    """Labels of every operand, by its number of axes, and of the result."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ndims):
        raise RuntimeError(f"einsum: the equation '{equation}' names {len(terms)} operands, got {len(ndims)}")
    labels = tuple([_expand(equation, term, ndim) for term, ndim in zip(terms, ndims, strict=True)])
    longest = max([sum(isinstance(label, tuple) for label in own) for own in labels])
    ellipsis = tuple(("...", i) for i in range(longest, 0, -1))
    if arrow:
        head, dots, tail = right.partition("...")
        if not all(letter.isascii() and letter.isalpha() for letter in head + tail):
            raise RuntimeError(
                f"einsum: the result '{right}' of '{equation}' may hold letters and one ellipsis only"
            )
        output = (*head, *(ellipsis if dots else ()), *tail)
    else:  # alphabetical: the letters that occur once
        letters = [label for own in labels for label in own if not isinstance(label, tuple)]
        output = ellipsis + tuple(sorted(letter for letter in set(letters) if letters.count(letter) == 1))
    return labels, output


def _expand(equation: str, term: str, ndim: int) -> Labels:
    head, dots, tail = term.partition("...")
    if not all(letter.isascii() and letter.isalpha() for letter in head + tail):
        raise RuntimeError(f"einsum: operand '{term}' of '{equation}' may hold letters and one ellipsis only")
    covered = ndim - len(head) - len(tail)
    if covered < 0 or (covered > 0 and not dots):
        raise RuntimeError(
            f"einsum: operand '{term}' of '{equation}' names {len(head) + len(tail)} dimensions, "
            f"the tensor has {ndim}"
        )
    return (
        *head,
        *(("...", i) for i in range(covered, 0, -1)),
        *tail,
    )  # counted from the right, as broadcasting does


def _from_sublists(arguments: Sequence[Any]) -> tuple[list[Tensor], list[Labels], Labels]:
    """``einsum(a, [0, 1], b, [1, 2], [0, 2])``."""
    count = len(arguments) // 2
    operands = [arguments[2 * i] for i in range(count)]
    sublists = [arguments[2 * i + 1] for i in range(count)]

    def expand(sublist: Sequence[Any], covered: int) -> Labels:
        labels: list[Any] = []
        for entry in sublist:
            if entry is Ellipsis:
                labels.extend(("...", i) for i in range(covered, 0, -1))
            elif isinstance(entry, int) and 0 <= entry < 52:
                labels.append(entry)
            else:
                raise RuntimeError(
                    f"einsum: sublists hold integers in [0, 52) and one Ellipsis, got {entry!r}"
                )
        return tuple(labels)

    covers = [
        t._data.ndim - sum(e is not Ellipsis for e in s) for t, s in zip(operands, sublists, strict=True)
    ]
    labels = []
    for i, (sublist, covered) in enumerate(zip(sublists, covers, strict=True)):
        if covered < 0 or (covered > 0 and Ellipsis not in sublist):
            raise RuntimeError(
                f"einsum: sublist {list(sublist)} does not fit operand {i} of shape {operands[i].shape}"
            )
        labels.append(expand(sublist, covered))
    longest = max(covers)
    if len(arguments) % 2:
        return operands, labels, expand(arguments[-1], longest)
    flat = [label for own in labels for label in own if isinstance(label, int)]
    once = tuple(sorted(label for label in set(flat) if flat.count(label) == 1))
    return operands, labels, tuple(("...", i) for i in range(longest, 0, -1)) + once


def einsum(*args: Any) -> Tensor:
    """Sum of products over labelled axes: ``einsum("bij,bjk->bik", a, b)``. See ``torch.einsum``.

    Letters name axes. A letter in several operands aligns them (lengths equal, or 1), one that the result
    lacks is summed over, one repeated in an operand takes its diagonal; ``...`` stands for the remaining
    axes, which broadcast. Without ``->`` the result has the ellipsis, then the letters that occur once, in
    alphabetical order. Operands and labels may also alternate: ``einsum(a, [0, 1], b, [1, 2], [0, 2])``.
    More than two operands are contracted pairwise, the cheapest pair first. Operands have one dtype, or a common one
    where nothing is summed.

    Example:
        >>> import fastdl
        >>> m = fastdl.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> fastdl.einsum("ii->i", m), fastdl.einsum("ij,j->i", m, m[0])
        (tensor([1., 4.]), tensor([ 5., 11.]))
    """
    labels: Sequence[Labels]
    if args and isinstance(args[0], str):
        operands = list(args[1]) if len(args) == 2 and isinstance(args[1], (list, tuple)) else list(args[1:])
        if not operands:
            raise RuntimeError("einsum: at least one operand is needed")
        arrays = [t._data for t in operands]
        labels, output = _parse(args[0], tuple([array.ndim for array in arrays]))
    else:
        if len(args) < 2:
            raise RuntimeError(
                "einsum: expected an equation and operands, or operands each followed by its labels"
            )
        operands, labels, output = _from_sublists(args)
        arrays = [t._data for t in operands]
    if len(operands) == 1 and (result := _of_one(operands[0], labels[0], output)) is not None:
        return result
    summed = _check(tuple(labels), output, tuple([array.shape for array in arrays]))
    if len({array.dtype for array in arrays}) > 1:
        if summed:  # what is added up is a matrix product, in PyTorch too
            raise RuntimeError(
                f"einsum: operands must have one dtype, got {', '.join(str(a.dtype) for a in arrays)}"
            )
        common = reduce(promote_types, [array.dtype for array in arrays])
        operands = [to(t, common) for t in operands]
    return Einsum.apply(*operands, labels=labels, output=output)  # type: ignore[no-any-return]


@lru_cache(maxsize=1024)
def _check(labels: tuple[Labels, ...], output: Labels, shapes: tuple[tuple[int, ...], ...]) -> bool:
    """Whether anything is summed over, if the labels fit the shapes."""
    if len(set(output)) != len(output):
        raise RuntimeError(f"einsum: a label occurs more than once in the result: {_text(output)}")
    size: dict[Any, int] = {}
    for own, shape in zip(labels, shapes, strict=True):
        within: dict[Any, int] = {}
        for label, extent in zip(own, shape, strict=True):
            if within.setdefault(label, extent) != extent:
                raise RuntimeError(
                    f"einsum: label '{label}' is repeated in an operand of shape {shape}: lengths differ"
                )
            known = size.setdefault(label, extent)
            if known == 1:
                size[label] = extent
            elif extent not in (known, 1):
                raise RuntimeError(
                    f"einsum: label '{_text((label,))}' has length {known} in one operand "
                    f"and {extent} in another"
                )
    missing = [label for label in output if label not in size]
    if missing:
        raise RuntimeError(f"einsum: the result names '{_text(tuple(missing))}', which no operand has")
    return set(size) != set(output)


def _of_one(x: Tensor, labels: Labels, output: Labels) -> Tensor | None:
    """The einsum of one operand: diagonals, sums, axes exchanged. None where it is an error."""
    if len(set(output)) != len(output) or not set(labels).issuperset(output):
        return None
    names = list(labels)
    while len(names) != len(set(names)):
        a = next(i for i, name in enumerate(names) if names.count(name) > 1)
        b = names.index(names[a], a + 1)
        if x.shape[a] != x.shape[b]:
            return None
        x = diagonal(x, 0, a, b)  # the common axis comes last
        names = [name for i, name in enumerate(names) if i not in (a, b)] + [names[a]]
    summed = [i for i, name in enumerate(names) if name not in output]
    if summed:
        x = sum_over(x, summed)
        names = [name for name in names if name in output]
    if names == list(output) and len(labels) != len(output):
        return x
    return permute(x, [names.index(name) for name in output])  # where nothing was taken or added up: a view


def _text(labels: Labels) -> str:
    return "".join("." if isinstance(label, tuple) else str(label) for label in labels)
