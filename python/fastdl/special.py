"""Special functions; see ``torch.special``."""

from fastdl.ops.activation import sigmoid as expit
from fastdl.ops.bessel import i0, i0e, i1, i1e
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
    "multigammaln",
    "ndtr",
    "ndtri",
    "polygamma",
    "psi",
    "round",
    "sinc",
    "softmax",
    "xlog1py",
    "xlogy",
    "zeta",
]

_publish(
    globals(),
    __all__,
    """digamma entr erfc erfcx erfinv exp2 expit gammainc gammaincc gammaln i0 i0e i1 i1e log_ndtr logit logsumexp
    multigammaln ndtr ndtri polygamma psi sinc xlog1py xlogy zeta""",
)
