"""Views and rearrangements against torch: values, shared memory, gradients."""

from __future__ import annotations

import copy
import gc
import weakref

import numpy as np
import pytest

import fastdl

torch = pytest.importorskip("torch")

# name, shape of the input, function that both libraries' tensors understand
VIEWS = [
    ("reshape", (2, 3, 4), lambda x, lib: x.reshape(4, 6)),
    ("reshape tuple", (2, 3, 4), lambda x, lib: x.reshape((-1, 2))),
    ("reshape function", (2, 3, 4), lambda x, lib: lib.reshape(x, (8, 3))),
    ("reshape to scalar", (1, 1), lambda x, lib: x.reshape(())),
    ("reshape empty", (0, 3), lambda x, lib: x.reshape(3, 0)),
    ("reshape transposed", (2, 3, 4), lambda x, lib: x.transpose(0, 1).reshape(3, 2, 2, 2)),
    ("reshape that copies", (2, 3, 4), lambda x, lib: x.transpose(0, 1).reshape(6, 4)),
    ("view", (2, 3, 4), lambda x, lib: x.view(6, -1)),
    ("view strided", (4, 6), lambda x, lib: x[::2].view(2, 2, 3)),
    ("view split transposed", (4, 6), lambda x, lib: x.t().view(2, 3, 4)),
    ("view part split", (2, 5, 12), lambda x, lib: x.split(4, 2)[1].view(2, 5, 2, 2)),
    ("view part -1", (2, 5, 12), lambda x, lib: x[:, :, 4:8].view(10, -1)),
    ("view part with axes of 1", (2, 5, 12), lambda x, lib: x[:, 1:2, :8].view(1, 2, 1, 4, 1, 2)),
    ("view of one element", (2, 5, 12), lambda x, lib: x[1:, 2:3, 3:4].view(1, 1)),
    ("view transposed rows", (4, 3, 6), lambda x, lib: x.transpose(0, 1).view(3, 2, 2, 6)),
    ("flatten part", (3, 4, 5), lambda x, lib: x[:, 1].flatten()),
    ("flatten joined axes", (2, 3, 4, 5), lambda x, lib: x[:, :, :, 1:4].flatten(0, 2)),
    ("flatten that copies", (2, 3, 4), lambda x, lib: x[:, :, 1:].flatten(1)),
    ("flatten", (2, 3, 4), lambda x, lib: x.flatten(1)),
    ("flatten all", (2, 3, 4), lambda x, lib: lib.flatten(x)),
    ("flatten scalar", (), lambda x, lib: x.flatten()),
    ("unflatten", (6, 4), lambda x, lib: x.unflatten(0, (2, -1))),
    ("ravel", (2, 3), lambda x, lib: x.ravel()),
    ("squeeze", (1, 3, 1), lambda x, lib: x.squeeze()),
    ("squeeze dim", (1, 3, 1), lambda x, lib: x.squeeze(-1)),
    ("squeeze dims", (1, 3, 1), lambda x, lib: x.squeeze((0, 1))),
    ("unsqueeze", (2, 3), lambda x, lib: x.unsqueeze(-1)),
    ("unsqueeze strided", (4, 6), lambda x, lib: x[:, ::2].unsqueeze(1)),
    ("transpose", (2, 3, 4), lambda x, lib: x.transpose(0, -1)),
    ("swapaxes", (2, 3, 4), lambda x, lib: lib.swapaxes(x, 1, 2)),
    ("permute", (2, 3, 4), lambda x, lib: x.permute(2, 0, 1)),
    ("permute tuple", (2, 3, 4), lambda x, lib: lib.permute(x, (1, -1, 0))),
    ("t", (2, 3), lambda x, lib: x.t()),
    ("T", (2, 3), lambda x, lib: x.T),
    ("mT", (2, 3, 4), lambda x, lib: x.mT),
    ("movedim", (2, 3, 4), lambda x, lib: x.movedim(0, 2)),
    ("movedim several", (2, 3, 4, 5), lambda x, lib: x.movedim((0, 1), (-1, 0))),
    ("expand", (1, 3), lambda x, lib: x.expand(2, 4, 3)),
    ("expand -1", (2, 1), lambda x, lib: x.expand(-1, 4)),
    ("expand list", (1, 3), lambda x, lib: x.expand([2, 4, 3])),
    ("broadcast_to", (3,), lambda x, lib: lib.broadcast_to(x, (2, 3))),
    ("narrow", (4, 5), lambda x, lib: x.narrow(1, 1, 3)),
    ("select", (4, 5), lambda x, lib: x.select(0, -1)),
    ("index int", (4, 5), lambda x, lib: x[2]),
    ("index slices", (4, 5, 6), lambda x, lib: x[1:3, ::2, -4:]),
    ("index ellipsis", (4, 5, 6), lambda x, lib: x[..., 1]),
    ("index none", (4, 5), lambda x, lib: x[:, None, 1]),
    ("index element", (4, 5), lambda x, lib: x[1, 2]),
    ("diagonal", (3, 4), lambda x, lib: x.diagonal()),
    ("diagonal offset", (3, 4), lambda x, lib: x.diagonal(1)),
    ("diagonal below", (2, 5, 3), lambda x, lib: x.diagonal(-2, 1, 2)),
    ("diagonal dims", (2, 3, 4), lambda x, lib: lib.diagonal(x, 0, 2, 0)),
    ("diagonal outside", (2, 2), lambda x, lib: x.diagonal(3)),
    ("unfold", (7, 3), lambda x, lib: x.unfold(0, 3, 2)),
    ("unfold overlapping", (2, 9), lambda x, lib: x.unfold(1, 4, 1)),
    ("as_strided", (12,), lambda x, lib: x.as_strided((3, 3), (2, 1), 1)),
    ("as_strided of a view", (12,), lambda x, lib: x[2:].as_strided((2, 2), (3, 1))),
    ("unbind", (3, 4), lambda x, lib: x.unbind(1)[2]),
    ("split", (7, 2), lambda x, lib: x.split(3)[2]),
    ("split sections", (7, 2), lambda x, lib: lib.split(x, [1, 4, 2])[1]),
    ("chunk", (7, 2), lambda x, lib: x.chunk(3)[1]),
    ("tensor_split", (7, 2), lambda x, lib: x.tensor_split(3)[1]),
    ("tensor_split indices", (7, 2), lambda x, lib: x.tensor_split((2, 5))[1]),
    ("broadcast_tensors", (3, 1), lambda x, lib: lib.broadcast_tensors(x, lib.zeros(4))[0]),
    ("atleast_3d", (4,), lambda x, lib: lib.atleast_3d(x)),
    ("meshgrid", (4,), lambda x, lib: lib.meshgrid(x, lib.zeros(3, dtype=lib.float64), indexing="ij")[0]),
    ("meshgrid xy", (4,), lambda x, lib: lib.meshgrid(x, lib.zeros(3, dtype=lib.float64), indexing="xy")[0]),
]

