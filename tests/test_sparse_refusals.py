"""What sparse tensors refuse: indices out of range, and every operation that is defined for dense tensors only."""

from __future__ import annotations

import numpy as np
import pytest

import fastdl
from fastdl.sparse.tensor import SparseTensor

INDICES = np.array([[0, 1, 1, 0, 3], [2, 0, 2, 2, 1]])
VALUES = np.array([0.3, 0.4, -0.5, 0.1, 0.2], np.float32)


def coo():
    return fastdl.sparse_coo_tensor(fastdl.tensor(INDICES), fastdl.tensor(VALUES), (4, 3))


def test_indices_out_of_range_are_always_errors():
    with pytest.raises(RuntimeError, match="size is inconsistent with indices: for dim 0, size is 1"):
        fastdl.sparse_coo_tensor([[0, 1]], [1.0, 2.0], (1,))
    with pytest.raises(RuntimeError, match="found negative index -1 for dim 0"):
        fastdl.sparse_coo_tensor([[0, -1]], [1.0, 2.0])
    with pytest.raises(RuntimeError, match="col_indices < ncols"):
        fastdl.sparse_csr_tensor([0, 1], [3], [1.0], (1, 3))
    with pytest.raises(RuntimeError, match="do not fit"):
        coo() @ fastdl.ones(4, 2)
    with pytest.raises(TypeError, match="one dtype"):
        coo() @ fastdl.ones(3, 2).double()


def test_what_is_no_operation_of_sparse_tensors_says_so():
    x = coo()
    for call in (
        lambda: x.exp(),
        lambda: fastdl.exp(x),
        lambda: fastdl.nn.functional.softmax(x, 1),
        lambda: x.reshape(3, 4),
        lambda: fastdl.reshape(x, (3, 4)),
        lambda: x == x,
        lambda: fastdl.eq(x, x),
        lambda: x > 0,
        lambda: x.max(),
        lambda: fastdl.sort(x),
        lambda: fastdl.mean(x),
        lambda: fastdl.linalg.norm(x, 2),
        lambda: fastdl.ones_like(x),
        lambda: fastdl.rand_like(x),
        lambda: fastdl.maximum(fastdl.ones(4, 3), x),
        lambda: fastdl.where(fastdl.ones(4, 3) > 0, x, x),
        lambda: fastdl.nn.functional.mse_loss(x, fastdl.ones(4, 3)),
        lambda: fastdl.nn.Linear(3, 2, bias=False)(x).sum().item() and x.tolist(),
        lambda: fastdl.relu_(x),
        lambda: fastdl.einsum("ij->ji", x),
        lambda: x[0:2],
        lambda: x[x],
        lambda: x.masked_fill(fastdl.ones(4, 3) > 0, 1.0),
        lambda: 2 / x,
        lambda: x @ fastdl.ones(5, 3, 2),
        lambda: np.exp(x),
        lambda: np.asarray(x),
        lambda: fastdl.nn.Parameter(x),
        lambda: fastdl.nn.utils.clip_grad_value_(_with_sparse_gradient(), 1.0),
    ):
        with pytest.raises((NotImplementedError, RuntimeError, TypeError), match="to_dense"):
            call()


def _with_sparse_gradient():
    table = fastdl.nn.Embedding(4, 2, sparse=True)
    table(fastdl.tensor([1])).sum().backward()
    return table.parameters()


def test_no_function_takes_a_sparse_tensor_for_a_dense_one():
    """Of every public function and method: an error, or what it gives of the dense tensor."""
    names = [(m, n) for m in (fastdl, fastdl.nn.functional, fastdl.special, fastdl.linalg) for n in m.__all__]
    names += [(fastdl.Tensor, n) for n in dir(fastdl.Tensor) if not n.startswith("_")]
    differ = {
        "empty_like",
        "stride",
        "is_contiguous",
        "sparse_dim",
        "dense_dim",
        "backward",
        "register_hook",
        "numpy",
    }
    differ |= {
        "to_sparse",
        "to_sparse_coo",
        "clone",
        "detach_",
        "div",
        "divide",
        "true_divide",
        "floor_divide",
        "div_",
        "divide_",
        "floor_divide_",
    }
    checked = 0
    for module, name in names:
        function = getattr(module, name, None)
        if isinstance(function, type) or not callable(function) or name in differ or "seed" in name:
            continue
        if name.startswith(
            ("set_", "new", "save", "load", "use_", "compile", "vmap", "typename", "conv_algo", "empty_")
        ):
            continue
        for more in ((), (1,), (fastdl.ones(4, 3),)):
            try:
                got = function(coo(), *more)
            except Exception:
                continue
            if isinstance(got, SparseTensor):
                got = got.to_dense()
            if not isinstance(got, fastdl.Tensor) or name in ("coalesce", "sparse_mask"):
                continue
            want = function(coo().to_dense(), *more)
            want = want.to_dense() if isinstance(want, SparseTensor) else want
            np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), atol=1e-6, err_msg=name)
            checked += 1
    assert checked > 60
