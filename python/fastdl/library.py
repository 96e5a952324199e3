"""Operations written in Python and registered under a name; see ``torch.library``.

Here they are functions with gradients: nothing is compiled, so what is told to a compiler is kept and not used.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from fastdl.autograd.function import Function
from fastdl.errors import ArgumentError
from fastdl.tensor import Tensor

__all__ = ["CustomOpDef", "custom_op", "register_autograd", "register_fake"]

_DEFINED: dict[str, CustomOpDef] = {}


class CustomOpDef:
    """A registered operation. Call it as the function that it was made of."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._name, self._function = name, function
        self._signature = inspect.signature(function)
        self._kernels: dict[str, Callable[..., Any]] = {}
        self._backward: Callable[..., Any] | None = None
        self._setup: Callable[..., Any] | None = None
        self.__name__, self.__doc__ = name, function.__doc__

    def __repr__(self) -> str:
        return f"<CustomOpDef({self._name})>"

    def register_autograd(
        self, backward: Callable[..., Any], /, *, setup_context: Callable[..., Any] | None = None
    ) -> None:
        """``backward(ctx, *grads)`` returns a gradient (or None) for each argument.

        ``setup_context(ctx, inputs, output)`` keeps what it needs.
        """
        self._backward, self._setup = backward, setup_context

    def register_fake(self, fn: Callable[..., Any], /) -> Callable[..., Any]:
        """How the result looks, for a compiler: accepted and not used. Returns ``fn``, to be a decorator."""
        return fn

    def register_kernel(self, device_types: Any, fn: Callable[..., Any] | None = None, /) -> Any:
        """Another function for tensors of a device (``"cpu"``, ``"cuda"``); also as a decorator."""

        def register(fn: Callable[..., Any]) -> Callable[..., Any]:
            for kind in (device_types,) if isinstance(device_types, str) else device_types:
                self._kernels[kind] = fn
            return fn

        return register if fn is None else register(fn)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self._name}: {error}") from None
        bound.apply_defaults()
        inputs = bound.args
        rest = bound.kwargs
        kernel = self._kernel(inputs)
        backward, setup = self._backward, self._setup
        name = self._name

        class Registered(Function):
            @staticmethod
            def forward(ctx: Any, *inputs: Any) -> Any:
                output = kernel(*inputs, **rest)
                if setup is not None:
                    setup(ctx, inputs, output, **({"keyword_only_inputs": rest} if rest else {}))
                return output

            @staticmethod
            def backward(ctx: Any, *grads: Any) -> Any:
                if backward is None:
                    raise RuntimeError(
                        f"{name}: it has no gradient; give it one by register_autograd(backward)"
                    )
                return backward(ctx, *grads)

        Registered.__name__ = name
        return Registered.apply(*inputs)

    def _kernel(self, inputs: tuple[Any, ...]) -> Callable[..., Any]:
        for value in inputs if self._kernels else ():
            if isinstance(value, Tensor):
                return self._kernels.get(value.device.type, self._function)
        return self._function


def custom_op(
    name: str,
    fn: Callable[..., Any] | None = None,
    /,
    *,
    mutates_args: str | Iterable[str],
    device_types: Any = None,
    schema: str | None = None,
) -> Any:
    """Make an operation of a Python function, as a decorator or with ``fn``; see ``torch.library.custom_op``.

    Args:
        name: ``"namespace::name"``.
        mutates_args: the arguments that it changes in place, ``()`` for none; for a compiler, accepted and not used.
        device_types, schema: accepted; the function's own parameters are the schema.

    Raises:
        ValueError: for a name without a namespace.

    Example:
        >>> import fastdl
        >>> @fastdl.library.custom_op("mine::square", mutates_args=())
        ... def square(x: fastdl.Tensor) -> fastdl.Tensor:
        ...     return x * x
        >>> def setup(ctx, inputs, output):
        ...     ctx.save_for_backward(*inputs)
        >>> square.register_autograd(lambda ctx, grad: 2 * ctx.saved_tensors[0] * grad, setup_context=setup)
        >>> x = fastdl.tensor(3.0, requires_grad=True)
        >>> square(x).backward()
        >>> x.grad
        tensor(6.)
    """
    parts = name.split("::")
    if len(parts) != 2 or not all(part.isidentifier() for part in parts):
        raise ArgumentError(f"custom_op: the name must be 'namespace::name', got {name!r}")

    def define(fn: Callable[..., Any]) -> CustomOpDef:
        _DEFINED[name] = made = CustomOpDef(name, fn)
        return made

    return define if fn is None else define(fn)


def registered(namespace: str) -> dict[str, CustomOpDef]:
    """The operations of a namespace by name."""
    return {
        name.removeprefix(f"{namespace}::"): op
        for name, op in _DEFINED.items()
        if name.startswith(f"{namespace}::")
    }


def _defined(op: Any) -> CustomOpDef:
    found = op if isinstance(op, CustomOpDef) else _DEFINED.get(op)
    if found is None:
        raise RuntimeError(f"library: there is no operation {op!r}; make it by custom_op")
    return found


def register_autograd(
    op: Any, backward: Callable[..., Any], /, *, setup_context: Callable[..., Any] | None = None
) -> None:
    """:meth:`CustomOpDef.register_autograd` of an operation or its name."""
    _defined(op).register_autograd(backward, setup_context=setup_context)


def register_fake(op: Any, fn: Callable[..., Any] | None = None, /) -> Any:
    """:meth:`CustomOpDef.register_fake` of an operation or its name; also as a decorator."""
    found = _defined(op)
    return found.register_fake if fn is None else found.register_fake(fn)
