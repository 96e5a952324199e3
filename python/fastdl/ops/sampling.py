"""Random tensors: uniform, normal, integers, permutations, Bernoulli, multinomial, and their in-place methods.

Kernels draw with Philox from (seed, offset), see :mod:`fastdl.random`: the same seed gives the same numbers on every
backend, for any number of threads.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastdl._graph import plainly_writable
from fastdl.arrays import assign, pooled_copy
from fastdl.autograd.mode import mode
from fastdl.autograd.view import check_writable
from fastdl.creation import dtype_and_device, finish, same, shape_of
from fastdl.devices import device_of, make, resolve, to_device, to_host
from fastdl.dtypes import (
    CPU,
    DIFFERENTIABLE,
    FLOATING,
    META,
    as_dtype,
    float32,
    float64,
    floating_info,
    get_default_dtype,
    int64,
    real_dtype,
)
from fastdl.kernels import capture, select
from fastdl.kernels.sparse import is_sparse, not_for_sparse
from fastdl.ops.arrays import cast, contiguous, count_true, full
from fastdl.ops.common import check_tensors
from fastdl.ops.complex import check_real
from fastdl.random import Generator, default_generator
from fastdl.tensor import Tensor


def draw_key(generator: Generator | None, where: Any = CPU) -> tuple[Any, int]:
    """The key of one random operation on a device."""
    if where is META:
        return 0, 0
    return _checked(generator).draw(where is not CPU)


def _checked(generator: Any) -> Generator:
    if generator is None:
        return default_generator
    if not isinstance(generator, Generator):
        raise TypeError(
            f"generator must be a Generator, got {type(generator).__name__}; Generator().manual_seed(0) makes one"
        )
    return generator


def _made(where: Any, generator: Generator | None, kernel: str, *arguments: Any) -> Any:
    """What a kernel draws."""
    if where is CPU:
        seed, offset = _checked(generator).draw()
        return getattr(select(None), kernel)(*arguments, seed, offset)
    return make(where, kernel, *arguments, *draw_key(generator, where))


def _floating(op: str, dtype: Any) -> Any:
    d = get_default_dtype() if dtype is None else as_dtype(op, dtype)
    if d.kind not in DIFFERENTIABLE:
        raise RuntimeError(
            f"{op}: dtype must be floating-point or complex, got {d}; use randint() for integers"
        )
    return d


def _uniform(
    shape: Any, dtype: Any, low: float, high: float, generator: Generator | None, where: Any = CPU
) -> Any:
    if dtype.kind == "c":  # both parts
        return _uniform((*shape, 2), real_dtype(dtype), low, high, generator, where).view(dtype)[..., 0]
    if dtype.itemsize == 2:
        return cast(_made(where, generator, "random_uniform", shape, float32, low, high), dtype)
    return _made(where, generator, "random_uniform", shape, dtype, low, high)


def _normal(
    shape: Any, dtype: Any, mean: float, std: float, generator: Generator | None, where: Any = CPU
) -> Any:
    if dtype.kind == "c":  # the variance is that of both parts together
        parts = _normal((*shape, 2), real_dtype(dtype), mean, std / math.sqrt(2), generator, where)
        return parts.view(dtype)[..., 0]
    if dtype.itemsize == 2:
        return cast(_made(where, generator, "random_normal", shape, float32, mean, std), dtype)
    return _made(where, generator, "random_normal", shape, dtype, mean, std)


def _integers(shape: Any, low: int, high: int, generator: Generator | None, where: Any = CPU) -> Any:
    return _made(where, generator, "random_integers", shape, low, high)


def _named_size(op: str, size: Any, named: dict[str, Any]) -> Any:
    """The size, which may be given by name as well."""
    size = named.pop("size", size)
    for name in named:
        if name not in ("layout", "pin_memory"):
            raise TypeError(f"{op}: unexpected argument {name!r}")
    return size


def rand(
    *size: Any,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    **named: Any,
) -> Tensor:
    """Uniform numbers in [0, 1); see ``torch.rand``.

    Example:
        >>> import fastdl
        >>> _ = fastdl.manual_seed(0)
        >>> x = fastdl.rand(2, 3)
        >>> bool(((x >= 0) & (x < 1)).all())
        True
    """
    size = _named_size("rand", size, named)
    where = resolve("rand", device)
    array = _uniform(shape_of("rand", size), _floating("rand", dtype), 0.0, 1.0, generator, where)
    return finish("rand", array, where, requires_grad)


def randn(
    *size: Any,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    **named: Any,
) -> Tensor:
    """Normally distributed numbers, mean 0 and standard deviation 1; see ``torch.randn``.

    Of complex numbers both parts have half of the variance.
    """
    size = _named_size("randn", size, named)
    where = resolve("randn", device)
    array = _normal(shape_of("randn", size), _floating("randn", dtype), 0.0, 1.0, generator, where)
    return finish("randn", array, where, requires_grad)


def randint(
    low: Any = 0,
    high: Any = None,
    size: Any = None,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Integers in [low, high): ``randint(high, size)`` or ``randint(low, high, size)``; see ``torch.randint``."""
    if size is None:
        low, high, size = 0, low, high
    elif high is None:
        low, high = 0, low
    if size is None or high is None:
        raise TypeError("randint: high and size are needed: randint(high, size) or randint(low, high, size)")
    if low >= high:
        raise RuntimeError(f"randint: low must be below high, got {low} and {high}")
    where = resolve("randint", device)
    array = _integers(shape_of("randint", (size,)), int(low), int(high), generator, where)
    d = int64 if dtype is None else as_dtype("randint", dtype)
    return finish("randint", array if d is int64 else array.astype(d), where, requires_grad)


