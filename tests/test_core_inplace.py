"""Changes in place: values, history, saved values, views: torch decides."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

import fastdl

torch = pytest.importorskip("torch")


def set_item(x, key, value):
    x[key] = value
    return x


def iadd(x, value):
    x += value
    return x


# Each program gets y, a non-leaf of shape (3, 4), w, a leaf of the same shape, and the library, and returns the result.
PROGRAMS = {
    "add_": lambda y, w, lib: y.add_(w),
    "add_ alpha": lambda y, w, lib: y.add_(w, alpha=2.5),
    "+=": lambda y, w, lib: iadd(y, w),
    "+= number": lambda y, w, lib: iadd(y, 3),
    "mul_ of a saved value": lambda y, w, lib: y.mul_(w),
    "div_": lambda y, w, lib: y.div_(w),
    "pow_": lambda y, w, lib: y.pow_(2),
    "exp_": lambda y, w, lib: y.exp_(),
    "sqrt_": lambda y, w, lib: y.abs_().sqrt_(),
    "relu_": lambda y, w, lib: y.relu_(),
    "clamp_": lambda y, w, lib: y.clamp_(-0.5, 0.5),
    "chain": lambda y, w, lib: y.mul_(2).add_(1).mul_(w).sub_(w),
    "zero_": lambda y, w, lib: y.zero_() + w,
    "fill_": lambda y, w, lib: y.fill_(3.0) * w,
    "fill_ tensor": lambda y, w, lib: y.fill_(w[0, 0]),
    "copy_": lambda y, w, lib: y.copy_(w),
    "copy_ broadcast": lambda y, w, lib: y.copy_(w[0]),
    "setitem number": lambda y, w, lib: set_item(y, (slice(None), 1), 5.0),
    "setitem tensor": lambda y, w, lib: set_item(y, 1, w[2]),
    "setitem broadcast": lambda y, w, lib: set_item(y, slice(0, 2), w[2]),
    "setitem leading ones": lambda y, w, lib: set_item(y, (0, slice(0, 2)), w[None, :1, 1:3]),
    "setitem list": lambda y, w, lib: set_item(y, [0, 2], w[1:]),
    "setitem mask": lambda y, w, lib: set_item(y, lib.tensor([True, False, True]), w[1:] * 2),
    "setitem index pair": lambda y, w, lib: set_item(y, (lib.tensor([0, 2]), lib.tensor([1, 1])), w[0, :2]),
    "setitem element": lambda y, w, lib: set_item(y, (1, 1), w[0, 0]),
    "setitem from itself": lambda y, w, lib: set_item(y, 0, y[1] * 2),
    "add to a row": lambda y, w, lib: (y[0].add_(w[1]), y)[1],
    "x[0] += 1": lambda y, w, lib: set_item(y, 0, y[0] + 1),
    "mul_ of a column": lambda y, w, lib: (y[:, 1].mul_(w[:, 2]), y)[1],
    "view of a view": lambda y, w, lib: (y.view(4, 3)[1:].t()[0].mul_(w[:, 0]), y)[1],
    "reshaped": lambda y, w, lib: (y.view(-1)[2:7].mul_(3), y)[1],
    "transposed": lambda y, w, lib: (y.t().add_(w.t()), y)[1],
    "diagonal": lambda y, w, lib: (y.diagonal().mul_(2), y)[1],
    "view seen afterwards": lambda y, w, lib: (lambda v: (y.mul_(w), v)[1])(y[1]),
    "other view seen afterwards": lambda y, w, lib: (lambda u, v: (u.mul_(w[0, :3]), v)[1])(y[:, 1], y[1]),
    "row of a new tensor": lambda y, w, lib: (lambda z: (z[1].copy_(w[0]), z)[1] + y)(lib.zeros(3, 4)),
    "assembled": lambda y, w, lib: assembled(y, w, lib),
    "masked_fill_": lambda y, w, lib: y.masked_fill_(lib.tensor([True, False, True, False]), 1.5),
    "index_add_": lambda y, w, lib: y.index_add_(0, lib.tensor([0, 0, 2]), w),
    "scatter_": lambda y, w, lib: y.scatter_(0, lib.tensor([[2, 1, 0, 0]]), w[:1]),
    "unsqueezed": lambda y, w, lib: (y.unsqueeze(0).mul_(w), y)[1],
    "narrow": lambda y, w, lib: (y.narrow(1, 1, 2).mul_(w[:, :2]), y)[1],
    "use before and after": lambda y, w, lib: (lambda a: a + y.mul_(3))(y + 1),
}


def assembled(y, w, lib):
    out = lib.zeros(3, 4)
    for i in range(3):
        out[i] = y[i] * w[2 - i]
    return out


@pytest.mark.parametrize("name", PROGRAMS)
def test_like_torch(name):
    rng = np.random.default_rng(0)
    a, b, c = (rng.standard_normal((3, 4)).astype(np.float32) for _ in range(3))
    results = []
    for lib in (fastdl, torch):
        x = lib.tensor(a, requires_grad=True)
        w = lib.tensor(b, requires_grad=True)
        out = PROGRAMS[name](x * 1, w, lib)
        weights = lib.tensor(c)
        (
            out * weights[tuple(slice(0, n) for n in out.shape)[-out.ndim :]]
            if out.ndim == 2
            else out * weights[0]
        ).sum().backward()
        results.append((out.detach().numpy(), x.grad, w.grad))
    (out, gx, gw), (want, want_x, want_w) = results
    np.testing.assert_allclose(out, want, rtol=1e-6)
    for got, expected in ((gx, want_x), (gw, want_w)):
        if expected is None:
            assert got is None or not got.numpy().any()
        else:
            got = np.zeros((3, 4)) if got is None else got.numpy()
            np.testing.assert_allclose(got, expected.numpy(), rtol=1e-5, atol=1e-6)


def test_no_grad_writes_where_the_tensor_is():
    x = fastdl.ones(4)
    memory = x.numpy()
    alias = x[1:]
    x.add_(1).mul_(3)
    x -= 1
    np.testing.assert_array_equal(memory, [5, 5, 5, 5])
    np.testing.assert_array_equal(alias.numpy(), [5, 5, 5])
    assert x.numpy() is memory


def test_leaf_refuses():
    x = fastdl.ones(3, requires_grad=True)
    for change in (
        lambda: x.add_(1),
        lambda: x.zero_(),
        lambda: x.copy_(fastdl.zeros(3)),
        lambda: x[0].fill_(2),
        lambda: set_item(x, 0, 1.0),
        lambda: iadd(x, 1),
    ):
        with pytest.raises(
            RuntimeError, match="leaf tensor that requires a gradient cannot be changed in place"
        ):
            change()
    with fastdl.no_grad():
        x.add_(1)
        x[0] = 7
    np.testing.assert_array_equal(x.tolist(), [7, 2, 2])
    assert x.is_leaf
    assert x.requires_grad


def test_saved_values_are_guarded():
    for change in (
        lambda y: y.add_(1),
        lambda y: set_item(y, 0, 0.0),
        lambda y: y[1:].zero_(),
        lambda y: y.detach().zero_(),
        lambda y: y.view(3, 1).mul_(2),
    ):
        x = fastdl.ones(3, requires_grad=True)
        y = x * 2
        z = (y * y).sum()
        change(y)
        with pytest.raises(RuntimeError, match="changed in place after it was used"):
            z.backward()


def test_saved_view_is_guarded_through_its_base():
    base = fastdl.ones(4)
    w = fastdl.ones(2, requires_grad=True)
    z = (w * base[:2]).sum()
    base.add_(1)
    with pytest.raises(RuntimeError, match="changed in place"):
        z.backward()


def test_unsaved_values_may_change():
    x = fastdl.ones(3, requires_grad=True)
    y = x * 2
    z = (y + 1).sum()
    y.add_(1)
    z.backward()
    np.testing.assert_array_equal(x.grad.numpy(), [2, 2, 2])


def test_lerp_by_a_number_saves_nothing():
    """Its gradients are the number's alone: x and end may change, and be one tensor."""
    x, end = fastdl.ones(3, requires_grad=True), fastdl.zeros(3, requires_grad=True)
    y, z = x * 1, end * 1
    y.lerp_(y, 0.25)
    y.lerp_(z, 0.25)
    z.add_(5)
    y.sum().backward()
    assert x.grad.tolist() == [0.75] * 3
    assert end.grad.tolist() == [0.25] * 3