COPIES = [
    ("clone", (3, 4), lambda x, lib: x.clone()),
    ("contiguous", (3, 4), lambda x, lib: x.t().contiguous()),
    ("cat", (3, 4), lambda x, lib: lib.cat([x, x * 1, x[:1]])),
    ("cat after the first axis", (3, 4), lambda x, lib: lib.cat((x[:, 1:], x, x[:, :1].float()), dim=1)),
    ("cat dim", (3, 4), lambda x, lib: lib.cat((x, x[:, :2]), dim=-1)),
    ("cat with empty", (3, 4), lambda x, lib: lib.cat([lib.zeros(0, dtype=lib.float64), x])),
    ("stack", (3, 4), lambda x, lib: lib.stack([x, x[:, :]], 1)),
    ("stack last", (3, 4), lambda x, lib: lib.stack((x, x), -1)),
    ("hstack", (3, 4), lambda x, lib: lib.hstack((x, x))),
    ("vstack", (4,), lambda x, lib: lib.vstack((x, x))),
    ("dstack", (4,), lambda x, lib: lib.dstack((x, x))),
    ("column_stack", (4,), lambda x, lib: lib.column_stack((x, x))),
    ("repeat", (2, 3), lambda x, lib: x.repeat(3, 1, 2)),
    ("repeat none", (2, 3), lambda x, lib: x.repeat(0, 2)),
    ("tile", (2, 3), lambda x, lib: x.tile(2)),
    ("repeat_interleave", (2, 3), lambda x, lib: x.repeat_interleave(2, 1)),
    ("repeat_interleave flat", (2, 3), lambda x, lib: x.repeat_interleave(2)),
    ("repeat_interleave counts", (3, 2), lambda x, lib: x.repeat_interleave(lib.tensor([2, 0, 3]), 0)),
    ("flip", (3, 4), lambda x, lib: x.flip(0, 1)),
    ("fliplr", (3, 4), lambda x, lib: lib.fliplr(x)),
    ("roll", (3, 4), lambda x, lib: x.roll(1, 0)),
    ("roll several", (3, 4), lambda x, lib: lib.roll(x, (1, -6), (0, 1))),
    ("roll flat", (3, 4), lambda x, lib: x.roll(5)),
    ("rot90", (3, 4), lambda x, lib: lib.rot90(x)),
    ("rot90 back", (3, 4), lambda x, lib: lib.rot90(x, -1)),
    ("rot90 half", (3, 4, 2), lambda x, lib: lib.rot90(x, 2, (1, 2))),
    ("tril", (3, 4), lambda x, lib: x.tril(1)),
    ("triu", (2, 4, 3), lambda x, lib: x.triu(-1)),
    ("diag vector", (4,), lambda x, lib: lib.diag(x, 1)),
    ("diag matrix", (3, 4), lambda x, lib: x.diag(-1)),
    ("diag_embed", (2, 3), lambda x, lib: lib.diag_embed(x, -1)),
    ("diag_embed dims", (2, 3), lambda x, lib: lib.diag_embed(x, 1, 0, 2)),
    ("diagflat", (2, 2), lambda x, lib: lib.diagflat(x, 1)),
    ("cartesian_prod", (3,), lambda x, lib: lib.cartesian_prod(x, lib.ones(2, dtype=lib.float64))),
    ("index_select", (4, 3), lambda x, lib: x.index_select(0, lib.tensor([3, 0, 3]))),
    ("index_add", (4, 3), lambda x, lib: x.index_add(0, lib.tensor([3, 0, 3]), 2 * x[:3], alpha=3)),
    ("index_copy", (4, 3), lambda x, lib: x.index_copy(1, lib.tensor([2, 0]), 2 * x[:, 1:])),
    ("index_fill", (4, 3), lambda x, lib: x.index_fill(1, lib.tensor([2, 0]), 5.0)),
    ("gather", (4, 3), lambda x, lib: x.gather(1, lib.tensor([[0, 0], [2, 1], [1, 1]]))),
    ("gather dim 0", (4, 3), lambda x, lib: lib.gather(x, 0, lib.tensor([[0, 3, 1], [2, 1, 1]]))),
    ("take_along_dim", (4, 3), lambda x, lib: lib.take_along_dim(x, lib.tensor([[0, 2, 2]]), 0)),
    ("scatter", (4, 3), lambda x, lib: x.scatter(0, lib.tensor([[0, 3, 1]]), 2 * x[:1])),
    ("scatter number", (4, 3), lambda x, lib: x.scatter(1, lib.tensor([[0], [2]]), 7.0)),
    ("scatter_add", (4, 3), lambda x, lib: x.scatter_add(0, lib.tensor([[0, 0, 1], [0, 0, 2]]), 2 * x[:2])),
    ("take", (4, 3), lambda x, lib: x.take(lib.tensor([[0, -1], [5, 5]]))),
    ("masked_fill", (4, 3), lambda x, lib: x.masked_fill(lib.tensor([True, False, True]), -1.0)),
    ("masked_fill tensor", (4, 3), lambda x, lib: x.masked_fill(lib.eye(4, 3) > 0, x[0, 0])),
    ("masked_select", (4, 3), lambda x, lib: x.masked_select(lib.tensor([True, False, True]))),
    ("masked_scatter", (4, 3), lambda x, lib: x.masked_scatter(lib.tensor([True, False, True]), 2 * x)),
    ("to float32", (4, 3), lambda x, lib: x.to(lib.float32)),
    ("float", (4, 3), lambda x, lib: x.float()),
]


