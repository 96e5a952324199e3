"""Discrete Fourier transforms; see ``torch.fft``. float32 and complex64 stay in single precision, gradients
included.

``norm`` says where the factor 1 / n is: ``"backward"`` (the default) in inverse transforms, ``"forward"`` in the
others, ``"ortho"`` in both as 1 / sqrt(n). ``n`` or ``s`` cut signals or fill them with zeros before they are
transformed.

Example:
    >>> import fastdl
    >>> fastdl.fft.rfft(fastdl.tensor([1.0, 0.0, 0.0, 0.0]))
    tensor([1.+0.j, 1.+0.j, 1.+0.j])
"""

from fastdl.ops import fft as transforms
from fastdl.ops.fft import *
from fastdl.published import publish as _publish

__all__ = transforms.__all__

_OUT = """
fft fft2 fftfreq fftn hfft hfft2 hfftn ifft ifft2 ifftn ihfft ihfft2 ihfftn irfft irfft2 irfftn rfft rfft2
rfftfreq rfftn
"""
_publish(globals(), __all__, _OUT)
