"""Changes in place before backward: of an index it needs an error, of a result it does not need none, as in PyTorch."""

import pytest

import fastdl
from fastdl.nn import functional as F


def _places():
    return fastdl.tensor([1, 2])


def _rows():
    return fastdl.tensor([1, 2, 0, 3])


def _columns():
    return fastdl.tensor([[1, 2, 0]])


def _mask():
    return fastdl.tensor([True, False, True])


def _assigned(x, key, value):
    y = x * 1
    y[key] = value
    return y


def _assigned_in_view(x, key):
    y = x * 1
    y[:, 0][key] = 0.0
    return y


GIVEN = {
    "x[i]": (_places, lambda x, i: x[i]),
    "x[:, i]": (_places, lambda x, i: x[:, i]),
    "x[i, j]": (_places, lambda x, i: x[i, fastdl.tensor([0, 1])]),
    "x[i, None]": (_places, lambda x, i: x[i, None]),
    "x[mask]": (lambda: fastdl.ones(4, dtype=bool), lambda x, i: x[i]),
    "x[:, mask]": (_mask, lambda x, i: x[:, i]),
    "x[mask] of all": (lambda: fastdl.ones(4, 3) > 0, lambda x, i: x[i]),
    "gather": (_columns, lambda x, i: x.gather(1, i)),
    "take": (_places, lambda x, i: x.take(i)),
    "take_along_dim": (_columns, lambda x, i: fastdl.take_along_dim(x, i, 1)),
    "index_select": (_places, lambda x, i: x.index_select(0, i)),
    "index_add": (_rows, lambda x, i: fastdl.zeros(4, 3).index_add(0, i, x)),
    "index_add_": (_rows, lambda x, i: fastdl.zeros(4, 3).index_add_(0, i, x)),
    "index_copy": (_rows, lambda x, i: fastdl.zeros(4, 3).index_copy(0, i, x)),
    "index_reduce": (_rows, lambda x, i: fastdl.ones(4, 3).index_reduce(0, i, x, "prod")),
    "scatter": (_columns, lambda x, i: fastdl.zeros(4, 3).scatter(1, i, x)),
    "scatter of a number": (_columns, lambda x, i: x.scatter(1, i, 2.0)),
    "scatter_add": (_columns, lambda x, i: fastdl.zeros(4, 3).scatter_add(1, i, x)),
    "scatter_reduce": (_columns, lambda x, i: fastdl.ones(4, 3).scatter_reduce(1, i, x, "amax")),
    "masked_select": (_mask, lambda x, i: x.masked_select(i)),
    "masked_fill": (_mask, lambda x, i: x.masked_fill(i, 0.0)),
    "masked_fill_": (_mask, lambda x, i: (x * 1).masked_fill_(i, 0.0)),
    "masked_scatter": (_mask, lambda x, i: fastdl.zeros(4, 3).masked_scatter(i, x)),
    "x[i] = v": (_places, lambda x, i: _assigned(x, i, 0.0)),
    "y[i] = x": (_rows, lambda x, i: _assigned(fastdl.zeros(4, 3), i, x)),
    "x[:, 0][i] = v": (_places, lambda x, i: _assigned_in_view(x, i)),
}

FOUND = {
    "max": lambda x: x.max(1),
    "min": lambda x: x.min(1),
    "sort": lambda x: x.sort(1),
    "topk": lambda x: x.topk(2, 1),
    "median": lambda x: x.median(1),
    "nanmedian": lambda x: x.nanmedian(1),
    "kthvalue": lambda x: x.kthvalue(2, 1),
    "mode": lambda x: x.mode(1),
    "cummax": lambda x: x.cummax(1),
    "max_pool1d": lambda x: F.max_pool1d(x[None], 2, return_indices=True),
    "max_pool2d": lambda x: F.max_pool2d(x[None], 2, return_indices=True),
    "adaptive_max_pool1d": lambda x: F.adaptive_max_pool1d(x[None], 2, return_indices=True),
    "fractional_max_pool2d": lambda x: F.fractional_max_pool2d(
        x[None], 2, output_size=1, return_indices=True
    ),
}


def _x():
    return fastdl.tensor(
        [[3.0, 1.0, 2.0], [4.0, 6.0, 5.0], [9.0, 7.0, 8.0], [10.0, 12.0, 11.0]], requires_grad=True
    )