def both(shape, function):
    values = np.random.default_rng(0).standard_normal(shape)
    ours = fastdl.tensor(values, requires_grad=True)
    theirs = torch.tensor(values, requires_grad=True)
    return ours, theirs, function(ours, fastdl), function(theirs, torch)


def check(ours, theirs, got, want):
    # index_add sums in another order: a few ulp of terms of size 3.
    np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), rtol=1e-15, atol=2e-15)
    assert str(got.dtype) == str(want.dtype).removeprefix("torch.")
    weights = np.random.default_rng(1).standard_normal(want.shape).astype(got.dtype)
    got.backward(fastdl.tensor(weights))
    want.backward(torch.tensor(weights))
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("shape", "function"), [c[1:] for c in VIEWS], ids=[c[0] for c in VIEWS])
def test_view(shape, function):
    ours, theirs, got, want = both(shape, function)
    shared = want.untyped_storage().data_ptr() == theirs.untyped_storage().data_ptr()
    if want.numel():
        assert np.shares_memory(got.detach().numpy(), ours.detach().numpy()) == shared
        if shared:
            extents = [i for i, n in enumerate(want.shape) if n > 1]
            assert [got.stride(i) for i in extents] == [want.stride(i) for i in extents]
            assert got.storage_offset() == want.storage_offset()
            assert got._base is ours
    check(ours, theirs, got, want)


