"""Special functions; see ``torch.special``."""

from fastdl.ops.activation import sigmoid as expit
from fastdl.ops.elementwise import erf, expm1, log1p, round
from fastdl.ops.reduce import logsumexp
from fastdl.ops.softmax import log_softmax_method as log_softmax
from fastdl.ops.softmax import softmax_method as softmax
from fastdl.ops.special import digamma, erfc, erfinv, exp2, i0, logit, sinc, xlogy
from fastdl.ops.special import lgamma as gammaln
from fastdl.published import publish

psi = digamma

__all__ = [
    "digamma",
    "erf",
    "erfc",
    "erfinv",
    "exp2",
    "expit",
    "expm1",
    "gammaln",
    "i0",
    "log1p",
    "log_softmax",
    "logit",
    "logsumexp",
    "psi",
    "round",
    "sinc",
    "softmax",
    "xlogy",
]

publish(globals(), __all__, "digamma erfc erfinv exp2 expit gammaln i0 logit logsumexp psi sinc xlogy")
