"""The kernel contract on CUDA: the functions of :mod:`fastdl.kernels.reference` for CuPy arrays.

Each family's file checks its arguments, makes the results and calls the extension ``fastdl._cuda`` with addresses on
CuPy's current stream; nothing waits for the device. float32, float16 and bfloat16 are computed in float32, float64 in
float64. :data:`ABSENT` names what has no CUDA kernel yet.
"""

from __future__ import annotations

from inspect import isfunction
from typing import Any

from fastdl.kernels import reference
from fastdl.kernels.cuda.activation import *
from fastdl.kernels.cuda.attention import *
from fastdl.kernels.cuda.conv import *
from fastdl.kernels.cuda.cross_entropy import *
from fastdl.kernels.cuda.ctc_loss import *
from fastdl.kernels.cuda.device import empty, raise_reports
from fastdl.kernels.cuda.distance import *
from fastdl.kernels.cuda.elementwise import *
from fastdl.kernels.cuda.embedding import *
from fastdl.kernels.cuda.layout import *
from fastdl.kernels.cuda.linalg import *
from fastdl.kernels.cuda.linear import *
from fastdl.kernels.cuda.margin_loss import *
from fastdl.kernels.cuda.norm import *
from fastdl.kernels.cuda.optim import *
from fastdl.kernels.cuda.order import *
from fastdl.kernels.cuda.pointwise_loss import *
from fastdl.kernels.cuda.pool import *
from fastdl.kernels.cuda.random import *
from fastdl.kernels.cuda.reduce import *
from fastdl.kernels.cuda.resample import *
from fastdl.kernels.cuda.rnn import *
from fastdl.kernels.cuda.softmax import *
from fastdl.kernels.cuda.special import *

# Why functions of the contract have no CUDA kernel: reason -> their names. tests/test_contract.py holds this against
# the reference, so nothing is missing silently.
_WHY = {
    "it shows the CPU's vectorised functions to tests; a GPU has its own": "vector_math",
    "index_select_backward adds in a fixed order": "index_add",
    "composed of cdist": "pdist_forward",
    "composed of other operations": "angle_forward cross_forward count_in_bins",
    "composed of scatter_reduce": "segment_forward segment_backward",
    "composed of sort_forward": "mode_index select_index",
    "special_backward has it": "logit_backward",
    "operations take CuPy's function": """bitwise_and_forward bitwise_or_forward bitwise_xor_forward
        left_shift_forward right_shift_forward trunc_divide_forward
        complex_add complex_conjugate complex_divide complex_join complex_multiply complex_multiply_conjugate
        complex_rows complex_scale complex_shrink complex_sub fourier transform
        convert copy_into fill progression triangle triangle_places nonzero
        index_copy masked_put masked_select scatter strided sum_integers""",
}
_ELSEWHERE = {name: why for why, names in _WHY.items() for name in names.split()}
ABSENT: dict[str, str] = {
    name: _ELSEWHERE.get(name, "not written yet")
    for name, value in vars(reference).items()
    if isfunction(value) and not name.startswith("_") and name not in globals()
}


def __getattr__(name: str) -> Any:
    if name in ABSENT:
        raise NotImplementedError(f"{name.removesuffix('_forward')} has no CUDA kernel ({ABSENT[name]})")
    raise AttributeError(f"module 'fastdl.kernels.cuda' has no attribute {name!r}")