@pytest.mark.parametrize(("shape", "function"), [c[1:] for c in COPIES], ids=[c[0] for c in COPIES])
def test_copy(shape, function):
    ours, theirs, got, want = both(shape, function)
    assert not np.shares_memory(got.detach().numpy(), ours.detach().numpy())
    check(ours, theirs, got, want)


MISTAKES = [
    (
        lambda x: x.reshape(5, 5),
        RuntimeError,
        r"reshape: a tensor of shape \(2, 3\).*cannot have shape \(5, 5\)",
    ),
    (lambda x: x.reshape(-1, -1), RuntimeError, "at most one extent may be -1"),
    (lambda x: x.reshape(-2, 3), RuntimeError, "cannot have shape"),
    (lambda x: x.reshape(-2, -3), RuntimeError, "cannot have shape"),
    (lambda x: x.reshape(-1, -2, -3), RuntimeError, "at most one extent may be -1"),
    (lambda x: x[:0].reshape(-1, 0), RuntimeError, "ambiguous"),
    (lambda x: x.t().view(6), RuntimeError, "view: .*without a copy; use reshape"),
    (lambda x: x.transpose(0, 2), IndexError, r"transpose: dim must be in \[-2, 1\].*got 2"),
    (lambda x: x.permute(0, 0), RuntimeError, "name an axis twice"),
    (lambda x: x.permute(0), RuntimeError, "must name all 2 axes"),
    (lambda x: x.expand(4, 3), RuntimeError, "axis 0 has extent 2, only 1 can be repeated"),
    (lambda x: x.expand(3), RuntimeError, "fewer axes"),
    (lambda x: x.narrow(0, 1, 2), RuntimeError, r"narrow: start \(1\) \+ length \(2\) exceeds dim 0"),
    (lambda x: x.narrow(0, 0.5, 1), TypeError, "cannot be interpreted as an integer"),
    (lambda x: x.select(0, 2), IndexError, "select: index 2 is out of range for dim 0"),
    (lambda x: x[2], IndexError, "index: 2 is out of range for dim 0 of extent 2"),
    (lambda x: x[0, 0, 0], IndexError, "3 indices for a tensor of 2 dimensions"),
    (lambda x: x[::-1], ValueError, "step of a slice must be positive.*flip"),
    (lambda x: x[fastdl.tensor([0.5])], IndexError, "must be integer or bool"),
    (lambda x: x[fastdl.tensor([7])], IndexError, "index:.*7 is out of bounds"),
    (lambda x: x["a"], IndexError, "got str"),
    (lambda x: x[..., ...], IndexError, "only one Ellipsis"),
    (lambda x: x.split(0), RuntimeError, "split_size must be positive"),
    (lambda x: x.split([1, 2]), RuntimeError, "add up to 2"),
    (lambda x: x.chunk(0), RuntimeError, "at least 1"),
    (lambda x: x.unfold(1, 4, 1), RuntimeError, "unfold: size"),
    (lambda x: x.as_strided((4, 4), (1, 1)), RuntimeError, "reach element 6 of 6"),
    (lambda x: fastdl.cat([x, x.t()]), RuntimeError, r"tensor 0 has \(2, 3\), tensor 1 has \(3, 2\)"),
    (lambda x: fastdl.cat([]), RuntimeError, "at least one tensor"),
    (lambda x: fastdl.cat(x), TypeError, "tuple or list"),
    (lambda x: fastdl.stack([x, x[0]]), RuntimeError, "shapes must be equal"),
    (lambda x: x.repeat(2), RuntimeError, "one for each axis"),
    (lambda x: x.flip(5), IndexError, "flip: dim"),
    (
        lambda x: x.index_select(0, fastdl.tensor([0, 2])),
        IndexError,
        r"index\[1\] = 2 is out of range \[0, 2\)",
    ),
    (lambda x: x.gather(0, fastdl.tensor([[5]])), IndexError, r"index\[0, 0\] = 5"),
    (lambda x: x.gather(0, fastdl.tensor([0])), RuntimeError, "as many dimensions"),
    (lambda x: x.gather(0, x), RuntimeError, "must have dtype int64 or int32"),
    (lambda x: x.scatter_add(0, fastdl.tensor([[0, 0, 0, 0]]), x), RuntimeError, "exceeds"),
    (lambda x: x.masked_fill(x, 1.0), RuntimeError, "mask must have dtype bool"),
    (lambda x: x.to("cuda"), RuntimeError, "no CUDA kernels"),
    (lambda x: x.to("clongdouble"), TypeError, "clongdouble.*not supported"),
    (lambda x: x.unflatten(1, (2, 2)), RuntimeError, "do not multiply to the 3"),
    (lambda x: x.diagonal(0, 1, 1), RuntimeError, "must differ"),
]


