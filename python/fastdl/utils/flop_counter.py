"""How many floating-point operations a piece of program takes; see ``torch.utils.flop_counter``.

Products are counted, as in PyTorch: what a kernel of the family computes by its definition, two operations for a
multiplication and an addition, whatever algorithm it takes. Elementwise work is not.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from heapq import heappop
from math import prod
from types import TracebackType
from typing import Any

from fastdl import kernels
from fastdl.autograd import engine, graph
from fastdl.autograd.op import Op
from fastdl.nn.modules.module import Module, register_module_forward_hook, register_module_forward_pre_hook

__all__ = ["FlopCounterMode"]


# ------------------------------------------------------------ the kernels: result and arguments to a number


def _matmul(result: Any, a: Any, b: Any, *_: Any, **__: Any) -> Any:
    return 2 * result.size * a.shape[-1]


def _linear_forward(result: Any, x: Any, weight: Any, *_: Any, **__: Any) -> Any:
    return 2 * x.size * weight.shape[0]


def _linear_backward(
    result: Any, grad_y: Any, x: Any, weight: Any, need_x: bool, need_weight: bool, need_bias: bool
) -> Any:
    return (need_x + need_weight) * 2 * x.size * weight.shape[0]


def _conv_forward(result: Any, x: Any, weight: Any, *_: Any) -> Any:
    return 2 * result.size * prod(weight.shape[1:])


def _conv_backward(result: Any, grad_y: Any, x: Any, weight: Any, *problem: Any) -> Any:
    return sum(problem[-1][:2]) * _conv_forward(grad_y, x, weight)


def _conv_transpose_forward(result: Any, x: Any, weight: Any, *_: Any) -> Any:
    return 2 * x.size * prod(weight.shape[1:])


def _conv_transpose_backward(result: Any, grad_y: Any, x: Any, weight: Any, *problem: Any) -> Any:
    return sum(problem[-1][:2]) * _conv_transpose_forward(grad_y, x, weight)


def _attention_forward(result: Any, query: Any, key: Any, value: Any, *_: Any) -> Any:
    return 2 * query.size * key.shape[-2] + 2 * prod(query.shape[:-1]) * key.shape[-2] * value.shape[-1]


def _attention_backward(result: Any, grad_y: Any, query: Any, key: Any, value: Any, *_: Any) -> Any:
    # The scores once more, three gradients and that of the weights.
    scores = 2 * prod(query.shape[:-1]) * key.shape[-2]
    return scores * (3 * query.shape[-1] + 2 * value.shape[-1])


def _rnn(rows: int, weights: Any) -> Any:
    return sum([2 * rows * w.size for w in weights if w is not None and w.ndim == 2])


def _rnn_forward(
    result: Any, cell: str, x: Any, batch_sizes: Any, h0: Any, c0: Any, weights: Any, *_: Any
) -> Any:
    return _rnn(x.shape[0], weights)


def _rnn_backward(result: Any, cell: str, *arguments: Any) -> Any:
    x, weights, (need_x, _, need_weights) = arguments[3], arguments[7], arguments[-3:]
    whole = _rnn(x.shape[0], weights)
    of_inputs = (
        2 * x.size * sum([w.shape[0] for w in weights if w is not None and w.shape[1:] == x.shape[1:]])
    )
    return whole * (1 + need_weights) - (0 if need_x else min(of_inputs, whole))


_KERNELS: dict[str, tuple[str, Callable[..., Any]]] = {
    "matmul": ("matmul", _matmul),
    "linear_forward": ("linear", _linear_forward),
    "linear_backward": ("linear_backward", _linear_backward),
    "conv_forward": ("convolution", _conv_forward),
    "conv_backward": ("convolution_backward", _conv_backward),
    "conv_transpose_forward": ("convolution", _conv_transpose_forward),
    "conv_transpose_backward": ("convolution_backward", _conv_transpose_backward),
    "attention_forward": ("attention", _attention_forward),
    "attention_backward": ("attention_backward", _attention_backward),
    "rnn_forward": ("rnn", _rnn_forward),
    "rnn_backward": ("rnn_backward", _rnn_backward),
}


class FlopCounterMode:
    """Counts the operations of matrix products, linear layers, convolution, attention and recurrent layers inside it.

    Gradients count where backward is called inside, too. What lies in a module counts for it and for those around it.
    A model's backward of attention counts the scores that it computes again. See
    ``torch.utils.flop_counter.FlopCounterMode``; here the operations are named by strings.

    Args:
        mods: accepted and not needed: all modules are told apart.
        depth: how many levels of modules the table has.
        display: print the table at the end of the block.
        custom_mapping: must be empty; PyTorch takes formulas for further operations.

    Example:
        >>> import fastdl
        >>> from fastdl.utils.flop_counter import FlopCounterMode
        >>> layer = fastdl.nn.Linear(3, 4)
        >>> with FlopCounterMode(display=False) as counter:
        ...     layer(fastdl.ones(2, 3)).sum().backward()
        >>> counter.get_total_flops(), counter.get_flop_counts()["Linear"]
        (96, {'linear': 48, 'linear_backward': 48})
    """

    def __init__(
        self, mods: Any = None, depth: int = 2, display: bool = True, custom_mapping: Any = None
    ) -> None:
        if custom_mapping:
            raise NotImplementedError(
                "FlopCounterMode: custom_mapping must be empty; what is not counted is elementwise and can be added to "
                "get_total_flops()"
            )
        self.depth, self.display = depth, display
        self.flop_counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self._names: dict[Module, str] = {}
        self._local = threading.local()
        self._undo: list[Callable[[], Any]] = []

    # ------------------------------------------------------------------------------------------------------ results

    def get_total_flops(self) -> int:
        """All operations so far."""
        return sum(self.flop_counts["Global"].values())

    def get_flop_counts(self) -> dict[str, dict[str, int]]:
        """Operations by module ("Global" for all, then names such as "Net.encoder") and kind."""
        return {name: dict(counts) for name, counts in self.flop_counts.items()}

    def get_table(self, depth: int | None = None) -> str:
        """The same as text."""
        total = max(1, self.get_total_flops())
        rows = [("Module", "FLOP", "% Total")]
        for name in sorted(self.flop_counts, key=lambda n: "" if n == "Global" else n):
            level = 0 if name == "Global" else name.count(".") + 1
            if level > (self.depth if depth is None else depth):
                continue
            counts = self.flop_counts[name]
            lines = [(" " * level + name, sum(counts.values()))]
            lines += [(" " * level + f" - {kind}", count) for kind, count in sorted(counts.items())]
            rows += [(left, f"{count:,}", f"{100 * count / total:.2f}%") for left, count in lines]
        widths = [max([len(row[i]) for row in rows]) for i in range(3)]
        lines_of_text = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows]
        return "\n".join([lines_of_text[0], "  ".join(["-" * w for w in widths]), *lines_of_text[1:]])

    # ----------------------------------------------------------------------------------------------------- counting

    @property
    def _within(self) -> list[str]:
        """The modules that this thread is in, the innermost last."""
        within: list[str] | None = getattr(self._local, "within", None)
        if within is None:
            within = self._local.within = []
        return within

    def _count(self, kind: str, flops: int) -> None:
        if flops:
            for name in ("Global", *dict.fromkeys(self._within)):
                self.flop_counts[name][kind] += flops

    def _enter_module(self, module: Module, _: Any) -> None:
        if module not in self._names:  # a module that none around it has named
            for path, each in module.named_modules():
                self._names[each] = f"{type(module).__name__}.{path}" if path else type(module).__name__
        self._within.append(self._names[module])

    def _leave_module(self, *_: Any) -> None:
        self._within.pop()

    def _replace(self, owner: Any, name: str, instead: Any) -> None:
        """Until the end of the block ``owner.name`` is something else."""
        before = vars(owner).get(name)
        setattr(owner, name, instead)
        self._undo.append(lambda: delattr(owner, name) if before is None else setattr(owner, name, before))

    def _counted(
        self, function: Callable[..., Any], kind: str, formula: Callable[..., Any]
    ) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            result = function(*args, **options)
            self._count(kind, int(formula(result, *args, **options)))
            return result

        return call

    def _applying(self) -> Any:
        """``Op.apply``, with a note on the node in which modules it was made."""

        def apply(cls: type[Op], *inputs: Any, **options: Any) -> Any:
            result = super(Op, cls).apply(*inputs, **options)  # type: ignore[misc]
            node = getattr(result[0] if result.__class__ is tuple else result, "_node", None)
            if node is not None and self._within:
                node.__dict__["within"] = tuple(self._within)
            return result

        return classmethod(apply)

    def _next_node(self, heap: Any) -> Any:
        """The walk's next node: what is computed until the one after it belongs to its modules."""
        item = heappop(heap)
        self._within[:] = item[1].__dict__.get("within", ())
        return item

    def _walking(self, run: Callable[..., Any]) -> Callable[..., Any]:
        def walk(*args: Any) -> Any:
            before = list(self._within)
            try:
                return run(*args)
            finally:
                self._within[:] = before

        return walk

    def __enter__(self) -> FlopCounterMode:
        self.flop_counts.clear()
        self._names.clear()
        for backend in (kernels.cpu, kernels.device_backend()):
            for name, (kind, formula) in _KERNELS.items():
                function = getattr(backend, name, None)
                if function is not None:
                    self._replace(backend, name, self._counted(function, kind, formula))
        self._replace(Op, "apply", self._applying())
        for module, name in ((engine, "_run"), (graph, "_run_graph")):
            self._replace(module, "heappop", self._next_node)
            self._replace(module, name, self._walking(getattr(module, name)))
        hooks = (
            register_module_forward_pre_hook(self._enter_module),
            register_module_forward_hook(self._leave_module, always_call=True),
        )
        self._undo += [hook.remove for hook in hooks]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()
        self._within.clear()
        self._names.clear()
        if self.display:
            print(self.get_table())