def test_data_is_not_tracked():
    x = fastdl.ones(3, requires_grad=True)
    y = (x * x).sum()
    x.data.mul_(5)
    y.backward()  # as in torch: wrong on purpose, the user took the responsibility
    np.testing.assert_array_equal(x.grad.numpy(), [10, 10, 10])
    x.data = fastdl.zeros(2, 2)
    assert x.shape == (2, 2)


def test_dtype_and_shape_must_fit():
    i = fastdl.ones(3, dtype=fastdl.int64)
    with pytest.raises(
        RuntimeError, match=r"dtype float32 and cannot be stored in place in a tensor of dtype int64"
    ):
        i.add_(0.5)
    i.add_(2).mul_(3)
    assert i.tolist() == [9, 9, 9]
    x = fastdl.ones(3)
    with pytest.raises((RuntimeError, ValueError), match="shape"):
        x.add_(fastdl.ones(2, 3))
    with pytest.raises(RuntimeError, match="cannot be broadcast"):
        x.copy_(fastdl.ones(2))
    with pytest.raises(RuntimeError, match="cannot be broadcast"):
        x[:2] = fastdl.ones(3)


def test_setitem_converts():
    i = fastdl.zeros(3, dtype=fastdl.int64)
    i[0] = 2.7
    i[1:] = fastdl.tensor([1.5, -1.5])
    assert i.tolist() == [2, 1, -1]


