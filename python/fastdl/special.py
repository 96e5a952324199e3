"""Special functions; see ``torch.special``."""

from fastdl.ops.activation import sigmoid as expit
from fastdl.ops.bessel import i0, i0e, i1, i1e, spherical_bessel_j0
from fastdl.ops.elementwise import erf, expm1, log1p, round
from fastdl.ops.error_functions import erfc, erfcx, erfinv, log_ndtr, ndtr, ndtri
from fastdl.ops.gamma import digamma, polygamma, zeta
from fastdl.ops.gamma import igamma as gammainc
from fastdl.ops.gamma import igammac as gammaincc
from fastdl.ops.gamma import lgamma as gammaln
from fastdl.ops.gamma import mvlgamma as multigammaln
from fastdl.ops.reduce import logsumexp
from fastdl.ops.softmax import log_softmax_method as log_softmax
from fastdl.ops.softmax import softmax_method as softmax
from fastdl.ops.special import entr, exp2, logit, sinc, xlog1py, xlogy
from fastdl.published import publish as _publish

psi = digamma
modified_bessel_i0, modified_bessel_i1 = i0, i1

__all__ = [
    "digamma",
    "entr",
    "erf",
    "erfc",
    "erfcx",
    "erfinv",
    "exp2",
    "expit",
    "expm1",
    "gammainc",
    "gammaincc",
    "gammaln",
    "i0",
    "i0e",
    "i1",
    "i1e",
    "log1p",
    "log_ndtr",
    "log_softmax",
    "logit",
    "logsumexp",
    "modified_bessel_i0",
    "modified_bessel_i1",
    "multigammaln",
    "ndtr",
    "ndtri",
    "polygamma",
    "psi",
    "round",
    "sinc",
    "softmax",
    "spherical_bessel_j0",
    "xlog1py",
    "xlogy",
    "zeta",
]

_publish(
    globals(),
    __all__,
    """digamma entr erfc erfcx erfinv exp2 expit gammainc gammaincc gammaln i0 i0e i1 i1e log_ndtr logit logsumexp
    modified_bessel_i0 modified_bessel_i1 multigammaln ndtr ndtri polygamma psi sinc spherical_bessel_j0 xlog1py
    xlogy zeta""",
)
