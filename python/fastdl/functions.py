# ruff: noqa: F401, F405 -- what is imported here is what is published
"""All operations, by the names of ``torch.*``."""

from types import ModuleType as _ModuleType

from fastdl.ops import complex_rules  # fills what complex inputs need
from fastdl.ops.activation import (
    celu,
    celu_,
    hardshrink,
    prelu,
    relu,
    relu_,
    rrelu,
    rrelu_,
    selu,
    selu_,
    sigmoid,
    tanh,
    threshold,
    threshold_,
)
from fastdl.ops.calculus import *
from fastdl.ops.complex import *
from fastdl.ops.conv import (
    conv_algorithm,
)
from fastdl.ops.counting import argwhere, bincount, bucketize, nonzero, nonzero_static, searchsorted
from fastdl.ops.diagonals import diag, diag_embed, diagflat, tril, triu
from fastdl.ops.distance import cosine_similarity, pairwise_distance
from fastdl.ops.dropout import (
    alpha_dropout,
    dropout,
    feature_alpha_dropout,
    feature_dropout,
)
from fastdl.ops.einsum import (
    einsum,
)
from fastdl.ops.elementwise import (
    abs,
    absolute,
    acos,
    acosh,
    add,
    addcdiv,
    addcmul,
    allclose,
    arccos,
    arccosh,
    arcsin,
    arcsinh,
    arctan,
    arctan2,
    arctanh,
    asin,
    asinh,
    atan,
    atan2,
    atanh,
    bitwise_and,
    bitwise_left_shift,
    bitwise_not,
    bitwise_or,
    bitwise_right_shift,
    bitwise_xor,
    ceil,
    clamp,
    clamp_max,
    clamp_min,
    clip,
    cos,
    cosh,
    div,
    divide,
    eq,
    equal,
    erf,
    exp,
    expm1,
    fix,
    floor,
    floor_divide,
    fmod,
    frac,
    ge,
    greater,
    greater_equal,
    gt,
    hypot,
    isclose,
    isfinite,
    isinf,
    isnan,
    isneginf,
    isposinf,
    le,
    lerp,
    less,
    less_equal,
    log,
    log1p,
    log2,
    log10,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    lt,
    maximum,
    minimum,
    mul,
    multiply,
    ne,
    neg,
    negative,
    not_equal,
    positive,
    pow,
    reciprocal,
    remainder,
    round,
    rsqrt,
    rsub,
    sign,
    signbit,
    sin,
    sinh,
    sqrt,
    square,
    sub,
    subtract,
    tan,
    true_divide,
    trunc,
    where,
)
from fastdl.ops.extreme import (
    amax,
    amin,
    aminmax,
    argmax,
    argmin,
    max,
    median,
    min,
)
from fastdl.ops.gather import (
    gather,
    index_add,
    index_copy,
    index_fill,
    index_select,
    scatter,
    scatter_add,
    take,
    take_along_dim,
)
from fastdl.ops.histogram import *
from fastdl.ops.join import (
    cartesian_prod,
    cat,
    column_stack,
    concat,
    concatenate,
    dstack,
    hstack,
    meshgrid,
    row_stack,
    stack,
    vstack,
)
from fastdl.ops.linear import (
    addbmm,
    addmm,
    addmv,
    baddbmm,
    bmm,
    dot,
    ger,
    matmul,
    mm,
    mv,
    outer,
)
from fastdl.ops.low_rank import *
from fastdl.ops.masks import masked_fill, masked_scatter, masked_select
from fastdl.ops.order import (
    argsort,
    cumprod,
    cumsum,
    kthvalue,
    sort,
    topk,
    unique,
)
from fastdl.ops.parts import (
    chunk,
    diagonal,
    dsplit,
    hsplit,
    narrow,
    split,
    split_with_sizes,
    tensor_split,
    unbind,
    unsafe_chunk,
    unsafe_split,
    vsplit,
)
from fastdl.ops.parts import (
    select_dim as select,
)
from fastdl.ops.placement import *
from fastdl.ops.products import *
from fastdl.ops.promotion import (
    promote_types,
    result_type,
)
from fastdl.ops.query import (
    can_cast,
    finfo,
    iinfo,
    is_conj,
    is_floating_point,
    is_inference,
    is_neg,
    is_nonzero,
    is_same_size,
    is_signed,
    is_tensor,
    numel,
    typename,
)
from fastdl.ops.rare import *
from fastdl.ops.rearrange import flip, fliplr, flipud, repeat_interleave, roll, rot90, tile
from fastdl.ops.reduce import all, any, count_nonzero, logsumexp, mean, prod, sum
from fastdl.ops.sampling import (
    bernoulli,
    binomial,
    multinomial,
    normal,
    poisson,
    rand,
    rand_like,
    randint,
    randint_like,
    randn,
    randn_like,
    randperm,
)
from fastdl.ops.segments import *
from fastdl.ops.softmax import log_softmax_method as log_softmax
from fastdl.ops.softmax import softmax_method as softmax
from fastdl.ops.special import *
from fastdl.ops.spectrogram import *
from fastdl.ops.statistics import *
from fastdl.ops.strided import as_strided
from fastdl.ops.variance import std, std_mean, var, var_mean
from fastdl.ops.views import (
    adjoint,
    atleast_1d,
    atleast_2d,
    atleast_3d,
    broadcast_shapes,
    broadcast_tensors,
    broadcast_to,
    clone,
    flatten,
    moveaxis,
    movedim,
    permute,
    ravel,
    reshape,
    squeeze,
    swapaxes,
    swapdims,
    t,
    transpose,
    unflatten,
    unsqueeze,
)
from fastdl.published import publish as _publish

trapz = trapezoid

__all__ = sorted(
    name for name, value in globals().items() if not (name.startswith("_") or isinstance(value, _ModuleType))
)

# Those that can store their result in a tensor that is there. The elementwise functions write to it themselves.
_OUT = """
addbmm addmm addmv addr all amax amin aminmax angle any argmax argmin as_strided_copy baddbmm bernoulli bmm
bucketize cat chain_matmul column_stack complex concat concatenate conj_physical copysign cross cummax cummin
cumprod cumsum deg2rad detach_copy diag diagonal_copy diff digamma dot dstack erfc erfinv exp2 expand_copy
float_power fmax fmin frac frexp gather gcd ger hardshrink heaviside histc histogram hstack i0 igamma igammac
index_reduce index_select inner isin isneginf isposinf kron kthvalue lcm ldexp lgamma log_softmax logaddexp
logaddexp2 logcumsumexp logit logsumexp masked_select matmul max mean median min mm mode msort multinomial mv
mvlgamma nanmean nanmedian nanquantile nansum narrow_copy nextafter nonzero nonzero_static normal outer
permute_copy polar polygamma prod quantile rad2deg range renorm row_stack scatter_reduce searchsorted select_copy
sigmoid signbit sinc slice_copy slice_scatter softmax sort split_copy split_with_sizes_copy squeeze_copy stack std
std_mean sum t_copy take take_along_dim tanh tensordot threshold topk transpose_copy unbind_copy
unfold_copy unsqueeze_copy var var_mean vdot view_as_complex_copy view_as_real_copy view_copy vstack where xlogy
"""
_publish(globals(), __all__, _OUT)
