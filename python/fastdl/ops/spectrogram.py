"""Short-time Fourier transforms: the spectra of pieces of a signal, and the signal of such spectra."""

from __future__ import annotations

from typing import Any

from fastdl.autograd.op import Op
from fastdl.errors import warn_caller
from fastdl.ops.fourier import complex_transform, inverse_real_transform, real_transform
from fastdl.ops.parts import Windows, overlapped
from fastdl.ops.resample import pad
from fastdl.tensor import Tensor

__all__ = ["istft", "stft"]


class Overlap(Op):
    """Pieces (batch, count, size) added up, each ``hop`` after the one before: the adjoint of ``unfold``."""

    takes_complex = True
    aliases_grad = True

    def forward(self, pieces: Any, hop: int) -> Any:
        batch, count, size = pieces.shape
        self.hop, self.size = hop, size
        return overlapped(pieces, 1, hop, (batch, size + hop * (count - 1)))

    def backward(self, grad: Any) -> Any:
        return Windows.of(grad, 1, self.size, self.hop)

    def backward_graph(self, grad: Tensor) -> Any:
        return grad.unfold(1, self.size, self.hop)


def _window(op: str, window: Tensor | None, n_fft: int, win_length: int, like: Tensor) -> Tensor | None:
    """The window in the middle of ``n_fft`` samples; None for ones all over."""
    if window is None:
        if win_length == n_fft:
            return None
        from fastdl.dtypes import real_dtype

        window = like.new_ones(win_length, dtype=real_dtype(like._data.dtype))
    elif window.ndim != 1 or len(window) != win_length:
        raise RuntimeError(
            f"{op}: expected a 1D window tensor of size equal to win_length={win_length}, but got window with size "
            f"{tuple(window.shape)}"
        )
    left = (n_fft - win_length) // 2
    return pad(window, [left, n_fft - win_length - left]) if win_length < n_fft else window


