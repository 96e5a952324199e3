"""What training scripts ran into; see ``test_scripts.py``."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import fastdl
from fastdl.nn import functional as F
from fastdl.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_sampler_s_own_sampler_decides_the_order(workers):
    order = [3, 0, 4, 1, 2]
    for sampler, expected in ((order, [[3, 0], [4, 1], [2]]), (SequentialSampler([0] * 3), [[0, 1], [2]])):
        loader = DataLoader(range(5), batch_sampler=BatchSampler(sampler, 2, False), num_workers=workers)
        assert [batch.tolist() for batch in loader] == expected
    drawn = [
        i
        for batch in DataLoader(range(9), batch_sampler=BatchSampler(RandomSampler(range(9)), 2, False))
        for i in batch.tolist()
    ]
    assert sorted(drawn) == list(range(9))


def test_half_precision_beside_a_number_of_0_dimensions_has_a_gradient():
    bfloat16 = pytest.importorskip("ml_dtypes") and fastdl.bfloat16
    for dtype in (bfloat16, fastdl.float16):
        x = fastdl.ones(3, dtype=dtype, requires_grad=True)
        scale = fastdl.tensor(0.5, requires_grad=True)
        y = x * scale
        assert y.dtype == dtype
        y.sum().backward()
        assert x.grad.tolist() == [0.5] * 3
        assert x.grad.dtype == dtype
        assert scale.grad.item() == 3.0
        assert scale.grad.dtype == fastdl.float32


def _tensors(value):
    if isinstance(value, fastdl.Tensor):
        return [value]
    return [t for v in value for t in _tensors(v)] if isinstance(value, (tuple, list)) else []


@pytest.mark.filterwarnings("ignore")
def test_results_of_no_dimensions_are_arrays():
    """NumPy's operators make scalars of arrays of 0 dimensions: a tensor that held one fails in the next kernel."""
    makers = [lambda v=v: fastdl.tensor(v) for v in (0.5, [0.5], 2, True, np.float16(0.5))]
    found, tried = set(), 0
    for module in (fastdl, F, fastdl.linalg, fastdl.special):
        for name in module.__all__:
            function = getattr(module, name)
            if not inspect.isfunction(function) or name.startswith(("set_", "use_", "seed", "manual")):
                continue
            for make in makers:
                for more in ((), (0,), (make(),), (1, make()), (0, 0)):
                    x = make().requires_grad_(make().is_floating_point())
                    try:
                        results = _tensors(function(x, *more))
                    except Exception:  # not arguments of this function
                        continue
                    tried += 1
                    for y in results:
                        tensors = [y]
                        if y.requires_grad and x.requires_grad and y.numel():
                            tensors += fastdl.autograd.grad(y.sum(), x, retain_graph=True, allow_unused=True)
                        found |= {
                            name for t in tensors if t is not None and not isinstance(t._data, np.ndarray)
                        }
    assert not found
    assert tried > 2000