def randperm(
    n: int,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """The integers 0 .. n - 1 in random order; see ``torch.randperm``."""
    if n < 0:
        raise RuntimeError(f"randperm: n must not be negative, got {n}")
    array = make(CPU, "random_permutation", int(n), *draw_key(generator))
    d = int64 if dtype is None else as_dtype("randperm", dtype)
    return finish(
        "randperm", array if d is int64 else array.astype(d), resolve("randperm", device), requires_grad
    )


def _random_like(
    op: str,
    draw: Any,
    input: Tensor,
    generator: Generator | None,
    dtype: Any,
    device: Any,
    requires_grad: bool,
) -> Tensor:
    d, where = dtype_and_device(op, input, dtype, device)
    array = draw(input._data.shape, _floating(op, d), 0.0, 1.0, generator, where)
    return finish(op, array, where, requires_grad)


def rand_like(
    input: Tensor,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """:func:`rand` with the shape and dtype of ``input``."""
    return _random_like("rand_like", _uniform, input, generator, dtype, device, requires_grad)


def randn_like(
    input: Tensor,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """:func:`randn` with the shape and dtype of ``input``."""
    return _random_like("randn_like", _normal, input, generator, dtype, device, requires_grad)


def randint_like(
    input: Tensor,
    low: int = 0,
    high: int | None = None,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """:func:`randint` with the shape and dtype of ``input``: ``randint_like(x, high)`` or ``(x, low, high)``."""
    check_tensors("randint_like", input=input)
    if is_sparse(input):
        raise not_for_sparse("randint_like")
    bounds = (0, low) if high is None else (low, high)
    options = same(input, dtype, device)
    return randint(*bounds, input.shape, generator=generator, requires_grad=requires_grad, **options)


def normal(
    mean: Any,
    std: Any = 1.0,
    size: Any = None,
    *,
    generator: Generator | None = None,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    **named: Any,
) -> Tensor:
    """Normally distributed numbers; mean and std are numbers (then ``size`` is needed) or tensors.

    See ``torch.normal``.
    """
    size = _named_size("normal", size, named)
    if not isinstance(mean, Tensor) and not isinstance(std, Tensor):
        if size is None:
            raise TypeError("normal: size is needed if mean and std are numbers")
        _check_std("normal", std)
        where = resolve("normal", device)
        array = _normal(
            shape_of("normal", (size,)), _floating("normal", dtype), float(mean), float(std), generator, where
        )
        return finish("normal", array, where, requires_grad)
    tensors = [t for t in (mean, std) if isinstance(t, Tensor)]
    if any([is_sparse(t) for t in tensors]):
        raise not_for_sparse("normal")
    if not isinstance(std, Tensor):
        _check_std("normal", std)
    elif std.numel() and not capture.active and bool((std < 0).any()):
        raise RuntimeError("normal: std must not be negative")
    shape = np.broadcast_shapes(*[t.shape for t in tensors])
    where = tensors[0].device
    z = Tensor._wrap(_normal(shape, _floating("normal", tensors[0].dtype), 0.0, 1.0, generator, where))
    return (z * std + mean).detach()  # type: ignore[no-any-return]


def _check_std(op: str, std: Any) -> None:
    if std < 0:
        raise RuntimeError(f"{op}: std must not be negative, got {std}")


def bernoulli(input: Tensor, p: float | None = None, *, generator: Generator | None = None) -> Tensor:
    """1 with the probability that ``input`` (or ``p``) gives, else 0; see ``torch.bernoulli``."""
    x = input._data
    if p is not None:
        x = np.full_like(x, p, dtype=x.dtype if x.dtype.kind in FLOATING else get_default_dtype())
    if x.dtype.kind not in FLOATING:
        raise RuntimeError(f"bernoulli: probabilities must be floating-point, got {x.dtype}")
    if x.dtype.itemsize == 2:
        x = x.astype(float32)
    if x.size and not capture.active and not (x.min() >= 0 and x.max() <= 1):
        outside = x[~((x >= 0) & (x <= 1))].reshape(-1)[0].item()
        raise RuntimeError(f"bernoulli: probabilities must lie in [0, 1], got {outside:g}")
    return Tensor._wrap(
        select(x).random_bernoulli(x, *draw_key(generator, device_of(x))).astype(input.dtype, copy=False)
    )


def poisson(input: Tensor, generator: Generator | None = None) -> Tensor:
    """Poisson-distributed numbers with the rates ``input``; see ``torch.poisson``."""
    if input.numel() and not bool((input >= 0).all()):
        raise RuntimeError("poisson: rates must not be negative")
    rng = np.random.Generator(np.random.Philox(key=np.array(draw_key(generator), np.uint64)))
    drawn = np.asarray(rng.poisson(to_host(input._data)), input.dtype)
    return Tensor._wrap(to_device(drawn, device_of(input._data)))


def binomial(count: Tensor, prob: Tensor, generator: Generator | None = None) -> Tensor:
    """How many of ``count`` trials succeed, each with probability ``prob``; see ``torch.binomial``."""
    check_tensors("binomial", count=count, prob=prob)
    trials, p = to_host(count._data), to_host(prob._data)
    if trials.dtype.kind not in FLOATING or trials.dtype != p.dtype:
        raise RuntimeError(
            "binomial: count and prob must have one floating-point dtype, got "
            f"{trials.dtype} and {p.dtype}; use count.to(prob.dtype)"
        )
    if not ((trials >= 0).all() and (p >= 0).all() and (p <= 1).all()):
        raise RuntimeError("binomial: count must not be negative, and prob must be between 0 and 1")
    rng = np.random.Generator(np.random.Philox(key=np.array(draw_key(generator), np.uint64)))
    drawn = np.asarray(rng.binomial(trials.astype(np.int64), p.astype(np.float64)), trials.dtype)
    return Tensor._wrap(to_device(drawn, device_of(count._data)))


def multinomial(
    input: Tensor, num_samples: int, replacement: bool = False, *, generator: Generator | None = None
) -> Tensor:
    """Indices drawn with the weights in each row of ``input``, which need not add up to 1; see ``torch.multinomial``.

    Without replacement the ``num_samples`` largest of log(weight) + Gumbel noise are taken, which draws one
    after the other without putting back; where fewer weights are above 0, as in PyTorch others fill up the row.
    """
    weights = to_host(input._data)
    if weights.ndim not in (1, 2) or weights.dtype.kind not in FLOATING:
        raise RuntimeError(
            "multinomial: expects a floating-point vector or matrix of weights, got shape "
            f"{weights.shape}, {weights.dtype}"
        )
    rows = contiguous(np.atleast_2d(weights), float64)
    if not (rows.min(initial=0.0) >= 0 and np.isfinite(rows.max(initial=0.0))):  # NaN is neither
        raise RuntimeError("multinomial: weights must be finite and not negative")
    available = count_true(rows, (1,))
    if num_samples < 1:
        raise RuntimeError(f"multinomial: num_samples must be at least 1, got {num_samples}")
    if rows.size and not available.all():
        raise RuntimeError(f"multinomial: row {int(np.argmin(available))} has no weight above 0")
    count = rows.shape[1]
    kernels = select(rows)
    if replacement:
        u = _uniform((rows.shape[0], num_samples), float64, 0.0, 1.0, generator)
        bounds = kernels.running_sum(rows, 1)
        chosen = kernels.searchsorted(bounds, kernels.mul_forward(u, bounds[:, -1:]), True)
    else:
        if num_samples > count:
            raise RuntimeError(
                f"multinomial: cannot draw {num_samples} samples without replacement from {count} weights"
            )
        u = _uniform(rows.shape, float64, 0.0, 1.0, generator)
        waits = kernels.log_forward(kernels.sub_forward(1.0, u))  # of (0, 1]
        noise = kernels.log_forward(kernels.neg_forward(waits))
        keys = kernels.sub_forward(kernels.log_forward(rows), noise)
        if num_samples == 1:
            chosen = kernels.max_forward(keys, 1, True)[1]
        else:
            chosen = kernels.sort_forward(keys, num_samples, True)[1]
    return Tensor._wrap(to_device(chosen if weights.ndim == 2 else chosen[0], device_of(input._data)))


# ------------------------------------------------------------------------------------------------ in-place methods


def _store(self: Tensor, array: Any) -> Tensor:
    if mode.enabled and self._requires_grad:
        return self.copy_(Tensor._wrap(array))
    assign(self._data, array)
    self._bump_version()
    return self


def _check(op: str, self: Tensor) -> Any:
    if not plainly_writable(self):
        check_writable(op, self)
    return self._data.dtype if self._data.dtype.kind in DIFFERENTIABLE else float64


def _drawn(self: Tensor, kernel: str, first: float, second: float, generator: Generator | None) -> bool:
    """Has what ``kernel`` draws been written into the tensor? Into floats on the CPU, where nothing is recorded."""
    x = self._data
    dtype = x.dtype
    if not (dtype is float32 or dtype is float64) or not plainly_writable(self):
        return False
    seed, offset = (default_generator if generator is None else generator).draw()
    assign(x, getattr(select(x), kernel)(x.shape, dtype, first, second, seed, offset))
    self._bump_version()
    return True


def uniform_(
    self: Tensor, from_: float = 0.0, to: float = 1.0, *, generator: Generator | None = None
) -> Tensor:
    """Overwrite with uniform numbers in [from_, to); see ``torch.Tensor.uniform_``."""
    if from_ > to:
        raise RuntimeError(f"uniform_: from_ must not exceed to, got {from_} and {to}")
    if _drawn(self, "random_uniform", from_, to, generator):
        return self
    dtype = _check("uniform_", self)
    where = device_of(self._data)
    return _store(self, _uniform(self._data.shape, dtype, float(from_), float(to), generator, where))


def normal_(
    self: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Generator | None = None
) -> Tensor:
    """Overwrite with normally distributed numbers; see ``torch.Tensor.normal_``."""
    _check_std("normal_", std)
    if _drawn(self, "random_normal", mean, std, generator):
        return self
    dtype = _check("normal_", self)
    where = device_of(self._data)
    return _store(self, _normal(self._data.shape, dtype, float(mean), float(std), generator, where))


def bernoulli_(self: Tensor, p: Any = 0.5, *, generator: Generator | None = None) -> Tensor:
    """Overwrite with 1 with probability ``p`` (a number or a tensor), else 0; see ``torch.Tensor.bernoulli_``."""
    _check("bernoulli_", self)
    if isinstance(p, Tensor):
        chances = pooled_copy(np.broadcast_to(p._data, self.shape))
        return _store(self, bernoulli(Tensor._wrap(chances), generator=generator)._data)
    if not 0 <= p <= 1:
        raise RuntimeError(f"bernoulli_: p must lie in [0, 1], got {p}")
    chances = full(self._data.shape, p, float32, self._data)
    drawn = select(chances).random_bernoulli(chances, *draw_key(generator, device_of(chances)))
    return _store(self, drawn)


def random_(
    self: Tensor, from_: int = 0, to: int | None = None, *, generator: Generator | None = None
) -> Tensor:
    """Overwrite with integers in [from, to), or [0, from) if only one is given; see ``torch.Tensor.random_``."""
    _check("random_", self)
    low, high = (from_, to) if to is not None else (0, from_)
    if to is None and from_ == 0:  # every value that the dtype represents exactly
        kind = self._data.dtype
        high = (
            1 << (floating_info(kind).nmant + 1)
            if kind.kind in FLOATING
            else int(np.iinfo(kind).max)
            if kind.kind != "b"
            else 2
        )
    assert high is not None
    if low >= high:
        raise RuntimeError(f"random_: from must be below to, got {low} and {high}")
    x = self._data
    return _store(self, _integers(x.shape, int(low), int(high), generator, device_of(x)))


def exponential_(self: Tensor, lambd: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Overwrite with exponentially distributed numbers of rate ``lambd``; see ``torch.Tensor.exponential_``."""
    check_real("exponential_", self)
    dtype = _check("exponential_", self)
    if lambd <= 0:
        raise RuntimeError(f"exponential_: lambd must be positive, got {lambd}")
    where = device_of(self._data)
    u = _uniform(self._data.shape, dtype, 0.0, 1.0, generator, where)
    if where is not CPU or u.dtype.itemsize == 2:
        return _store(self, -np.log1p(-u) / lambd)
    k = select(u)
    waits = k.log1p_forward(k.neg_forward(u, u), u)
    return _store(self, k.mul_forward(waits, -1.0 / lambd, u))


def log_normal_(
    self: Tensor, mean: float = 1.0, std: float = 2.0, *, generator: Generator | None = None
) -> Tensor:
    """Overwrite with exp of normally distributed numbers; see ``torch.Tensor.log_normal_``."""
    check_real("log_normal_", self)
    dtype = _check("log_normal_", self)
    if not std > 0:
        raise RuntimeError(f"log_normal_: std must be greater than 0, got {std}")
    return _store(
        self,
        np.exp(_normal(self.shape, dtype, float(mean), float(std), generator, self.device)),
    )


def cauchy_(
    self: Tensor, median: float = 0.0, sigma: float = 1.0, *, generator: Generator | None = None
) -> Tensor:
    """Overwrite with Cauchy-distributed numbers; see ``torch.Tensor.cauchy_``."""
    check_real("cauchy_", self)
    dtype = _check("cauchy_", self)
    if not sigma > 0:
        raise RuntimeError(f"cauchy_: sigma must be greater than 0, got {sigma}")
    u = _uniform(self.shape, dtype, 0.0, 1.0, generator, self.device)
    return _store(self, median + sigma * np.tan(math.pi * (u - 0.5)))


def geometric_(self: Tensor, p: float, *, generator: Generator | None = None) -> Tensor:
    """Overwrite with the number of trials up to the first success, each with probability ``p``: 1, 2, ...

    See ``torch.Tensor.geometric_``.
    """
    if not 0 < p < 1:
        raise RuntimeError(f"geometric_: p must be between 0 and 1, got {p}")
    _check("geometric_", self)
    u = _uniform(self.shape, float64, 0.0, 1.0, generator, self.device)
    drawn = np.maximum(np.ceil(np.log1p(-u) / math.log1p(-p)), 1.0)
    return _store(self, drawn.astype(self.dtype))