@pytest.mark.parametrize(("function", "error", "match"), MISTAKES)
def test_mistakes_are_explained(function, error, match):
    if ("CUDA kernels" in match or "'cuda'" in match) and fastdl.cuda.is_available():
        pytest.skip("about machines without a GPU")
    with pytest.raises(error, match=match):
        function(fastdl.zeros(2, 3))


def test_sizes_in_a_list_are_no_mistake_to_explain(monkeypatch):
    """The kernel refuses a list with a message that shows the whole array, which took as long as hundreds of views."""
    monkeypatch.setattr("fastdl.ops.views.ints", lambda sizes: pytest.fail("the kernel refused the sizes"))
    assert fastdl.ones(1, 3).expand([2, 4, 3]).shape == (2, 4, 3)


def test_views_of_views_share_the_base():
    x = fastdl.arange(24.0)
    y = x.view(2, 3, 4)[1].t()[1:, ::2]
    assert y._base is x
    y.zero_()
    np.testing.assert_array_equal(np.flatnonzero(x.numpy() == 0), [0, 13, 14, 15, 21, 22, 23])


def test_dead_views_are_forgotten():
    x = fastdl.zeros(4)
    for _ in range(10_000):
        x[1:]
    assert len(x._views) < 20


def test_unused_split_outputs_have_zero_gradient():
    x = fastdl.ones(6, requires_grad=True)
    a, _, c = x.split(2)
    (a.sum() + 2 * c.sum()).backward()
    np.testing.assert_array_equal(x.grad.numpy(), [1, 1, 0, 0, 2, 2])


