"""NumPy definitions of every kernel: short, obvious, and the oracle of the parity tests.

These modules are the contract: a backend has the same functions with the same parameters and results.
"""

from numpy import empty, zeros

from fastdl.kernels.reference.activation import *
from fastdl.kernels.reference.arithmetic import *
from fastdl.kernels.reference.attention import *
from fastdl.kernels.reference.complex import *
from fastdl.kernels.reference.conv import *
from fastdl.kernels.reference.cross_entropy import *
from fastdl.kernels.reference.ctc_loss import *
from fastdl.kernels.reference.distance import *
from fastdl.kernels.reference.elementwise import *
from fastdl.kernels.reference.embedding import *
from fastdl.kernels.reference.fourier import *
from fastdl.kernels.reference.layout import *
from fastdl.kernels.reference.linalg import *
from fastdl.kernels.reference.linear import *
from fastdl.kernels.reference.margin_loss import *
from fastdl.kernels.reference.norm import *
from fastdl.kernels.reference.optim import *
from fastdl.kernels.reference.order import *
from fastdl.kernels.reference.pointwise_loss import *
from fastdl.kernels.reference.pool import *
from fastdl.kernels.reference.random import *
from fastdl.kernels.reference.reduce import *
from fastdl.kernels.reference.resample import *
from fastdl.kernels.reference.rnn import *
from fastdl.kernels.reference.segments import *
from fastdl.kernels.reference.softmax import *
from fastdl.kernels.reference.special import *
from fastdl.kernels.reference.vector_math import *
