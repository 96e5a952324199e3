"""fastdl: a small, fast deep-learning library. Handwritten kernels behind PyTorch's names."""

__version__ = "0.1.0"

from math import e, inf, nan, pi
from typing import Any

from fastdl import (
    amp,
    autograd,
    cuda,
    fft,
    functions,
    linalg,
    matrices,
    methods,
    random,
    sparse,
    special,
    testing,
    unbound,
    windows,
)
from fastdl.absent import explain_imports as _explain_imports
from fastdl.amp import autocast, get_autocast_dtype, is_autocast_enabled
from fastdl.autograd import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    no_grad,
    set_grad_enabled,
)
from fastdl.compat import (
    _check,
    _check_tensor_all_with,
    _check_with,
    are_deterministic_algorithms_enabled,
    channels_last,
    channels_last_3d,
    compile,
    cond,
    contiguous_format,
    get_deterministic_debug_mode,
    get_float32_matmul_precision,
    get_num_interop_threads,
    layout,
    legacy_contiguous_format,
    memory_format,
    preserve_format,
    set_default_tensor_type,
    set_deterministic_debug_mode,
    set_float32_matmul_precision,
    set_flush_denormal,
    set_num_interop_threads,
    sparse_coo,
    sparse_csc,
    sparse_csr,
    strided,
    use_deterministic_algorithms,
)
from fastdl.creation import (
    as_tensor,
    asarray,
    empty,
    empty_like,
    empty_strided,
    eye,
    from_dlpack,
    from_numpy,
    frombuffer,
    full,
    full_like,
    ones,
    ones_like,
    scalar_tensor,
    tensor,
    zeros,
    zeros_like,
)
from fastdl.cuda import Event, Stream
from fastdl.devices import get_default_device, get_device_module, set_default_device
from fastdl.dtypes import (
    Size,
    complex64,
    complex128,
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
from fastdl.dtypes import (
    bool_ as bool,
)
from fastdl.dtypes import (
    complex64 as cfloat,
)
from fastdl.dtypes import (
    complex128 as cdouble,
)
from fastdl.dtypes import (
    float16 as half,
)
from fastdl.dtypes import (
    float32 as float,
)
from fastdl.dtypes import (
    float64 as double,
)
from fastdl.dtypes import (
    int16 as short,
)
from fastdl.dtypes import (
    int32 as int,
)
from fastdl.dtypes import (
    int64 as long,
)
from fastdl.functions import *
from fastdl.kernels import (
    use_backend,
)
from fastdl.matrices import *
from fastdl.printing import (
    set_printoptions,
)
from fastdl.published import MADE as _MADE
from fastdl.published import publish as _publish
from fastdl.random import (
    Generator,
    default_generator,
    get_rng_state,
    initial_seed,
    manual_seed,
    seed,
    set_rng_state,
)
from fastdl.runtime import (
    empty_cache,
    get_num_threads,
    memory_stats,
    reset_peak_memory_stats,
    set_num_threads,
    show_config,
)
from fastdl.sequences import (
    arange,
    linspace,
    logspace,
    tril_indices,
    triu_indices,
)
from fastdl.serialization import load, save
from fastdl.sparse.creation import (
    sparse_compressed_tensor,
    sparse_coo_tensor,
    sparse_csc_tensor,
    sparse_csr_tensor,
)
from fastdl.sparse.products import hspmm, smm, sspaddmm
from fastdl.sparse.products import mm as dsmm
from fastdl.sparse.products import mm as spmm
from fastdl.tensor import Tensor
from fastdl.typed import (
    BoolTensor,
    ByteTensor,
    CharTensor,
    DoubleTensor,
    FloatTensor,
    HalfTensor,
    IntTensor,
    LongTensor,
    ShortTensor,
)
from fastdl.unbound import *
from fastdl.untyped_storage import UntypedStorage
from fastdl.windows import *

from fastdl import func, nn, optim, utils  # isort: skip - they build on the names above
from fastdl.func import vmap  # isort: skip
from fastdl.nn.functional import (  # isort: skip
    adaptive_avg_pool1d,
    adaptive_max_pool1d,
    avg_pool1d,
    bilinear,
    binary_cross_entropy_with_logits,
    cdist,
    channel_shuffle,
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
    cosine_embedding_loss,
    ctc_loss,
    group_norm,
    hinge_embedding_loss,
    kl_div,
    layer_norm,
    margin_ranking_loss,
    max_pool1d,
    max_pool2d,
    max_pool3d,
    pdist,
    pixel_shuffle,
    pixel_unshuffle,
    poisson_nll_loss,
    rms_norm,
    triplet_margin_loss,
)


newaxis = None  # x[:, newaxis], as in NumPy

_publish(globals(), _MADE, " ".join(_MADE))
_publish(globals(), ["tril_indices", "triu_indices"])
_publish(globals(), [f"{_name}_like" for _name in ("empty", "full", "ones", "zeros")])
_publish(globals(), [f"{_name}_window" for _name in ("bartlett", "blackman", "hamming", "hann", "kaiser")])
_explain_imports()

__all__ = [
    "BoolTensor",
    "ByteTensor",
    "CharTensor",
    "DoubleTensor",
    "Event",
    "FloatTensor",
    "Generator",
    "HalfTensor",
    "IntTensor",
    "LongTensor",
    "ShortTensor",
    "Size",
    "Stream",
    "Tensor",
    "UntypedStorage",
    "adaptive_avg_pool1d",
    "adaptive_max_pool1d",
    "amp",
    "arange",
    "are_deterministic_algorithms_enabled",
    "as_tensor",
    "asarray",
    "autocast",
    "autograd",
    "avg_pool1d",
    "bilinear",
    "binary_cross_entropy_with_logits",
    "bool",
    "cdist",
    "cdouble",
    "cfloat",
    "channel_shuffle",
    "channels_last",
    "channels_last_3d",
    "compile",
    "complex64",
    "complex128",
    "cond",
    "contiguous_format",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "cosine_embedding_loss",
    "ctc_loss",
    "cuda",
    "default_generator",
    "device",
    "double",
    "dsmm",
    "dtype",
    "e",
    "empty",
    "empty_cache",
    "empty_like",
    "empty_strided",
    "enable_grad",
    "eye",
    "fft",
    "float",
    "float16",
    "float32",
    "float64",
    "from_dlpack",
    "from_numpy",
    "frombuffer",
    "full",
    "full_like",
    "func",
    "get_autocast_dtype",
    "get_default_device",
    "get_default_dtype",
    "get_deterministic_debug_mode",
    "get_device_module",
    "get_float32_matmul_precision",
    "get_num_interop_threads",
    "get_num_threads",
    "get_rng_state",
    "group_norm",
    "half",
    "hinge_embedding_loss",
    "hspmm",
    "inf",
    "inference_mode",
    "initial_seed",
    "int",
    "int8",
    "int16",
    "int32",
    "int64",
    "is_autocast_enabled",
    "is_grad_enabled",
    "kl_div",
    "layer_norm",
    "layout",
    "legacy_contiguous_format",
    "linalg",
    "linspace",
    "load",
    "logspace",
    "long",
    "manual_seed",
    "margin_ranking_loss",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "memory_format",
    "memory_stats",
    "nan",
    "newaxis",
    "nn",
    "no_grad",
    "ones",
    "ones_like",
    "optim",
    "pdist",
    "pi",
    "pixel_shuffle",
    "pixel_unshuffle",
    "poisson_nll_loss",
    "preserve_format",
    "random",
    "reset_peak_memory_stats",
    "rms_norm",
    "save",
    "scalar_tensor",
    "seed",
    "set_default_device",
    "set_default_dtype",
    "set_default_tensor_type",
    "set_deterministic_debug_mode",
    "set_float32_matmul_precision",
    "set_flush_denormal",
    "set_grad_enabled",
    "set_num_interop_threads",
    "set_num_threads",
    "set_printoptions",
    "set_rng_state",
    "short",
    "show_config",
    "smm",
    "sparse",
    "sparse_compressed_tensor",
    "sparse_coo",
    "sparse_coo_tensor",
    "sparse_csc",
    "sparse_csc_tensor",
    "sparse_csr",
    "sparse_csr_tensor",
    "special",
    "spmm",
    "sspaddmm",
    "strided",
    "tensor",
    "testing",
    "tril_indices",
    "triplet_margin_loss",
    "triu_indices",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "use_backend",
    "use_deterministic_algorithms",
    "utils",
    "vmap",
    "zeros",
    "zeros_like",
]
__all__ += functions.__all__ + matrices.__all__ + unbound.__all__ + windows.__all__


# Loaded when somebody asks for one: modules of the package, and names of fastdl.seldom.
_MODULES = frozenset(
    [
        "__config__",
        "accelerator",
        "backends",
        "compiler",
        "cpu",
        "datasets",
        "distributed",
        "distributions",
        "foreach",
        "futures",
        "fx",
        "hub",
        "jit",
        "library",
        "models",
        "mps",
        "multiprocessing",
        "onnx",
        "overrides",
        "profiler",
        "signal",
        "types",
        "version",
        "xpu",
    ]
)
_SELDOM = frozenset(
    [
        "Future",
        "OutOfMemoryError",
        "PyTorchFileReader",
        "ScriptModule",
        "SymBool",
        "SymFloat",
        "SymInt",
        "batch_norm",
        "fill",
        "get_autocast_cpu_dtype",
        "get_autocast_gpu_dtype",
        "instance_norm",
        "is_autocast_cpu_enabled",
        "is_deterministic_algorithms_warn_only_enabled",
        "is_inference_mode_enabled",
        "sym_float",
        "sym_int",
        "sym_max",
        "sym_min",
        "while_loop",
        "_assert",
        "_assert_async",
        "_sample_dirichlet",
        "_segment_reduce",
        "_shape_as_tensor",
        "_standard_gamma",
        "_convert_indices_from_coo_to_csr",
        "_convert_indices_from_csr_to_coo",
    ]
)


def __getattr__(name: str) -> Any:
    """What would cost time at import is loaded when it is first asked for."""
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"fastdl.{name}")
    if name in _SELDOM:
        return getattr(import_module("fastdl.seldom"), name)
    if name == "bfloat16":  # imports ml_dtypes, see fastdl.dtypes
        from fastdl import dtypes

        globals()[name] = dtypes.bfloat16
        return dtypes.bfloat16
    if name.startswith("_foreach_"):
        found = import_module("fastdl.foreach").named(name)
        if found is not None:
            globals()[name] = found
            return found
    from fastdl.absent import hint

    raise AttributeError(f"module 'fastdl' has no attribute {name!r}{hint(name)}")
