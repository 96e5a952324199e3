"""Probability distributions with ``sample``, ``log_prob``, ``entropy`` and KL divergences; see ``torch.distributions``.

Example:
    >>> import fastdl
    >>> from fastdl.distributions import Normal, kl_divergence
    >>> p, q = Normal(0.0, 1.0), Normal(1.0, 1.0)
    >>> round(p.log_prob(fastdl.tensor(0.0)).item(), 4), round(kl_divergence(p, q).item(), 4)
    (-0.9189, 0.5)
"""

from fastdl.distributions import constraints as constraints
from fastdl.distributions import kl_pairs as kl_pairs
from fastdl.distributions import transforms as transforms
from fastdl.distributions import utils as utils
from fastdl.distributions.binary import *
from fastdl.distributions.categorical import *
from fastdl.distributions.constraint_registry import *
from fastdl.distributions.count import *
from fastdl.distributions.distribution import *
from fastdl.distributions.exponential_family import *
from fastdl.distributions.gamma import *
from fastdl.distributions.independent import *
from fastdl.distributions.kl import *
from fastdl.distributions.location_scale import *
from fastdl.distributions.matrix import *
from fastdl.distributions.multivariate_normal import *
from fastdl.distributions.normal import *
from fastdl.distributions.positive import *
from fastdl.distributions.transformed_distribution import *
from fastdl.distributions.transforms import *
from fastdl.distributions.unit import *
from fastdl.distributions.von_mises import *
from fastdl.paths import lead_to

lead_to(
    __name__,
    """bernoulli beta binomial cauchy chi2 continuous_bernoulli dirichlet exp_family exponential fishersnedecor
    generalized_pareto geometric gumbel half_cauchy half_normal inverse_gamma kumaraswamy laplace lkj_cholesky
    log_normal logistic_normal lowrank_multivariate_normal mixture_same_family multinomial negative_binomial
    one_hot_categorical pareto poisson relaxed_bernoulli relaxed_categorical studentT uniform weibull wishart""",
)
