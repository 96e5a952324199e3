"""What few programs call: copies of views, resizing, a Python call per element, paths in nests, older names."""

from __future__ import annotations

import warnings
from collections import OrderedDict, defaultdict, deque, namedtuple

import numpy as np
import pytest

import fastdl
from fastdl.utils import _pytree as pytree

torch = pytest.importorskip("torch")


def result(call, library):
    """What a call gives, as lists, or the kind of its error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = call(library)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            return {torch: type(error)}.get(library, type(error).__mro__)
    tensors = found if isinstance(found, tuple) else (found,)
    return [(str(t.dtype).removeprefix("torch."), tuple(t.stride()), t.tolist()) for t in tensors]


def matrix(library):
    return library.arange(6.0).reshape(2, 3)


CALLS = {
    "range": lambda L: L.range(1, 2.5, 0.5),
    "range of tenths": lambda L: L.range(0.0, 1, 0.1, dtype=L.float64),
    "range of whole numbers": lambda L: L.range(0.5, 3, dtype=L.int64),
    "range to infinity": lambda L: L.range(0, float("inf")),
    "range to NaN": lambda L: L.range(0, float("nan")),
    "slice_copy of no axis": lambda L: L.slice_copy(matrix(L), 2),
    "view_copy of a transposed one": lambda L: L.view_copy(matrix(L).t(), (-1,)),
    "resize_ to less than nothing": lambda L: L.arange(6).resize_(-1),
    "range down": lambda L: L.range(5, 1, -2, dtype=L.int64),
    "range without a way": lambda L: L.range(3, 0),
    "range without a step": lambda L: L.range(0, 3, 0),
    "range without an end": lambda L: L.range(3),
    "as_strided_copy": lambda L: L.as_strided_copy(matrix(L), (2, 2), (1, 2)),
    "detach_copy": lambda L: L.detach_copy(matrix(L)),
    "diagonal_copy": lambda L: L.diagonal_copy(matrix(L), 1),
    "expand_copy": lambda L: L.expand_copy(matrix(L)[:1], (2, 3)),
    "narrow_copy": lambda L: L.narrow_copy(matrix(L), 1, 1, 2),
    "narrow_copy, a method": lambda L: matrix(L).narrow_copy(1, 1, 2),
    "permute_copy": lambda L: L.permute_copy(matrix(L), (1, 0)),
    "select_copy": lambda L: L.select_copy(matrix(L), 1, 2),
    "slice_copy": lambda L: L.slice_copy(matrix(L), 1, 0, 3, 2),
    "split_copy": lambda L: L.split_copy(matrix(L), 2, 1),
    "split_with_sizes_copy": lambda L: L.split_with_sizes_copy(matrix(L), (1, 2), 1),
    "squeeze_copy": lambda L: L.squeeze_copy(matrix(L)[:1], 0),
    "t_copy": lambda L: L.t_copy(matrix(L)),
    "transpose_copy": lambda L: L.transpose_copy(matrix(L), 0, 1),
    "unbind_copy": lambda L: L.unbind_copy(matrix(L), 1),
    "unfold_copy": lambda L: L.unfold_copy(matrix(L), 1, 2, 1),
    "unsqueeze_copy": lambda L: L.unsqueeze_copy(matrix(L), 1),
    "view_copy": lambda L: L.view_copy(matrix(L), (3, 2)),
    "view_as_real_copy": lambda L: L.view_as_real_copy(L.tensor([1 + 2j])),
    "view_as_complex_copy": lambda L: L.view_as_complex_copy(L.ones(3, 2)),
    "as_strided_scatter": lambda L: matrix(L).as_strided_scatter(L.ones(2, 2), (2, 2), (1, 2)),
    "resize_": lambda L: matrix(L).resize_(2, 2),
    "resize_ to a size": lambda L: matrix(L).resize_((3,)),
    "resize_ and fill": lambda L: L.arange(2).resize_(3, 4).fill_(7),
    "resize_, the first numbers": lambda L: L.arange(4).resize_(3, 4)[0],
    "resize_as_": lambda L: matrix(L).resize_as_(L.ones(2, 2)),
    "resize_ of a leaf": lambda L: L.ones(2, requires_grad=True).resize_(1),
    "set_": lambda L: L.ones(2).set_(matrix(L)),
    "set_ to nothing": lambda L: L.ones(2).set_(),
    "set_ to a part": lambda L: L.ones(2).set_(matrix(L), 1, (2, 2), (2, 1)),
    "set_ to another dtype": lambda L: L.ones(2).set_(matrix(L).double()),
    "set_ of a leaf": lambda L: L.ones(2, requires_grad=True).set_(matrix(L)),
    "apply_": lambda L: L.arange(3).apply_(lambda v: v * 1.5),
    "apply_ to a leaf": lambda L: L.ones(2, requires_grad=True).apply_(lambda v: v),
    "map_": lambda L: matrix(L).map_(L.arange(3.0), lambda a, b: a - 2 * b),
    "map_ with another dtype": lambda L: matrix(L).map_(L.arange(3), lambda a, b: a),
    "map2_": lambda L: matrix(L).map2_(matrix(L), matrix(L), lambda a, b, c: a + b * c),
    "out": lambda L: L.permute_copy(matrix(L), (1, 0), out=L.empty(3, 2)),
}


@pytest.mark.parametrize("name", CALLS)
def test_results_are_torch_s(name):
    want, got = [result(CALLS[name], library) for library in (torch, fastdl)]
    assert got == want or want in got


def test_copies_have_gradients_and_their_own_memory():
    x = matrix(fastdl).requires_grad_()
    y = fastdl.transpose_copy(x, 0, 1)
    y.mul_(2.0)
    assert x.tolist() == matrix(fastdl).tolist()
    y[0].sum().backward()
    assert x.grad.tolist() == [[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]]


def test_empty_permuted():
    for layout in ((0, 2, 1), (2, 1, 0), (0, 1, 2)):
        got, want = [library.empty_permuted((2, 3, 4), layout) for library in (fastdl, torch)]
        assert (got.shape, got.stride()) == (tuple(want.shape), want.stride())
    with pytest.raises(RuntimeError, match="each of the 2 axes once"):
        fastdl.empty_permuted((2, 3), (0, 0))


def test_tensors_that_are_set_share_memory():
    a, b = fastdl.zeros(2), fastdl.ones(3)
    a.set_(b)
    b[0] = 5
    assert a.tolist() == [5.0, 1.0, 1.0]
    view = b[:2]
    view.resize_(1).fill_(7)
    assert b.tolist() == [7.0, 1.0, 1.0]
    view.resize_(3).fill_(8)
    assert b.tolist() == [7.0, 1.0, 1.0]


def test_backward_notices_that_what_it_needs_was_resized_or_set():
    for change in (lambda t: t.resize_(1).fill_(2), lambda t: t.set_(fastdl.ones(2)).fill_(2)):
        x, kept = fastdl.ones(2, requires_grad=True), fastdl.ones(2)
        view = kept[:1]
        y = (x * kept).sum()
        change(kept)
        assert y.item() == 2
        with pytest.raises(RuntimeError, match="given another shape or memory"):
            view.mul_(x[0])


Pair = namedtuple("Pair", "x y")
NEST = {
    "a": [1, (2, Pair(3, 4))],
    "b": OrderedDict(c=5),
    "d": defaultdict(list, {"e": 6}),
}


def test_paths_in_nests_are_torch_s():
    theirs = pytest.importorskip("torch.utils._pytree")
    found = []
    for m in (pytree, theirs):
        leaves, spec = m.tree_flatten_with_path(NEST)
        found.append(
            [
                [(m.keystr(path), leaf, m.key_get(NEST, path)) for path, leaf in leaves],
                m.tree_map_with_path(lambda path, n, other, m=m: (m.keystr(path), n + other), NEST, NEST),
                m.tree_unflatten(list(m.tree_iter(NEST)), spec),
                spec == m.tree_structure(NEST),
                m.tree_map_only(lambda n: n == 1, lambda n: -n, NEST),
                [m.tree_all(lambda n: n > 1, NEST), m.tree_any(lambda n: n > 1, NEST)],
                [m.tree_all_only(str, bool, NEST), m.tree_any_only(int, lambda n: n > 5, NEST)],
                [m.tree_is_leaf(3), m.tree_is_leaf([3]), m.tree_is_leaf([3], lambda x: True)],
                m.tree_map_(lambda n: None, NEST) is NEST,
            ]
        )
    assert found[0] == found[1]


def test_a_container_without_keys_has_no_paths():
    class Box:
        def __init__(self, value):
            self.value = value

    pytree.register_pytree_node(Box, lambda box: ([box.value], None), lambda parts, _: Box(*parts))
    assert pytree.tree_leaves(Box(3)) == [3]
    with pytest.raises(ValueError, match="without flatten_with_keys_fn"):
        pytree.tree_leaves_with_path(Box(3))


def test_older_names_warn():
    p = fastdl.nn.Parameter(fastdl.zeros(2))
    p.grad = fastdl.tensor([3.0, 4.0])
    with pytest.warns(FutureWarning, match="clip_grad_norm_"):
        assert fastdl.nn.utils.clip_grad_norm([p], 1.0).item() == 5
    with pytest.warns(FutureWarning, match="assert_close"):
        fastdl.testing.assert_allclose([1.0, float("nan")], fastdl.tensor([1, float("nan")]).double())
    with pytest.warns(FutureWarning), pytest.raises(AssertionError, match="1 of 2 elements"):
        fastdl.testing.assert_allclose([1.0, 2.0], [1.0, 2.1])


@pytest.mark.parametrize("library", [torch, fastdl])
def test_assert_close_looks_at_everything(library):
    close, x = library.testing.assert_close, library.ones(2, 3)
    close(x, x.double(), check_dtype=False, check_device=False, check_layout=False, allow_subclasses=False)
    close(x, x.T.contiguous().T)
    close(1.0, 1.0 + 1e-9, msg="no")
    for a, b, options in [
        (x, x.T.contiguous().T, {"check_stride": True}),
        (x, x.to("meta"), {}),
        (library.tensor([1 + 1j]), library.tensor([1 + 2j]), {}),
        (library.tensor([2**60]), library.tensor([2**60 + 1]), {}),
        ({"a": x}, {"a": x + 1}, {}),
        ([x, x], [x], {}),
    ]:
        with pytest.raises(AssertionError):
            close(a, b, **options)
    with pytest.raises(AssertionError, match=r"^so: .+"):
        close(x, x + 1, msg=lambda text: f"so: {text}")


@pytest.mark.parametrize("library", [torch, fastdl])
def test_unpadded_sequences_are_contiguous(library):
    parts = library.nn.utils.rnn.unpad_sequence(library.ones(4, 2), library.tensor([4, 2]))
    assert [tuple(p.view(-1).shape) for p in parts] == [(4,), (2,)]


@pytest.mark.parametrize("library", [torch, fastdl])
def test_signs_of_transforms_are_integers(library):
    transforms = library.distributions.transforms
    parts = [transforms.AffineTransform(1.0, -2.0), transforms.ExpTransform()]
    assert [str(t.sign) for t in (*parts, transforms.ComposeTransform(parts))] == ["-1", "1", "-1"]


def test_distributions_print_their_parameters():
    found = []
    for library in (torch, fastdl):
        d = library.distributions
        made = (d.Normal(library.tensor([0.5]), 2.0), d.Normal(0.0, 1.0), d.Categorical(library.ones(2, 3)))
        found.append([repr(m).replace("torch.Size([2, 3])", "(2, 3)") for m in made])
    assert found[0] == found[1]


def test_float_results_into_integers():
    assert np.array_equal(fastdl.arange(3).apply_(lambda v: v + 0.9).numpy(), [0, 1, 2])


def test_deques_are_nests():
    for library in (pytree, torch.utils._pytree):
        nest = deque([1, [2, 3]], maxlen=5)
        leaves, spec = library.tree_flatten(nest)
        assert leaves == [1, 2, 3]
        again = library.tree_unflatten(leaves, spec)
        assert again == nest
        assert again.maxlen == 5
        paths = [library.keystr(path) for path, _ in library.tree_leaves_with_path(nest)]
        assert paths == ["[0]", "[1][0]", "[1][1]"]


def test_assert_close_takes_none_and_refuses_texts():
    fastdl.testing.assert_close([None, fastdl.ones(1)], [None, fastdl.ones(1)])
    with pytest.raises(AssertionError, match="One is None"):
        fastdl.testing.assert_close(None, fastdl.ones(1))
    with pytest.raises(TypeError, match="cannot compare str and str"):
        fastdl.testing.assert_close("a", "a")


def test_empty_permuted_of_nothing_has_strides():
    for library in (fastdl, torch):
        assert tuple(library.empty_permuted((2, 0, 4), (2, 1, 0)).stride()) == (1, 2, 2)


@pytest.mark.parametrize(
    "call",
    [
        lambda L: L.normal(L.zeros(2), -1.0),
        lambda L: L.nn.functional.scaled_dot_product_attention(
            L.ones(1, 2, 4), L.ones(1, 2, 3), L.ones(1, 2, 4)
        ),
        lambda L: L.nn.MultiheadAttention(4, 2)(
            *[L.ones(5, 2, 4)] * 3, attn_mask=L.zeros(3, 3), need_weights=False
        ),
    ],
)
def test_wrong_arguments_are_runtime_errors_as_there(call):
    for library in (torch, fastdl):
        with pytest.raises(RuntimeError):
            call(library)