PLAIN = [  # made in one call, without the Python function
    lambda x: x.view(-1),
    lambda x: x.view(x.shape),
    lambda x: x.reshape([6, -1]),
    lambda x: x.flatten(1),
    lambda x: x.flatten(0, -2),
    lambda x: x.unsqueeze(0),
    lambda x: x.unsqueeze(-1),
    lambda x: x.unsqueeze(-2).squeeze(2),
    lambda x: x[:1].squeeze(),
    lambda x: x.transpose(0, -1),
    lambda x: x.permute(2, 0, 1),
    lambda x: x.permute((-1, 0, 1)),
    lambda x: x.mT,
    lambda x: x[1].t(),
    lambda x: x[0].T,
    lambda x: x.expand(5, -1, 3, 4),
    lambda x: x[:, :1].expand(2, 3, 4),
    lambda x: x.select(1, -1),
    lambda x: x.diagonal(),
    lambda x: x.diagonal(-1, 1, 2),
    lambda x: x.diagonal(1, 2, 0),
    lambda x: x.diagonal(7),
    lambda x: x[1],
    lambda x: x[-2],
    lambda x: x[1, 2, 3],
    lambda x: x[()],
    lambda x: x[...],
    lambda x: x[..., -1],
    lambda x: x[None, :, 1:, ::2],
    lambda x: x[:, None, 1, ..., None],
    lambda x: x[5:],
    lambda x: x[:, 2:1],
    lambda x: x[-1:, -100:100],
    lambda x: x.unbind(1)[2],
    lambda x: x.split((1, 2), 1)[1],
    lambda x: x.chunk(3, -1)[-1],
]
LAYOUTS = [
    lambda x: x,
    lambda x: x.transpose(0, 2).contiguous().transpose(0, 2),
    lambda x: x.repeat(1, 2, 2)[:, ::2, 1::2],
    lambda x: x[:, :1].expand(2, 3, 4),
]


@pytest.mark.parametrize("number", range(len(PLAIN)))
@pytest.mark.parametrize("layout", range(len(LAYOUTS)))
def test_a_view_has_torchs_layout_memory_and_gradient(number, layout):
    function = PLAIN[number]
    results = []
    for lib in (fastdl, torch):
        leaf = lib.arange(24.0).reshape(2, 3, 4).requires_grad_()
        x = LAYOUTS[layout](leaf)
        try:
            y = function(x)
        except RuntimeError:
            results.append(None)  # view() of what is no view
            continue
        if y.numel():
            (y * y).sum().backward()
        where = [y.storage_offset(), y.stride()] if layout == 0 and y.numel() else []
        results.append([y.tolist(), tuple(y.shape), leaf.grad is None or leaf.grad.tolist(), *where])
    assert results[0] == results[1]


@pytest.mark.parametrize("number", range(len(PLAIN) - 3))  # views of several at once cannot follow
def test_a_view_follows_writes_into_its_base(number):
    results = []
    for lib in (fastdl, torch):
        base = lib.arange(24.0).reshape(2, 3, 4)
        y = PLAIN[number](base)
        factor = lib.full((4,), 2.0, requires_grad=True)
        base.mul_(factor)
        if not y.numel():
            results.append(y.tolist())
            continue
        y.sum().backward()
        results.append([y.tolist(), factor.grad.tolist()])
    assert results[0] == results[1]


def test_what_is_no_plain_argument_takes_the_long_way():
    x = fastdl.arange(24.0).view(2, 3, 4)
    for call in (
        lambda: x.view(True, 24),
        lambda: x[True],
        lambda: x[np.int64(1)],
        lambda: x[[0, 1]],
        lambda: x.view(np.int64(24)),
        lambda: x.permute(dims=(2, 1, 0)),
        lambda: x.transpose(dim0=0, dim1=1),
        lambda: x.view(size=(24,)),
        lambda: x.squeeze((0, 1)),
        lambda: x[fastdl.tensor(1) :],
    ):
        assert isinstance(call(), fastdl.Tensor)
    for call in (
        lambda: x[2],
        lambda: x[-3],
        lambda: x[0, 0, 0, 0],
        lambda: x[..., ...],
        lambda: x[::-1],
        lambda: x[10**30],
        lambda: x.view(5),
        lambda: x.view(-1, -1),
        lambda: x.view(-2, -12),
        lambda: x.view(2**62, 2**62, 24),
        lambda: x.transpose(0, 3),
        lambda: x.permute(0, 0, 1),
        lambda: x.permute(0, 1),
        lambda: x.expand(3, 3, 4),
        lambda: x.expand(2, 3, -2),
        lambda: x.unsqueeze(4),
        lambda: x.select(0, 2),
        lambda: x.diagonal(0, 1, 1),
        lambda: x.t(),
        lambda: x.flatten(2, 1),
    ):
        with pytest.raises((RuntimeError, IndexError, ValueError)):
            call()
    with pytest.raises(TypeError, match="input must be a Tensor"):
        fastdl.unsqueeze([1.0], 0)