def test_repeated_and_read_only_memory_refuses():
    with pytest.raises(RuntimeError, match="cannot be written to"):
        fastdl.ones(1).expand(3).add_(1)
    array = np.ones(3)
    array.flags.writeable = False
    with pytest.raises(RuntimeError, match="cannot be written to"):
        fastdl.from_numpy(array)[0] = 1


def test_views_that_may_not_be_changed():
    x = fastdl.ones(4, requires_grad=True)
    y = x * 1
    with fastdl.no_grad():
        hidden = y[:2]
    with pytest.raises(RuntimeError, match=r"made under no_grad\(\)"):
        hidden.mul_(x[:2])
    first, _ = y.split(2)
    with pytest.raises(RuntimeError, match="one of several views"):
        first.mul_(2)
    plain = fastdl.ones(4).split(2)[0]
    plain.mul_(2)
    assert plain.tolist() == [2, 2]


def test_overlap():
    x = fastdl.arange(5.0)
    x[1:] = x[:-1]
    assert x.tolist() == [0, 0, 1, 2, 3]
    y = fastdl.arange(4.0).reshape(2, 2)
    y.add_(y.t())
    assert y.tolist() == [[0, 3], [3, 6]]


def test_history_of_the_base_is_not_kept_alive_by_a_cycle():
    import gc
    import weakref

    gc.disable()
    try:
        x = fastdl.ones(3, requires_grad=True)
        y = x * 2
        y[0] = 5.0
        y[1:].mul_(3)
        node, tensor = weakref.ref(y.grad_fn), weakref.ref(y)
        del y
        assert tensor() is None
        assert node() is None
    finally:
        gc.enable()


def _after_a_split(use_late):
    w = fastdl.ones(4, requires_grad=True)
    x = w * 1
    first, second = x.split(2)
    part = first[:1]  # a view of one of several views
    early = (first * 3).sum() + second.sum()
    x.mul_(2)
    late = {"split": second, "view": part}.get(use_late, x)
    return fastdl.autograd.grad(early + x.sum() + late.sum() * 0, w)[0]


@pytest.mark.parametrize("use_late", ["split", "view"])
def test_views_that_a_change_of_their_base_cut_off_are_refused(use_late):
    with pytest.raises(RuntimeError, match=r"one of several views that one call returned, after its base"):
        _after_a_split(use_late)


def test_a_base_may_be_changed_after_its_split_was_used():
    assert _after_a_split(None).tolist() == [5.0, 5.0, 3.0, 3.0]