@pytest.mark.parametrize("name", GIVEN)
def test_an_index_changed_before_backward_is_an_error(name):
    make, use = GIVEN[name]
    x, index = _x(), make()
    loss = use(x, index).sum()
    index.zero_()
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()
    assert x.grad is None


@pytest.mark.parametrize("name", GIVEN)
def test_an_index_left_alone_or_used_without_a_graph_is_none(name):
    make, use = GIVEN[name]
    x, index = _x(), make()
    use(x, index).sum().backward()
    assert x.grad is not None
    index.zero_()  # after backward
    y = x * 1
    before, index = y.grad_fn, make()
    with fastdl.no_grad():
        use(y, index)
    index.zero_()
    assert y.grad_fn is before
    y.sum().backward()


@pytest.mark.parametrize("name", FOUND)
def test_found_indices_changed_before_backward_are_an_error(name):
    x = _x()
    values, indices = FOUND[name](x)
    indices += 0
    with pytest.raises(RuntimeError, match="changed in place"):
        values.sum().backward()
    values, indices = FOUND[name](x)
    values.sum().backward()
    indices += 0  # after it they are the caller's
    assert x.grad is not None


def test_in_place_on_a_result_of_no_graph_keeps_nothing():
    x = _x()
    y = x * 2
    mask = fastdl.tensor([True, False, True])
    with fastdl.no_grad():
        y.masked_fill_(mask, 0.0)
    mask.logical_not_()
    y.sum().backward()
    assert (x.grad == 2).all()


def test_counts_of_repeat_interleave_may_change():
    x, counts = _x(), fastdl.tensor([2, 0, 1, 3])
    y = x.repeat_interleave(counts, 0).sum()
    counts.fill_(7)
    y.backward()
    assert x.grad[:, 0].tolist() == [2.0, 0.0, 1.0, 3.0]


def _recurrent(cls, x):
    fastdl.manual_seed(0)
    return cls(3, 2)(x)[0]


FREE = {
    "div": lambda x: x / (x * x + 1),
    "div of a number": lambda x: 2.0 / x,
    "div by a column": lambda x: x / x[:, :1],
    "normalize": lambda x: F.normalize(x, dim=1),
    "complex div": lambda x: fastdl.view_as_real(fastdl.complex(x, x) / fastdl.complex(x, x * x)),
    "LSTM": lambda x: _recurrent(fastdl.nn.LSTM, x),
    "GRU": lambda x: _recurrent(fastdl.nn.GRU, x),
    "complex abs": lambda x: fastdl.complex(x, x * x).abs(),
    "complex square": lambda x: fastdl.view_as_real(fastdl.complex(x, x * x) ** 2),
    "cosine_similarity": lambda x: F.cosine_similarity(x[:2], x[2:]),
}


@pytest.mark.parametrize("name", FREE)
def test_a_result_that_backward_does_not_need_may_be_changed(name):
    x, same = _x(), _x()
    FREE[name](same).mul(2).sum().backward()
    FREE[name](x).mul_(2).sum().backward()
    assert fastdl.equal(x.grad, same.grad)


def test_the_mean_beside_a_variance_may_be_changed():
    x, same = _x(), _x()
    fastdl.var_mean(same, 1)[0].sum().backward()
    var, mean = fastdl.var_mean(x, 1)
    mean.detach().zero_()
    var.sum().backward()
    assert fastdl.equal(x.grad, same.grad)


def test_a_distance_changed_before_backward_is_an_error():
    x = _x()
    distance = F.pairwise_distance(x[:2], x[2:])
    distance.detach().zero_()
    with pytest.raises(RuntimeError, match="changed in place"):
        distance.sum().backward()


def test_what_addcmul_and_addcdiv_add_to_may_be_changed():
    for function in (fastdl.addcmul, fastdl.addcdiv):
        x, y = _x(), _x()
        summand = x * 1
        result = function(summand, y, y)
        summand.detach().zero_()
        result.sum().backward()
        assert (x.grad == 1).all()


def test_ravel_copies_what_has_gaps_and_an_empty_index_gathers_nothing():
    x = fastdl.arange(8)[::2]
    assert x.ravel().data_ptr() != x.data_ptr()
    assert x.ravel().stride() == (1,)
    table = fastdl.ones(5, requires_grad=True)
    found = table.gather(0, fastdl.zeros(2, 0, dtype=int))
    assert found.shape == (2, 0)
    found.sum().backward()
    assert not table.grad.any()