def test_the_fields_of_a_tensor_are_its_own():
    x = fastdl.ones(2)
    x.note = "mine"
    assert vars(x) == {"note": "mine"}
    y = copy.copy(x)
    assert y.note == "mine"
    assert y.data_ptr() == x.data_ptr()
    assert vars(copy.deepcopy(x)) == {"note": "mine"}
    x.itself = x  # a cycle
    gone = weakref.ref(x)
    del x, y
    gc.collect()
    assert gone() is None


def test_an_expansion_that_repeats_nothing_can_be_written_to():
    x = fastdl.arange(3)
    row = x.expand(1, -1)
    row.copy_(fastdl.tensor([[4, 5, 6]]))
    assert x.tolist() == [4, 5, 6]
    y = fastdl.ones(3, requires_grad=True)
    z = y * 1
    z.expand(1, 3).mul_(fastdl.tensor([1.0, 2.0, 3.0]))
    z.sum().backward()
    assert y.grad.tolist() == [1, 2, 3]
    for repeated in (x.expand(2, 3), x[:1].expand(2), fastdl.from_numpy(np.broadcast_to(np.ones(1), (1, 2)))):
        with pytest.raises(RuntimeError, match="expanded view"):
            repeated.neg_()


def test_as_strided_of_memory_in_another_order():
    x = fastdl.from_numpy(np.arange(12.0).reshape(3, 4).T)
    windows = x.requires_grad_().as_strided((3, 2), (4, 1))
    assert windows.tolist() == [[0, 1], [4, 5], [8, 9]]
    windows.sum().backward()
    assert x.grad.tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]]
    gaps = fastdl.from_numpy(np.arange(12.0)[::2]).requires_grad_()
    with pytest.raises(RuntimeError, match="no gaps"):
        gaps.as_strided((2,), (1,))


VIEWS = {
    "steps": lambda x: x[:, ::2],
    "column": lambda x: x[:, 1],
    "rows turned": lambda x: x[1:].t(),
    "part of columns": lambda x: x[:, 1:3][1:],
    "whole": lambda x: x,
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("offset", [(), (0,), (3,)])
def test_as_strided_of_detached_views_sees_all_of_the_memory(name, offset):
    found = []
    for lib in (torch, fastdl):
        x = lib.arange(16.0).reshape(4, 4).clone()
        windows = VIEWS[name](x).detach().as_strided((2, 2), (4, 1), *offset)
        windows.add_(100)
        found.append([x.tolist(), windows.storage_offset(), windows._version])
    assert found[0] == found[1]


def test_the_gradient_of_an_empty_vector_in_cat():
    for lib in (torch, fastdl):
        a, b = lib.zeros(0, requires_grad=True), lib.ones(2, 3, requires_grad=True)
        y = lib.cat([a, b, a], 1)
        assert y.shape == (2, 3)
        y.sum().backward()
        assert a.grad.shape == (0,)
        assert b.grad.tolist() == [[1, 1, 1]] * 2


def test_memory_of_a_numpy_array_ends_with_it():
    """What lies around a part of an array is not the tensor's, as in PyTorch."""
    torch = pytest.importorskip("torch")
    for make in (
        lambda lib, a: lib.from_numpy(a[2:]),
        lambda lib, a: lib.as_tensor(a[2:4]),
        lambda lib, a: lib.asarray(a[1:7]),
        lambda lib, a: lib.from_numpy(a.reshape(2, 5)[1:].T),
        lambda lib, a: lib.frombuffer(a[1:], dtype=lib.float64, offset=16),
    ):
        for size, offset in ((2, 0), (2, 1), (2, None), (9, None)):
            results = []
            for lib in (fastdl, torch):
                array = np.arange(10.0)
                t = make(lib, array)
                try:
                    t.as_strided((size,), (1,), offset).fill_(-1)
                except RuntimeError:
                    array[:] = -2
                results.append((t.storage_offset(), array.tolist()))
            assert results[0] == results[1]


def test_as_strided_after_other_memory_was_given():
    found = []
    for lib in (torch, fastdl):
        x = lib.arange(6.0)
        first, last = x[:3], x[3:]
        first.data = lib.ones(3)
        x.data = lib.zeros(6)
        first += 1
        found.append([v.as_strided((2,), (1,)).tolist() for v in (first, x)])
        found[-1] += [last.detach().as_strided((2,), (1,)).tolist(), x.tolist()]
    assert found[0] == found[1]
