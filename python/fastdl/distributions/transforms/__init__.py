"""Functions of random variables with the logarithm of their derivative; see ``torch.distributions.transforms``.

A transform of one's own derives from :class:`Transform`, names its ``domain`` and ``codomain`` (constraints, whose
``event_dim`` says how many axes one value has) and defines ``_call``, ``_inverse`` and ``log_abs_det_jacobian``.
"""

from fastdl.distributions.transforms import base, numbers, parts, vectors
from fastdl.distributions.transforms.base import *
from fastdl.distributions.transforms.base import _InverseTransform as _InverseTransform
from fastdl.distributions.transforms.numbers import *
from fastdl.distributions.transforms.parts import *
from fastdl.distributions.transforms.vectors import *

__all__ = [*base.__all__, *numbers.__all__, *parts.__all__, *vectors.__all__]
