"""CUDA graphs: a piece of a program recorded once, kernels and memory, and replayed by one call.

A replay runs the same kernels on the same addresses: new inputs are copied into the arrays that the recording read,
and results are found in the arrays that it wrote. Recorded arrays come from a memory pool of the graph's own, so that
nobody else is given their memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastdl import devices
from fastdl.autograd.gradients import grad
from fastdl.autograd.mode import enable_grad
from fastdl.autograd.op import Op
from fastdl.cuda.streams import Stream, current_stream, synchronize
from fastdl.kernels import capture
from fastdl.random import RecordedStream
from fastdl.tensor import Tensor


def is_current_stream_capturing() -> bool:
    """Is a graph being recorded?"""
    return capture.active


def graph_pool_handle() -> Any:
    """A memory pool to give to several graphs that are never replayed at the same time."""
    return devices.cupy().cuda.MemoryPool()


class CUDAGraph:
    """A recorded piece of a program; see :class:`graph` for how to record it, and ``torch.cuda.CUDAGraph``.

    What is recorded must not wait for the GPU (``.item()``, ``.cpu()``, printing, ``x[mask]``, indices checked on the
    CPU) or copy to it (``tensor([...])``, ``.cuda()``, ``linspace``). Dropout and other random operations on the GPU
    draw new numbers in every replay: those that they would draw if they ran then, so ``manual_seed`` before a replay
    repeats them.
    """

    def __init__(self, keep_graph: bool = False) -> None:
        self._graph: Any = None
        self._pool: Any = None
        self._recording: Any = None
        self._random: list[RecordedStream] = []

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
        """Record from now on what goes to the current stream, which must not be the default one."""
        if capture.active:
            raise RuntimeError("CUDAGraph: another graph is being recorded")
        cupy = devices.cupy()
        stream = cupy.cuda.get_current_stream()
        if stream.ptr == 0:
            raise RuntimeError(
                "CUDAGraph: the default stream cannot be recorded; use fastdl.cuda.graph(g), which takes another"
            )
        self._graph = None  # its memory goes
        self._pool = cupy.cuda.MemoryPool() if pool is None else pool
        allocator = cupy.cuda.using_allocator(self._pool.malloc)
        allocator.__enter__()
        try:
            stream.begin_capture()
        except BaseException:
            allocator.__exit__(None, None, None)
            raise
        capture.active, capture.streams = True, {}
        self._recording = stream, allocator

    def capture_end(self) -> None:
        """Stop recording."""
        if self._recording is None:
            raise RuntimeError("CUDAGraph: capture_end() without capture_begin()")
        stream, allocator = self._recording
        self._recording = None
        capture.active = False
        self._random = list(capture.streams.values())
        for drawn in self._random:
            drawn.end()
        try:
            self._graph = stream.end_capture()
        finally:
            allocator.__exit__(None, None, None)

    def replay(self) -> None:
        """Run the recorded work once, in the current stream."""
        if self._graph is None:
            raise RuntimeError("CUDAGraph: nothing was recorded yet")
        for drawn in self._random:
            drawn.replay()
        self._graph.launch(devices.cupy().cuda.get_current_stream())

    def reset(self) -> None:
        """Forget the recording and its memory."""
        self._graph = self._pool = None
        self._random = []

    def pool(self) -> Any:
        """The memory pool, for another graph that is never replayed at the same time."""
        return self._pool


class graph:
    """``with fastdl.cuda.graph(g):`` what is computed inside is recorded in ``g``, not executed.

    Args:
        cuda_graph: the :class:`CUDAGraph`.
        pool: a memory pool to share with other graphs, see :func:`graph_pool_handle`.
        stream: where to record; None: a stream of its own.

    Run the code once or twice before recording it, so that optimizers have their state and caches are filled.

    Example:
        >>> import fastdl
        >>> if fastdl.cuda.is_available():
        ...     x = fastdl.zeros(4, device="cuda")
        ...     g = fastdl.cuda.CUDAGraph()
        ...     with fastdl.cuda.graph(g):
        ...         y = x * 2
        ...     x.fill_(3)
        ...     g.replay()  # now y is full of 6
    """

    _own: Stream | None = None

    def __init__(
        self,
        cuda_graph: CUDAGraph,
        pool: Any = None,
        stream: Stream | None = None,
        capture_error_mode: str = "global",
    ) -> None:
        self.cuda_graph = cuda_graph
        self.pool = pool
        if stream is None:
            if graph._own is None:
                graph._own = Stream()
            stream = graph._own
        self.stream = stream

    def __enter__(self) -> None:
        synchronize()
        self.stream.wait_stream(current_stream())
        self.stream._stream.__enter__()
        try:
            self.cuda_graph.capture_begin(self.pool)
        except BaseException:
            self.stream._stream.__exit__(None, None, None)
            raise

    def __exit__(self, kind: Any, *exception: object) -> None:
        try:
            self.cuda_graph.capture_end()
        except RuntimeError:  # the recording became invalid; why, the error inside says
            if kind is None:
                raise
        finally:
            self.stream._stream.__exit__(None, None, None)
        if kind is not None:
            self.cuda_graph.reset()


class _Replayed(Op):
    """A recorded forward pass; its backward is recorded as well. Inputs are copied to where the recording reads."""

    aliases_grad = True  # the recording's own arrays
    takes_complex = True

    def forward(self, *arrays: Any, graphed: _Graphed) -> Any:
        self.graphed = graphed
        graphed.load(graphed.inputs, arrays)
        graphed.forward_graph.replay()
        outputs = tuple([o._data for o in graphed.outputs])
        return outputs if graphed.several else outputs[0]

    def backward(self, *grads: Any) -> Any:
        graphed = self.graphed
        graphed.load(graphed.grad_outputs, grads)
        graphed.backward_graph.replay()
        return tuple([None if g is None else g._data for g in graphed.grad_inputs])


class _Graphed:
    """The recordings of one callable, and the arrays that they read and write."""

    def __init__(self, call: Callable[..., Any], args: Sequence[Tensor], warmup: int, pool: Any) -> None:
        self.parameters = (
            [p for p in call.parameters() if p.requires_grad] if hasattr(call, "parameters") else []
        )
        self.inputs = [*args, *self.parameters]
        differentiable = [t for t in self.inputs if t.requires_grad]
        own = Stream()
        own.wait_stream(current_stream())
        with own._stream, enable_grad():
            for _ in range(warmup):
                outputs = _tuple(call(*args))
                self._gradients(outputs, differentiable)
        current_stream().wait_stream(own)
        self.forward_graph, self.backward_graph = CUDAGraph(), CUDAGraph()
        with enable_grad(), graph(self.forward_graph, pool):
            result = call(*args)
        self.several = isinstance(result, (tuple, list))
        self.outputs = _tuple(result)
        self.grad_outputs = [Tensor._wrap(o._data.copy()) if o.requires_grad else None for o in self.outputs]
        with graph(self.backward_graph, self.forward_graph.pool()):
            found = self._gradients(self.outputs, differentiable, self.grad_outputs)
        gradients = iter(found)
        self.grad_inputs = [next(gradients, None) if t.requires_grad else None for t in self.inputs]

    @staticmethod
    def _gradients(
        outputs: Sequence[Tensor], inputs: Sequence[Tensor], grad_outputs: Any = None
    ) -> Sequence[Any]:
        """The gradients of the inputs; None for those that the outputs do not depend on."""
        wanted = [i for i, o in enumerate(outputs) if o.requires_grad]
        if not wanted or not inputs:
            return [None] * len(inputs)
        if grad_outputs is None:
            grad_outputs = [Tensor._wrap(o._data.copy()) for o in outputs]
        return grad(
            [outputs[i] for i in wanted], inputs, [grad_outputs[i] for i in wanted], allow_unused=True
        )

    @staticmethod
    def load(places: Sequence[Tensor | None], arrays: Sequence[Any]) -> None:
        """Copy arrays to where the recording reads them, unless they are there."""
        for place, array in zip(places, arrays, strict=True):
            if place is not None and array is not None and array is not place._data:
                place._data[...] = array

    def __call__(self, *args: Tensor) -> Any:
        if len(args) != len(self.inputs) - len(self.parameters):
            raise TypeError(
                f"make_graphed_callables: recorded with {len(self.inputs) - len(self.parameters)} arguments, got "
                f"{len(args)}"
            )
        for i, (given, recorded) in enumerate(zip(args, self.inputs, strict=False)):
            if given.shape != recorded.shape or given.dtype != recorded.dtype:
                raise ValueError(
                    f"make_graphed_callables: argument {i} was recorded as {recorded.shape}, {recorded.dtype}, got "
                    f"{given.shape}, {given.dtype}; a recording holds for one shape"
                )
        return _Replayed.apply(*args, *self.parameters, graphed=self)


def _tuple(value: Any) -> tuple[Tensor, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def make_graphed_callables(
    callables: Any,
    sample_args: Any,
    num_warmup_iters: int = 3,
    allow_unused_input: bool = False,
    pool: Any = None,
) -> Any:
    """A function or module (or a tuple of them) whose forward and backward passes are recordings.

    Args:
        callables: what to record; a module keeps its parameters and its ``forward`` becomes the recording.
        sample_args: tensors as they will be passed (a tuple of such tuples for several callables): shapes, dtypes and
            ``requires_grad`` count, values do not.
        num_warmup_iters: runs before recording.
        allow_unused_input: accepted; inputs that outputs do not depend on get no gradient.
        pool: see :func:`graph_pool_handle`.

    See ``torch.cuda.make_graphed_callables``.
    """
    several = isinstance(callables, tuple)
    calls = callables if several else (callables,)
    samples = sample_args if several else (sample_args,)
    if len(calls) != len(samples):
        raise ValueError(
            f"make_graphed_callables: {len(calls)} callables need as many tuples of arguments, got {len(samples)}"
        )
    results = []
    for call, args in zip(calls, samples, strict=True):
        graphed = _Graphed(call, _tuple(args), num_warmup_iters, pool)
        if hasattr(call, "parameters"):
            call.forward = graphed
            results.append(call)
        else:
            results.append(graphed)
    return tuple(results) if several else results[0]
