"""What training scripts ran into; see ``test_scripts.py``."""

from __future__ import annotations

import pytest

import fastdl
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