def test_shapes_changed_in_place_without_recording_keep_the_gradient():
    p = fastdl.ones(3, requires_grad=True)
    with fastdl.no_grad():
        p.unsqueeze_(0)
    assert (p.shape, p.requires_grad, p.is_leaf) == ((1, 3), True, True)
    (p * 3).sum().backward()
    assert p.grad.tolist() == [[3.0] * 3]
    q = fastdl.ones(3, requires_grad=True)
    z = q * 2
    with fastdl.no_grad():
        z.unsqueeze_(1)
    (z * z).sum().backward()
    assert q.grad.tolist() == [8.0] * 3


def test_the_version_counts_changes_in_place():
    x = fastdl.zeros(4)
    y = x.detach()
    steps = [
        lambda: x.add_(1),
        lambda: x[1:3].mul_(2),
        lambda: y.zero_(),
        lambda: fastdl.add(x, x, out=x),
        lambda: x.fill_(3),
        lambda: x.copy_(fastdl.ones(4)),
        lambda: x.__setitem__(0, 5.0),
        lambda: x.normal_(),
        lambda: x.clamp_(0),
    ]
    assert x._version == 0
    assert isinstance(x._version, int)
    for count, step in enumerate(steps, 1):
        step()
        assert x._version == y._version == count
    x.data.add_(1)  # outside of the count
    assert x._version == len(steps)
    assert fastdl.zeros(1).add_(1)._version == 1


def test_parts_that_are_slices_may_be_changed_in_place():
    x = fastdl.ones(4, 2, requires_grad=True)
    for cut in (fastdl.tensor_split, fastdl.vsplit, fastdl.hsplit):
        x.grad = None
        y = x * 1
        parts = cut(y, 2)
        parts[0].mul_(3)
        (y.sum() + parts[1].sum()).backward()
        assert x.grad.sum().item() == 4 * 3 + 4 * 2
        with pytest.raises(RuntimeError, match="one of several views"):
            (x * 1).split(2)[0].mul_(3)


@pytest.mark.parametrize(
    "name", ["eq_", "ne_", "gt_", "ge_", "lt_", "le_", "greater_", "less_equal_", "logical_and_"]
)
def test_comparisons_in_place_have_no_gradient(name):
    """But PyTorch's logical ones pass theirs on."""
    gradients = []
    for lib in (fastdl, torch):
        x = lib.tensor([1.0, -1.0, 2.0], requires_grad=True)
        z = getattr(x * 1, name)(lib.tensor([0.0, -1.0, 5.0]))
        (z * z * 3 + z).sum().backward()
        gradients.append(x.grad.tolist())
    assert gradients[0] == gradients[1]


@pytest.mark.parametrize("name", ["logical_not_", "logical_and_", "logical_or_", "logical_xor_"])
def test_logical_functions_change_leaves(name):
    """As PyTorch's do, which are not recorded."""
    found = []
    for lib in (fastdl, torch):
        x = lib.tensor([1.0, 0.0, 2.0], requires_grad=True)
        arguments = () if name == "logical_not_" else (lib.tensor([0.0, 1.0, 1.0]),)
        getattr(x, name)(*arguments)
        (x * 3).sum().backward()
        found.append((x.tolist(), x.requires_grad, x.is_leaf, x.grad.tolist()))
    assert found[0] == found[1]


