"""L-BFGS: a quasi-Newton method for full batches. Nocedal & Wright, "Numerical Optimization" (2006), chapters 3 and 7.

The direction is minus the gradient times an approximation of the inverse Hessian, built from the last differences of
positions (s) and gradients (y) by two loops over them. The line search looks for a step that meets the strong Wolfe
conditions: first a bracket that contains one, then a smaller and smaller bracket, by cubic interpolation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import sqrt
from typing import Any, NamedTuple

import numpy as np

from fastdl.autograd.mode import enable_grad
from fastdl.ops.complex import as_real
from fastdl.optim.optimizer import Optimizer, check_options
from fastdl.tensor import Tensor

__all__ = ["LBFGS"]


class _Point(NamedTuple):
    """A place on the line: step, loss, gradient, slope along the direction."""

    step: float
    loss: float
    grad: Any
    slope: float


class LBFGS(Optimizer):
    """Limited-memory BFGS; one parameter group. ``step`` needs a closure that computes the loss and its gradients anew.

    See ``torch.optim.LBFGS``.

    Args:
        lr: step size, and the first step of the line search.
        max_iter: iterations in one ``step``; max_eval: evaluations of the closure (max_iter * 5 / 4 by default).
        tolerance_grad, tolerance_change: when to stop: largest gradient element; change of position or loss.
        history_size: how many differences are remembered.
        line_search_fn: None or ``"strong_wolfe"``.

    Example:
        >>> import fastdl
        >>> p = fastdl.nn.Parameter(fastdl.tensor([3.0]))
        >>> optimizer = fastdl.optim.LBFGS([p], line_search_fn="strong_wolfe")
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = ((p - 1) ** 2).sum()
        ...     loss.backward()
        ...     return loss
        >>> _ = optimizer.step(closure)
        >>> round(p.item(), 4)
        1.0
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: Any = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        check_options(lr=lr)
        super().__init__(
            params,
            {
                "lr": lr,
                "max_iter": max_iter,
                "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
                "tolerance_grad": tolerance_grad,
                "tolerance_change": tolerance_change,
                "history_size": history_size,
                "line_search_fn": line_search_fn,
            },
        )
        if len(self.param_groups) != 1:
            raise ValueError("LBFGS doesn't support per-parameter options (parameter groups)")
        if line_search_fn not in (None, "strong_wolfe"):
            raise ValueError(f"LBFGS: line_search_fn must be None or 'strong_wolfe', got {line_search_fn!r}")

    @property
    def _params(self) -> list[Tensor]:
        return self.param_groups[0]["params"]  # type: ignore[no-any-return]

    def _flat_grad(self) -> Any:
        return np.concatenate(
            [
                np.zeros(d.size, d.dtype, like=d)
                if p._grad is None
                else as_real(p._grad.to_dense()._data).reshape(-1)
                for p, d in [(p, as_real(p._data)) for p in self._params]
            ]
        )

    def _positions(self) -> Any:
        return np.concatenate([as_real(p._data).reshape(-1) for p in self._params])

    def _move_to(self, position: Any) -> None:
        start = 0
        for p in self._params:
            numbers = as_real(p._data)
            np.copyto(
                numbers, position[start : start + numbers.size].reshape(numbers.shape), casting="same_kind"
            )
            p._bump_version()
            start += numbers.size

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Some iterations; returns the loss at the start."""
        if closure is None:
            raise TypeError("LBFGS.step: needs a closure that computes the loss and its gradients")
        evaluate: Callable[[], Any] = closure
        group, state = self.param_groups[0], self.state[self._params[0]]
        self._stepped = True
        state.setdefault("func_evals", 0)
        state.setdefault("n_iter", 0)

        def loss_here() -> tuple[Any, Any]:
            with enable_grad():
                loss = evaluate()
            state["func_evals"] += 1
            return loss, self._flat_grad()

        before = state["func_evals"]
        first_loss, grad = loss_here()
        loss = float(first_loss)
        small = group["tolerance_grad"]
        if not grad.size or np.abs(grad).max() <= small:
            return first_loss
        for iteration in range(1, group["max_iter"] + 1):
            state["n_iter"] += 1
            direction = self._direction(state, grad, group["history_size"])
            lr = float(group["lr"])
            step = min(1.0, 1.0 / float(np.abs(grad).sum())) * lr if state["n_iter"] == 1 else lr
            last_loss = loss
            state["d"], state["prev_flat_grad"], state["prev_loss"] = direction, grad, loss
            state["t"] = step
            slope = float(grad @ direction)
            if slope > -group["tolerance_change"]:
                break
            start = self._positions()
            if group["line_search_fn"] is not None:

                def at(t: float, start: Any = start, direction: Any = direction) -> _Point:
                    self._move_to(start + direction.dtype.type(t) * direction)
                    value, g = loss_here()
                    self._move_to(start)
                    return _Point(t, float(value), g, float(g @ direction))

                here, length = _Point(0.0, loss, grad, slope), float(np.abs(direction).max())
                best = _strong_wolfe(at, step, here, length, group["max_eval"] - state["func_evals"] + before)
                step, loss, grad = best.step, best.loss, best.grad
                state["t"] = step
                self._move_to(start + direction.dtype.type(step) * direction)
            else:
                self._move_to(start + direction.dtype.type(step) * direction)
                if iteration < group["max_iter"]:
                    value, grad = loss_here()
                    loss = float(value)
            if (
                state["func_evals"] - before >= group["max_eval"]
                or np.abs(grad).max() <= small
                or np.abs(direction * direction.dtype.type(step)).max() <= group["tolerance_change"]
                or abs(loss - last_loss) < group["tolerance_change"]
            ):
                break
        for name in ("d", "prev_flat_grad"):
            if name in state and not isinstance(state[name], Tensor):
                state[name] = Tensor._wrap(state[name])
        return first_loss

    def _direction(self, state: dict[str, Any], grad: Any, history: int) -> Any:
        """Minus the gradient times the approximate inverse Hessian, after taking in the last step."""
        if state["n_iter"] == 1:
            state["old_dirs"], state["old_stps"], state["ro"], state["H_diag"] = [], [], [], 1.0
            return -grad
        changes, moves, ro = state["old_dirs"], state["old_stps"], state["ro"]
        d, last_grad = [_array(state[name]) for name in ("d", "prev_flat_grad")]
        y, s = grad - last_grad, d * d.dtype.type(state["t"])
        curvature = float(y @ s)
        if curvature > 1e-10:
            if len(changes) == history:
                for kept in (changes, moves, ro):
                    kept.pop(0)
            changes.append(Tensor._wrap(y))
            moves.append(Tensor._wrap(s))
            ro.append(1.0 / curvature)
            state["H_diag"] = curvature / float(y @ y)
        q = -grad
        shares = []
        for y, s, r in zip(reversed(changes), reversed(moves), reversed(ro), strict=True):
            shares.append(float(_array(s) @ q) * r)
            q -= q.dtype.type(shares[-1]) * _array(y)
        q *= q.dtype.type(state["H_diag"])
        for y, s, r, share in zip(changes, moves, ro, reversed(shares), strict=True):
            q += q.dtype.type(share - float(_array(y) @ q) * r) * _array(s)
        return q


def _array(value: Any) -> Any:
    return value._data if isinstance(value, Tensor) else value


def _cubic_minimum(a: _Point, b: _Point, bounds: tuple[float, float] | None = None) -> float:
    """Where the cubic through both losses and slopes is lowest, within the bounds, or their middle."""
    low, high = bounds or (min(a.step, b.step), max(a.step, b.step))
    d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.step - b.step)
    square = d1 * d1 - a.slope * b.slope
    if not square >= 0:
        return (low + high) / 2
    if a.step > b.step:
        a, b = b, a
    d2 = sqrt(square)
    lowest = b.step - (b.step - a.step) * ((b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2))
    return min(max(lowest, low), high)


def _strong_wolfe(
    at: Callable[[float], _Point],
    step: float,
    origin: _Point,
    length: float,
    tries: int,
    c1: float = 1e-4,
    c2: float = 0.9,
    tolerance: float = 1e-9,
) -> _Point:
    """A step with enough decrease (c1) and a flat enough slope (c2), or the best of so many tries."""

    def too_high(p: _Point) -> bool:
        return p.loss > origin.loss + c1 * p.step * origin.slope

    def flat(p: _Point) -> bool:
        return abs(p.slope) <= -c2 * origin.slope

    previous, here = origin, at(step)
    tried = 0
    bracket = None
    while tried < tries:
        if too_high(here) or (tried > 1 and here.loss >= previous.loss):
            bracket = [previous, here]
            break
        if flat(here):
            return here
        if here.slope >= 0:
            bracket = [previous, here]
            break
        ahead = (here.step + 0.01 * (here.step - previous.step), here.step * 10)
        step = _cubic_minimum(previous, here, ahead)
        previous, here = here, at(step)
        tried += 1
    if bracket is None:
        bracket = [origin, here]
    low, high = (0, 1) if bracket[0].loss <= bracket[1].loss else (1, 0)
    stalled = False
    while tried < tries:
        left, right = sorted(p.step for p in bracket)
        if (right - left) * length < tolerance:
            break
        step = _cubic_minimum(bracket[0], bracket[1])
        margin = 0.1 * (right - left)
        if min(right - step, step - left) < margin:
            # Close to an end twice in a row: move away from it.
            if stalled or step >= right or step <= left:
                step = right - margin if abs(step - right) < abs(step - left) else left + margin
                stalled = False
            else:
                stalled = True
        else:
            stalled = False
        here = at(step)
        tried += 1
        if too_high(here) or here.loss >= bracket[low].loss:
            bracket[high] = here
            low, high = (0, 1) if bracket[0].loss <= bracket[1].loss else (1, 0)
            continue
        if flat(here):
            return here
        if here.slope * (bracket[high].step - bracket[low].step) >= 0:
            bracket[high] = bracket[low]
        bracket[low] = here
    return bracket[low]
