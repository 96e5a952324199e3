"""Memory for time: what a part of a model computes is forgotten and computed again in backward.

See ``torch.utils.checkpoint``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from fastdl.autograd.function import Function
from fastdl.autograd.gradients import backward
from fastdl.autograd.mode import enable_grad, is_grad_enabled
from fastdl.random import get_rng_state, set_rng_state
from fastdl.tensor import Tensor

__all__ = ["checkpoint", "checkpoint_sequential"]


class _Checkpoint(Function):
    """Runs without recording; backward runs again, with recording, on detached inputs."""

    @staticmethod
    def forward(ctx: Any, run: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        ctx.run, ctx.preserve = run, preserve
        ctx.state = get_rng_state() if preserve else None
        ctx.others = [None if isinstance(a, Tensor) else a for a in args]
        ctx.save_for_backward(*[a for a in args if isinstance(a, Tensor)])
        ctx.places = [i for i, a in enumerate(args) if isinstance(a, Tensor)]
        return run(*args)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        args = list(ctx.others)
        for place, tensor in zip(ctx.places, ctx.saved_tensors, strict=True):
            args[place] = tensor.detach().requires_grad_(tensor.requires_grad)
        after = get_rng_state()
        if ctx.preserve:
            set_rng_state(ctx.state)
        with enable_grad():
            outputs = ctx.run(*args)
        set_rng_state(after)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        pairs = [
            (o, g)
            for o, g in zip(outputs, grads, strict=True)
            if isinstance(o, Tensor) and o.requires_grad and g is not None
        ]
        if pairs:
            backward([o for o, _ in pairs], [g for _, g in pairs])
        return (None, None, *[a.grad if isinstance(a, Tensor) else None for a in args])


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    use_reentrant: bool | None = None,
    preserve_rng_state: bool = True,
    **kwargs: Any,
) -> Any:
    """``function(*args)``, of which only the inputs are kept; backward computes the rest a second time.

    Args:
        function: a module or function of tensors. Random numbers (dropout) are drawn the same the second time.
        args: its arguments. If none of the tensors needs a gradient, nothing is forgotten.
        use_reentrant: accepted for compatibility.
        preserve_rng_state: whether the second run sees the random state of the first.

    See ``torch.utils.checkpoint.checkpoint``.

    Example:
        >>> import fastdl
        >>> x = fastdl.tensor([1.0, 2.0], requires_grad=True)
        >>> checkpoint(lambda t: t.exp() * t, x, use_reentrant=False).sum().backward()
        >>> [round(g, 4) for g in x.grad.tolist()]
        [5.4366, 22.1672]
    """
    run = partial(function, **kwargs) if kwargs else function
    needed = is_grad_enabled() and any([isinstance(a, Tensor) and a.requires_grad for a in args])
    if not needed:
        return run(*args)
    return _Checkpoint.apply(run, preserve_rng_state, *args)


def checkpoint_sequential(
    functions: Any, segments: int, input: Tensor, use_reentrant: bool | None = None, **kwargs: Any
) -> Tensor:
    """The modules of a Sequential in ``segments`` parts, all but the last checkpointed.

    See ``torch.utils.checkpoint.checkpoint_sequential``.
    """
    modules = list(functions)
    size = max(len(modules) // segments, 1)

    def part(first: int, last: int) -> Callable[[Tensor], Tensor]:
        def run(x: Tensor) -> Tensor:
            for module in modules[first:last]:
                x = module(x)
            return x

        return run

    starts = [i * size for i in range(segments - 1)]
    for start in starts:
        input = checkpoint(part(start, start + size), input, use_reentrant=use_reentrant, **kwargs)
    return part(len(starts) * size, len(modules))(input)