# Operations on three matrices, and of which others the gradient of each takes the values.
READ = {
    "linear": (lambda a, b, c: fastdl.nn.functional.linear(a, b, c[0]), ({1}, {0}, set())),
    "linear and relu": (
        lambda a, b, c: fastdl.nn.functional.linear(a, b, c[0], activation="relu"),
        ({1}, {0}, set()),
    ),
    "matmul": (lambda a, b, c: a @ b + c, ({1}, {0}, set())),
    "bmm": (lambda a, b, c: fastdl.bmm(a[None], b[None]) + c, ({1}, {0}, set())),
    "mv": (lambda a, b, c: a @ b[0] + c, ({1}, {0}, set())),
    "dot": (lambda a, b, c: a[0] @ b[0] + c, ({1}, {0}, set())),
    "outer": (lambda a, b, c: fastdl.outer(a[0], b[0]) + c, ({1}, {0}, set())),
    "cross": (lambda a, b, c: fastdl.linalg.cross(a, b) + c, ({1}, {0}, set())),
    "einsum": (lambda a, b, c: fastdl.einsum("ij,jk,kl", a, b, c), ({1, 2}, {0, 2}, {0, 1})),
    "addmm": (lambda a, b, c: fastdl.addmm(c, a, b), ({1}, {0}, set())),
    "addmv": (lambda a, b, c: fastdl.addmv(c[0], a, b[0]), ({1}, {0}, set())),
    "addr": (lambda a, b, c: fastdl.addr(c, a[0], b[0]), ({1}, {0}, set())),
    "addcmul": (lambda a, b, c: fastdl.addcmul(c, a, b), ({1}, {0}, set())),
    "addcdiv": (lambda a, b, c: fastdl.addcdiv(c, a, b), ({1}, {0, 1}, set())),
    "lerp": (lambda a, b, c: fastdl.lerp(a, b, c), ({2}, {2}, {0, 1})),
    "hypot": (lambda a, b, c: fastdl.hypot(a, b) + c, ({0}, {1}, set())),
    "copysign": (lambda a, b, c: fastdl.copysign(a, b) + c, ({0}, set(), set())),
}


@pytest.mark.parametrize("needing", range(3))
@pytest.mark.parametrize("name", READ)
def test_only_what_a_gradient_takes_may_not_change(name, needing):
    function, read = READ[name]
    values = np.random.default_rng(0).uniform(0.5, 2, (3, 3, 3))

    def leaf_and_result():
        leaves = [fastdl.tensor(v, requires_grad=i == needing) for i, v in enumerate(values)]
        operands = [t * 1 for t in leaves]
        return leaves[needing], operands, function(*operands)

    leaf, _, y = leaf_and_result()
    (expected,) = fastdl.autograd.grad(y.square().sum(), leaf, create_graph=True)
    for changed in range(3):
        leaf, operands, y = leaf_and_result()
        loss = y.square().sum()
        with fastdl.no_grad():
            operands[changed].zero_()
        if changed in read[needing]:
            with pytest.raises(RuntimeError, match="was changed in place"):
                loss.backward()
        else:
            for create_graph in (True, False):
                (grad,) = fastdl.autograd.grad(loss, leaf, retain_graph=True, create_graph=create_graph)
                np.testing.assert_allclose(grad.detach().numpy(), expected.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 5), (0, 5)])
def test_below_a_frozen_weight_no_input_stays_in_memory(shape):
    x, weight = fastdl.rand(shape, requires_grad=True), fastdl.rand(2, 5)
    for activation in (None, "tanh"):
        for bias in (None, fastdl.rand(2, requires_grad=True)):
            grads = []
            for frozen in (True, False):
                hidden = x * 1
                array = weakref.ref(hidden._data)
                y = fastdl.nn.functional.linear(
                    hidden, weight.clone().requires_grad_(not frozen), bias, activation
                )
                del hidden
                assert (array() is None) == frozen
                grads.append(fastdl.autograd.grad(y.sum(), [x] if bias is None else [x, bias]))
            for one, other in zip(*grads, strict=True):
                assert fastdl.equal(one, other)


EXPANDED = {
    "expanded": lambda lib, a: a.expand(2, 3),
    "one element": lambda lib, a: a[:1].expand(3),
    "row of expanded": lambda lib, a: a.expand(3, 3)[1],
    "diagonal of expanded": lambda lib, a: a.expand(3, 3).diagonal(),
    "first of expanded": lambda lib, a: a.expand(2, 3)[:1],
    "none of expanded": lambda lib, a: a.expand(0, 3),
    "stride 0": lambda lib, a: a.as_strided((2, 2), (0, 1)),
}
FILLS = {
    "fill_": lambda lib, y: y.fill_(7),
    "zero_": lambda lib, y: y.zero_(),
    "init.ones_": lambda lib, y: lib.nn.init.ones_(y),
    "masked_fill_": lambda lib, y: y.masked_fill_(y > 1, 7.0),
    "index_fill_": lambda lib, y: y.index_fill_(-1, lib.tensor([0]), 7.0),
    "row": lambda lib, y: set_item(y, 0, 7),
    "mask": lambda lib, y: set_item(y, y > 1, 7.0),
    "index": lambda lib, y: set_item(y, [-1], 7.0),
    "all": lambda lib, y: set_item(y, ..., 7),
    "tensor": lambda lib, y: set_item(y, ..., lib.ones(y.shape)),
    "fill_ by a tensor": lambda lib, y: y.fill_(lib.tensor(7.0)),
    "copy_": lambda lib, y: y.copy_(lib.ones(y.shape)),
    "add_": lambda lib, y: y.add_(1),
    "relu_": lambda lib, y: y.relu_(),
    "cumsum_": lambda lib, y: y.cumsum_(0),
    "uniform_": lambda lib, y: y.uniform_(1, 1),
    "scatter_": lambda lib, y: y.scatter_(0, lib.zeros(y.shape, dtype=lib.int64), 7.0),
}