def stft(
    input: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    pad_mode: str = "reflect",
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
) -> Tensor:
    """The spectra of pieces of ``n_fft`` samples, ``hop_length`` apart: (.., frequencies, pieces). See ``torch.stft``.

    Args:
        input: ``(samples,)`` or ``(batch, samples)``, real or complex.
        hop_length: by default n_fft // 4.
        win_length: by default n_fft.
        window: ``(win_length,)``, multiplied with each piece, in its middle; by default ones.
        center: piece t has sample t hop_length in its middle; the ends are continued as ``pad_mode`` says.
        normalized: divide by sqrt(n_fft).
        onesided: half of the spectrum; by default for real signals and windows.
        return_complex: must be True, or False for real and imaginary parts as a last axis (PyTorch's older form).

    Example:
        >>> import fastdl
        >>> fastdl.stft(fastdl.ones(16), 8, window=fastdl.hann_window(8), return_complex=True).shape
        (5, 9)
    """
    hop = n_fft // 4 if hop_length is None else hop_length
    length = n_fft if win_length is None else win_length
    if return_complex is None:
        if not input.is_complex() and not (window is not None and window.is_complex()):
            raise RuntimeError(
                "stft requires the return_complex parameter be given for real inputs, and will further require that "
                "return_complex=True in a future PyTorch release"
            )
        return_complex = True
    if not return_complex:
        warn_caller("stft: return_complex=False is PyTorch's older form")
    if input.ndim not in (1, 2):
        raise RuntimeError(f"stft: expected a 1D or 2D tensor, got shape {tuple(input.shape)}")
    single = input.ndim == 1
    x = input.unsqueeze(0) if single else input
    if center:
        x = pad(x.unsqueeze(1), [n_fft // 2, n_fft // 2], pad_mode).squeeze(1)
    if not 0 < n_fft <= x.shape[-1]:
        raise RuntimeError(f"stft: expected 0 < n_fft <= {x.shape[-1]}, but got n_fft={n_fft}")
    if hop <= 0:
        raise RuntimeError(f"stft: expected hop_length > 0, but got hop_length={hop}")
    if not 0 < length <= n_fft:
        raise RuntimeError(f"stft: expected 0 < win_length <= n_fft, but got win_length={length}")
    weights = _window("stft", window, n_fft, length, input)
    pieces = x.unfold(-1, n_fft, hop)
    if weights is not None:
        pieces = pieces * weights
    norm = "ortho" if normalized else "backward"
    is_complex = pieces.is_complex()
    if onesided is None:
        onesided = not is_complex
    if onesided and is_complex:
        raise RuntimeError("stft: Cannot have onesided output if window or input is complex")
    transform = real_transform if onesided else complex_transform
    options = () if onesided else (False,)
    spectra = transform("stft", pieces, None, (-1,), norm, *options).transpose(1, 2)
    if single:
        spectra = spectra.squeeze(0)
    from fastdl.ops.complex import view_as_real

    return spectra if return_complex else view_as_real(spectra)


def istft(
    input: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: int | None = None,
    return_complex: bool = False,
) -> Tensor:
    """The signal of spectra as :func:`stft` makes them: pieces overlap and add, divided by the windows' squares.

    Args:
        input: ``(frequencies, pieces)`` or ``(batch, frequencies, pieces)``, complex.
        length: of the result; by default what the pieces cover.
        return_complex: the signal is complex.

    Raises:
        RuntimeError: where the windows add up to 0. See ``torch.istft``.
    """
    hop = n_fft // 4 if hop_length is None else hop_length
    win = n_fft if win_length is None else win_length
    if not input.is_complex():
        raise RuntimeError(
            f"istft requires a complex-valued input tensor matching the output from stft with return_complex=True, got "
            f"{input.dtype}"
        )
    if input.ndim not in (2, 3):
        raise RuntimeError(f"istft: expected a tensor with 2 or 3 dimensions, got shape {tuple(input.shape)}")
    if not 0 < hop <= win or not 0 < win <= n_fft:
        raise RuntimeError(
            f"istft: expected 0 < hop_length <= win_length <= n_fft, got {hop}, {win} and {n_fft}"
        )
    single = input.ndim == 2
    x = (input.unsqueeze(0) if single else input).transpose(1, 2)
    if x.shape[1] == 0:
        raise RuntimeError("istft: expected at least one piece, got none")
    if onesided is None:
        onesided = x.shape[-1] != n_fft
    frequencies = n_fft // 2 + 1 if onesided else n_fft
    if x.shape[-1] != frequencies:
        raise RuntimeError(
            "istft: expected the frequency dimension (3rd to the last) of the input tensor to match n_fft / 2 + 1 "
            f"when onesided=True, or n_fft when onesided=False: {frequencies}, but got {x.shape[-1]}"
        )
    if return_complex and onesided:
        raise RuntimeError("istft: cannot have onesided output if window or input is complex")
    weights = _window("istft", window, n_fft, win, input)
    norm = "ortho" if normalized else "backward"
    if return_complex:
        pieces = complex_transform("istft", x, None, (-1,), norm, True)
    else:
        half = x if onesided else x.narrow(-1, 0, n_fft // 2 + 1)
        pieces = inverse_real_transform("istft", half, [n_fft], (-1,), norm)
    if weights is None:
        weights = pieces.new_ones(n_fft)
    covered = n_fft + hop * (x.shape[1] - 1)
    signal: Tensor = Overlap.apply(pieces * weights, hop=hop)
    squares = (weights * weights).expand(1, x.shape[1], n_fft)
    envelope = Overlap.apply(squares, hop=hop).squeeze(0)
    start = n_fft // 2 if center else 0
    end = covered - (n_fft // 2 if center else 0) if length is None else start + length
    signal, envelope = signal[:, start:end], envelope[start:end]
    if bool((envelope.detach().abs() < 1e-11).any()):
        raise RuntimeError(
            "istft: window overlap add min: 1; the windows add up to 0 somewhere, where nothing is known of the signal"
        )
    signal = signal / envelope
    if length is not None and signal.shape[1] < length:
        warn_caller(
            "istft: the length of the signal is shorter than the length parameter; it is filled with zeros"
        )
        signal = pad(signal, [0, length - signal.shape[1]])
    return signal.squeeze(0) if single else signal
