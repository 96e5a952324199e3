"""Streams and events: CuPy's, under PyTorch's names."""

from __future__ import annotations

from typing import Any

from fastdl import devices


class Stream:
    """A queue of work on a GPU: kernels in it run one after the other, beside those of other streams.

    Args:
        device: the GPU; None: the current one.
        priority: lower numbers go first.

    Every operation goes to the current stream, see :func:`stream`. Memory that one stream freed may be reused by that
    stream only.
    """

    def __init__(self, device: Any = None, priority: int = 0, *, _stream: Any = None) -> None:
        if _stream is None:
            cuda = devices.cupy().cuda
            with cuda.Device(devices.index("Stream", device)):
                _stream = cuda.Stream(non_blocking=True, priority=priority)
        self._stream = _stream

    @property
    def cuda_stream(self) -> int:
        """The handle (a ``cudaStream_t`` as an integer)."""
        return self._stream.ptr  # type: ignore[no-any-return]

    def synchronize(self) -> None:
        """Wait until all work of the stream is done."""
        self._stream.synchronize()
        devices.raise_reports()

    def query(self) -> bool:
        """Is all work of the stream done?"""
        return bool(self._stream.done)

    def record_event(self, event: Event | None = None) -> Event:
        """Mark this point of the stream."""
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """Work submitted from now on waits for the event."""
        self._stream.wait_event(event._event)

    def wait_stream(self, stream: Stream) -> None:
        """Work submitted from now on waits for what is in the other stream now."""
        self.wait_event(stream.record_event())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.cuda_stream == self.cuda_stream

    def __hash__(self) -> int:
        return hash(self.cuda_stream)

    def __repr__(self) -> str:
        return f"<fastdl.cuda.Stream cuda_stream={self.cuda_stream:#x}>"


class ExternalStream(Stream):
    """A stream that another library made, by its handle."""

    def __init__(self, stream_ptr: int, device: Any = None) -> None:
        super().__init__(_stream=devices.cupy().cuda.Stream.from_external(_Handle(stream_ptr)))


class _Handle:
    """A handle as CuPy takes it, which deprecates plain numbers: an object of the CUDA stream protocol."""

    def __init__(self, ptr: int) -> None:
        self.ptr = ptr

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.ptr


class Event:
    """A point in a stream, to wait for and to measure time between.

    Args:
        enable_timing: the event can be given to :meth:`elapsed_time`.
        blocking: :meth:`synchronize` sleeps instead of spinning.
        interprocess: the event can be shared with other processes.

    Example:
        >>> import fastdl
        >>> if fastdl.cuda.is_available():
        ...     start, end = [fastdl.cuda.Event(enable_timing=True) for _ in range(2)]
        ...     start.record()
        ...     y = fastdl.rand(100, 100, device="cuda").exp()
        ...     end.record()
        ...     end.synchronize()
        ...     milliseconds = start.elapsed_time(end)
    """

    def __init__(
        self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False
    ) -> None:
        self._event = devices.cupy().cuda.Event(blocking, not enable_timing, interprocess)

    def record(self, stream: Stream | None = None) -> None:
        """Mark the present end of a stream (the current one)."""
        self._event.record((current_stream() if stream is None else stream)._stream)

    def wait(self, stream: Stream | None = None) -> None:
        """Work that the stream (the current one) gets from now on waits for the event."""
        (current_stream() if stream is None else stream).wait_event(self)

    def query(self) -> bool:
        """Has the stream passed the event?"""
        return bool(self._event.done)

    def synchronize(self) -> None:
        """Wait for the event."""
        self._event.synchronize()
        devices.raise_reports()

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds between this event and a later one; both made with ``enable_timing=True``, and passed."""
        return float(devices.cupy().cuda.get_elapsed_time(self._event, end_event._event))


def current_stream(device: Any = None) -> Stream:
    """The stream that operations go to."""
    return Stream(_stream=devices.cupy().cuda.get_current_stream())


def default_stream(device: Any = None) -> Stream:
    """The stream that is current unless another is entered."""
    return Stream(_stream=devices.cupy().cuda.Stream.null)


class StreamContext:
    """What :func:`stream` returns."""

    def __init__(self, stream: Stream | None) -> None:
        self.stream = stream

    def __enter__(self) -> Stream | None:
        if self.stream is not None:
            self.stream._stream.__enter__()
        return self.stream

    def __exit__(self, *exception: object) -> None:
        if self.stream is not None:
            self.stream._stream.__exit__(*exception)


def stream(stream: Stream | None) -> StreamContext:
    """``with fastdl.cuda.stream(s):`` operations go to ``s`` inside; with None nothing changes."""
    return StreamContext(stream)


def synchronize(device: Any = None) -> None:
    """Wait until all work on a GPU (the current one) is done."""
    cuda = devices.cupy().cuda
    with cuda.Device(devices.index("synchronize", device)):
        cuda.runtime.deviceSynchronize()
    devices.raise_reports()