@pytest.mark.parametrize("seen", EXPANDED)
@pytest.mark.parametrize("change", FILLS)
@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_changes_of_expanded_tensors_and_of_their_parts(seen, change, recorded):
    """PyTorch lets one value come to every place, and parts be changed whose elements have addresses of their own."""

    def run(lib):
        leaf = lib.tensor([1.0, 2.0, 3.0], requires_grad=recorded)
        base = leaf * 1
        y = EXPANDED[seen](lib, base)
        FILLS[change](lib, y)
        found = [base.detach().tolist(), y.detach().tolist()]
        if recorded:
            found += lib.autograd.grad(base.sum() + (y * 2).sum(), leaf)[0].tolist()
        return found

    try:
        expected = run(torch)
    except (RuntimeError, IndexError):
        with pytest.raises((RuntimeError, IndexError)):
            run(fastdl)
        return
    assert run(fastdl) == expected


@pytest.mark.filterwarnings("ignore:Use of masked_fill_")
def test_expanded_gradients_may_be_filled():
    """That of a sum is one number, expanded."""
    found = []
    for lib in (torch, fastdl):
        x = lib.arange(6.0).reshape(2, 3).requires_grad_()
        (g,) = lib.autograd.grad(x.sum(), x)
        g.masked_fill_(lib.tensor([True, False, False]), 5.0)
        g.view(-1)[0] = 3.0
        with pytest.raises(RuntimeError):
            g.mul_(2)
        found.append(g.tolist())
    assert found[0] == found[1]


@pytest.mark.parametrize("change", ["t_", "unsqueeze_", "squeeze_"])
def test_changes_of_shape_are_refused_where_changes_of_values_are(change):
    for lib in (torch, fastdl):
        x = lib.ones(2, 3, requires_grad=True)
        for view in (x[:1], (x * 2).unbind(0)[0]):
            with pytest.raises(RuntimeError, match=r"view"):
                getattr(view, change)(*(0,) if change == "unsqueeze_" else ())


def test_a_read_only_array_stays_read_only():
    array = np.arange(3.0)
    seen = array[:]
    seen.flags.writeable = False
    x = fastdl.from_numpy(seen)
    for y in (x, x[:2], x.expand(2, 3), x.expand(2, 3)[0]):
        with pytest.raises(RuntimeError, match="read-only"):
            y.fill_(1)
    assert array.tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("dtype", ["bool", "float32", "int64"])
def test_what_writes_over_its_tensor_takes_no_memory(dtype):
    """Masks, triangles and conversions in place have one pass and no result of their own."""
    x = fastdl.ones(800, 90, dtype=fastdl.float32).to(getattr(fastdl, dtype))
    other, wide = x.clone(), fastdl.ones(800, 90, dtype=fastdl.float64)
    calls = [x.tril_, x.triu_, lambda: x.copy_(wide), lambda: x.copy_(other)]
    if dtype == "bool":
        calls += [
            x.logical_not_,
            *[lambda f=f: f(other) for f in (x.logical_and_, x.logical_or_, x.logical_xor_)],
        ]
    if dtype == "float32":
        calls += [x.nan_to_num_, lambda: x.addcmul_(x, x), lambda: x.lerp_(other, 0.5), lambda: x.pow_(2)]
    for call in calls:
        version, place = x._version, x.data_ptr()
        fastdl.reset_peak_memory_stats()
        assert call() is x
        stats = fastdl.memory_stats()
        assert stats["in_use_peak"] - stats["in_use"] < x.nbytes // 2
        assert (x._version, x.data_ptr()) == (version + 1, place)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("n", [5, 3000])
