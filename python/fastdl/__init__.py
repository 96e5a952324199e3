"""fastdl: a small, fast deep-learning library. Handwritten kernels behind PyTorch's names."""

__version__ = "0.1.0"

from math import e, inf, nan, pi

from fastdl import autograd, cuda, methods
from fastdl.autograd import enable_grad, inference_mode, is_grad_enabled, no_grad, set_grad_enabled
from fastdl.creation import (
    arange,
    as_tensor,
    asarray,
    empty,
    empty_like,
    eye,
    from_dlpack,
    from_numpy,
    frombuffer,
    full,
    full_like,
    linspace,
    logspace,
    ones,
    ones_like,
    scalar_tensor,
    tensor,
    tril_indices,
    triu_indices,
    zeros,
    zeros_like,
)
from fastdl.dtypes import bool_ as bool
from fastdl.dtypes import (
    device,
    dtype,
    float16,
    float32,
    float64,
    get_default_dtype,
    int8,
    int16,
    int32,
    int64,
    set_default_dtype,
    uint8,
    uint16,
    uint32,
    uint64,
)
from fastdl.dtypes import float16 as half
from fastdl.dtypes import float32 as float
from fastdl.dtypes import float64 as double
from fastdl.dtypes import int16 as short
from fastdl.dtypes import int32 as int
from fastdl.dtypes import int64 as long
from fastdl.kernels import use_backend
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
from fastdl.ops.conv import conv_algorithm
from fastdl.ops.dropout import alpha_dropout, dropout, feature_alpha_dropout, feature_dropout
from fastdl.ops.einsum import einsum
from fastdl.ops.gather import (
    argwhere,
    bincount,
    bucketize,
    count_nonzero,
    gather,
    index_add,
    index_copy,
    index_fill,
    index_select,
    masked_fill,
    masked_scatter,
    masked_select,
    nonzero,
    scatter,
    scatter_add,
    searchsorted,
    take,
    take_along_dim,
)
from fastdl.ops.linear import addmm, addmv, baddbmm, bmm, dot, matmul, mm, mv, outer
from fastdl.ops.query import can_cast, finfo, iinfo, is_floating_point, is_tensor, numel
from fastdl.ops.shape import (
    cartesian_prod,
    cat,
    column_stack,
    concat,
    concatenate,
    diag,
    diag_embed,
    diagflat,
    dstack,
    flip,
    fliplr,
    flipud,
    hstack,
    meshgrid,
    repeat_interleave,
    roll,
    rot90,
    row_stack,
    stack,
    tile,
    tril,
    triu,
    vstack,
)
from fastdl.ops.views import (
    as_strided,
    atleast_1d,
    atleast_2d,
    atleast_3d,
    broadcast_shapes,
    broadcast_tensors,
    broadcast_to,
    chunk,
    clone,
    diagonal,
    flatten,
    moveaxis,
    movedim,
    narrow,
    permute,
    ravel,
    reshape,
    split,
    squeeze,
    swapaxes,
    swapdims,
    t,
    tensor_split,
    transpose,
    unbind,
    unflatten,
    unsqueeze,
)
from fastdl.ops.views import select_dim as select
from fastdl.printing import set_printoptions
from fastdl.random import Generator, default_generator, get_rng_state, initial_seed, manual_seed, seed, set_rng_state
from fastdl.runtime import (
    empty_cache,
    get_num_threads,
    memory_stats,
    reset_peak_memory_stats,
    set_num_threads,
    show_config,
)
from fastdl.serialization import load, save
from fastdl.tensor import Tensor

from fastdl import nn, optim, utils  # isort: skip - they build on the names above

Size = tuple