def test_masked_fill_in_place_of_half_precision(dtype, n):
    mask = np.random.default_rng(0).integers(0, 2, (n, 3)).astype(bool)
    found = []
    for lib in (torch, fastdl):
        x = lib.arange(3.0 * n).reshape(n, 3).to(getattr(lib, dtype))
        for value in (-0.0, 0.1, -float("inf"), lib.tensor(2.5)):
            x.t().masked_fill_(lib.from_numpy(mask.T.copy()), value)
            x[::2].masked_fill_(lib.from_numpy(~mask[::2]), value)
            found.append(x.double().numpy().copy())
    np.testing.assert_array_equal(found[:4], found[4:])


LOGICAL = ["logical_and_", "logical_or_", "logical_xor_"]


@pytest.mark.parametrize("dtype", ["bool", "float32", "int64", "uint8"])
@pytest.mark.parametrize("name", [*LOGICAL, "logical_not_", "eq_", "lt_", "tril_", "triu_"])
def test_masks_in_place_on_memory_in_any_order(name, dtype):
    """Transposed, sparse, reversed beside itself, of another shape that broadcasts: PyTorch decides."""
    values = np.random.default_rng(3).integers(0, 3, (70, 70)).astype(dtype)
    for prepare in (
        lambda x: (x, x.t()),
        lambda x: (x.t(), x),
        lambda x: (x[::2, 1::2], x[1::2, ::2]),
        lambda x: (x, x[:1]),
        lambda x: (x[1:], x[:-1]),
    ):
        found = []
        for lib in (torch, fastdl):
            whole = lib.from_numpy(values.copy())
            x, y = prepare(whole)
            y = y if lib is fastdl else y.clone()  # which PyTorch refuses, or reads while it changes
            with fastdl.no_grad():
                getattr(x, name)(*([y] if name in (*LOGICAL, "eq_", "lt_") else []))
            found.append(whole.numpy())
        np.testing.assert_array_equal(*found)


def test_nan_to_num_in_place_and_into_a_result():
    values = [float("nan"), float("inf"), -float("inf"), -0.0, 2.5]
    for dtype in ("float32", "float64", "bfloat16", "float16"):
        for numbers in (values, values[3:]):
            found = []
            for lib in (torch, fastdl):
                x, out = (
                    lib.tensor(numbers, dtype=getattr(lib, dtype)),
                    lib.empty(0, dtype=getattr(lib, dtype)),
                )
                lib.nan_to_num(x, 7.0, out=out)
                view = x[1:]
                assert view.nan_to_num_(posinf=3.0) is view
                assert x._version == 1
                found.append([out.tolist(), str(x.tolist()), x._version])
            assert found[0] == found[1]
    x = fastdl.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(RuntimeError):
        fastdl.nan_to_num(x, out=x)
    with pytest.raises(RuntimeError):
        fastdl.nan_to_num(fastdl.ones(2), out=x)
    assert x.tolist() == [1.0, 2.0]
    y = x * 1
    (y.nan_to_num_() * y).sum().backward()
    assert x.grad.tolist() == [2.0, 4.0]


def test_errors_of_masks_and_triangles_name_them():
    x, mask = fastdl.ones(3, 3), fastdl.ones(3, 3) > 0
    for name, call in (
        ("tril", lambda: fastdl.tril(x, out=fastdl.zeros(3, 2))),
        ("triu", lambda: fastdl.triu(x, out=fastdl.zeros(3, 3, dtype=fastdl.int64))),
        ("logical_not", lambda: fastdl.logical_not(x, out=fastdl.zeros(3, 4))),
        ("logical_and", lambda: fastdl.logical_and(mask, mask, out=fastdl.zeros(3, 4))),
    ):
        with pytest.raises(RuntimeError, match=f"^{name}: "):
            call()
