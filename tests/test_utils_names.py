"""Names that programs for PyTorch use: timers, nests, registered operations, devices that are not there."""

import collections

import numpy as np
import pytest

import fastdl
from fastdl.utils import _pytree
from fastdl.utils.benchmark import Compare, Measurement, TaskSpec, Timer


def test_timer_measures_with_its_threads():
    before = fastdl.get_num_threads()
    seen = []
    measured = Timer(
        "f(x)",
        globals={"f": lambda x: seen.append(fastdl.get_num_threads()), "x": 1},
        label="calls",
        sub_label="one",
        description="now",
    ).blocked_autorange(min_run_time=0.01)
    assert set(seen) == {1}
    assert fastdl.get_num_threads() == before
    assert measured.number_per_run * len(measured.raw_times) <= len(seen)
    assert 0 < measured.median < 1e-3
    assert "calls: one" in repr(measured)
    assert "Median" in repr(measured)
    assert Timer("fastdl.ones(2)", num_threads=2).timeit(10).num_threads == 2
    assert Timer("pass").adaptive_autorange(min_run_time=1e-3, max_run_time=0.05).median > 0
    with pytest.raises(ValueError, match="Python"):
        Timer("x", language="c++")
    with pytest.raises(NotImplementedError, match="blocked_autorange"):
        Timer().repeat()


def measurement(times, **names):
    return Measurement(10, [10 * t for t in times], TaskSpec("f()", "pass", **names))


def test_statistics_of_a_measurement():
    m = measurement([1e-6, 2e-6, 3e-6, 4e-6])
    assert m.median == pytest.approx(2.5e-6)
    assert m.mean == pytest.approx(2.5e-6)
    assert m.iqr == pytest.approx(1.5e-6)
    assert m.has_warnings
    steady = measurement([1e-3] * 5)
    assert not steady.has_warnings
    assert steady.significant_figures == 4
    (merged,) = Measurement.merge([m, m])
    assert len(merged.times) == 8
    assert merged.median == pytest.approx(2.5e-6)


def test_compare_prints_a_table():
    results = [
        measurement([t * 1e-6] * 3, label="sums", sub_label=row, description=column, num_threads=threads)
        for t, row, column, threads in (
            (1, "64", "ours", 1),
            (2.25, "64", "theirs", 1),
            (30, "4096", "ours", 1),
            (10, "4096", "ours", 2),
        )
    ]
    table = Compare(results)
    table.trim_significant_figures()
    table.colorize(rowwise=True)
    lines = str(table).splitlines()
    assert lines[0] == "sums"
    assert lines[-1] == "Times are in us."
    assert [cell.strip() for cell in lines[1].split("|")] == ["", "ours", "theirs"]
    assert lines[2].startswith("1 thread: ---")
    assert lines[5].startswith("2 threads: -")
    assert [cell.strip() for cell in lines[3].split("|")] == ["64", "1*", "2.25"]
    assert [cell.strip() for cell in lines[4].split("|")] == ["4096", "30", ""]
    assert len({len(line) for line in lines[1:-1]}) == 1
    with pytest.raises(ValueError, match="int"):
        Compare([3])


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(
    "tree",
    [
        3,
        [1, (2, {"a": 3, "b": [4]})],
        Point(1, [2]),
        collections.OrderedDict(b=1, a=2),
        collections.defaultdict(list, k=[1, 2]),
        [],
        None,
    ],
    ids=str,
)
def test_nests_come_back(tree):
    leaves, spec = _pytree.tree_flatten(tree)
    again = _pytree.tree_unflatten(leaves, spec)
    assert again == tree
    assert type(again) is type(tree)
    assert spec.num_leaves == len(leaves)
    assert _pytree.tree_leaves(_pytree.tree_map(str, tree)) == [str(leaf) for leaf in leaves]


def test_nests_that_differ():
    assert _pytree.tree_map(lambda a, b: a * b, {"a": [2]}, {"a": [3]}) == {"a": [6]}
    assert _pytree.tree_map_only(int, lambda a: -a, [1, "x"]) == [-1, "x"]
    assert _pytree.tree_leaves([1, (2, 3)], is_leaf=lambda t: isinstance(t, tuple)) == [1, (2, 3)]
    with pytest.raises(ValueError, match="differ in shape"):
        _pytree.tree_map(lambda a, b: a, [1], [1, 2])
    with pytest.raises(ValueError, match="2 leaves, got 1"):
        _pytree.tree_unflatten([1], _pytree.tree_flatten([1, 2])[1])


def test_registered_operations():
    @fastdl.library.custom_op("tests::scaled", mutates_args=())
    def scaled(x: fastdl.Tensor, factor: float = 2.0, *, shift: float = 0.0) -> fastdl.Tensor:
        return x * factor + shift

    x = fastdl.tensor([1.0, 3.0], requires_grad=True)
    assert scaled(x, shift=1.0).tolist() == [3.0, 7.0]
    with pytest.raises(RuntimeError, match="register_autograd"):
        scaled(x).sum().backward()

    def setup(ctx, inputs, output, keyword_only_inputs=None):
        ctx.factor = inputs[1]

    scaled.register_autograd(lambda ctx, grad: (grad * ctx.factor, None), setup_context=setup)
    scaled(x, 5.0, shift=1.0).sum().backward()
    assert x.grad.tolist() == [5.0, 5.0]
    assert fastdl.autograd.gradcheck(lambda x: scaled(x, 3.0), (x.detach().double().requires_grad_(),))

    @scaled.register_kernel("cpu")
    def _(x, factor=2.0, *, shift=0.0):
        return x * 0

    assert scaled(x).tolist() == [0.0, 0.0]
    with pytest.raises(TypeError, match="tests::scaled"):
        scaled()
    with pytest.raises(ValueError, match="namespace::name"):
        fastdl.library.custom_op("scaled", lambda x: x, mutates_args=())
    with pytest.raises(RuntimeError, match="custom_op"):
        fastdl.library.register_fake("tests::unknown", lambda x: x)


def test_make_tensor():
    fastdl.manual_seed(3)
    x = fastdl.testing.make_tensor(4, 6, dtype=fastdl.float32, low=-1, high=2, noncontiguous=True)
    assert x.shape == (4, 6)
    assert not x.is_contiguous()
    assert x.min() >= -1
    assert x.max() < 2
    assert not (x == fastdl.testing.make_tensor(4, 6, dtype=fastdl.float32, low=-1, high=2)).any()
    n = fastdl.testing.make_tensor((1000,), dtype=fastdl.int64, low=0, high=3, exclude_zero=True)
    assert set(n.tolist()) == {1, 2}
    assert fastdl.testing.make_tensor((50,), dtype=fastdl.bool).dtype == fastdl.bool
    assert fastdl.testing.make_tensor((), dtype=fastdl.float64, requires_grad=True).requires_grad
    with pytest.raises(ValueError, match="low"):
        fastdl.testing.make_tensor((2,), dtype=fastdl.float32, low=2, high=1)


def test_devices_and_libraries_that_are_not_there():
    assert not fastdl.mps.is_available()
    assert not fastdl.xpu.is_available()
    assert fastdl.mps.device_count() == fastdl.xpu.device_count() == 0
    assert not fastdl.backends.mkldnn.is_available()
    assert not fastdl.backends.openmp.is_available()
    with fastdl.backends.mkldnn.flags(enabled=False):
        pass
    cuda = fastdl.backends.cuda
    with cuda.sdp_kernel(enable_flash=False, enable_math=True):
        assert not cuda.flash_sdp_enabled()
        assert cuda.math_sdp_enabled()
    assert cuda.flash_sdp_enabled()
    cuda.enable_mem_efficient_sdp(False)
    assert not cuda.mem_efficient_sdp_enabled()
    assert cuda.cudnn_sdp_enabled()
    cuda.enable_mem_efficient_sdp(True)


def test_small_names():
    x = fastdl.ones(3)
    assert isinstance(x.layout, fastdl.layout)
    assert repr(x.layout) == "fastdl.strided"
    np.testing.assert_array_equal(np.from_dlpack(x), fastdl.utils.dlpack.from_dlpack(x).numpy())
    assert fastdl.cond(x.sum() > 5, lambda a: a, lambda a: -a, (x,)).tolist() == [-1, -1, -1]
    layer = fastdl.nn.Linear(3, 1, bias=False)
    assert fastdl.nn.utils.stateless.functional_call(layer, {"weight": x[None]}, (x,)).item() == 3
    output, along = fastdl.func.linearize(lambda a, b: (a * b).sum(), x, 2 * x)
    assert output.item() == 6
    assert along(x, 0 * x).item() == 6
    assert "threads" in fastdl.__config__.show()
    assert "thread" in fastdl.__config__.parallel_info()
    assert fastdl.get_deterministic_debug_mode() == 2
    with pytest.raises(ValueError, match="debug_mode"):
        fastdl.set_deterministic_debug_mode("loud")
    fastdl.testing.assert_close(
        fastdl.tensor([1.0], dtype=fastdl.bfloat16), fastdl.tensor([1.0078125], dtype=fastdl.bfloat16)
    )


def test_a_registered_class_is_a_nest():
    class Pair:
        def __init__(self, a, b):
            self.a, self.b = a, b

    _pytree.register_pytree_node(
        Pair,
        lambda p: ([p.a, p.b], "context"),
        lambda parts, context: Pair(*parts) if context == "context" else None,
    )
    leaves, spec = _pytree.tree_flatten([Pair(1, (2, 3)), 4])
    assert leaves == [1, 2, 3, 4]
    assert _pytree.tree_unflatten("abcd", spec)[0].b == ("b", "c")
    assert _pytree._dict_unflatten(*_pytree._dict_flatten({"x": 1})) == {"x": 1}
    assert _pytree._dict_flatten_with_keys({"x": 1}) == ([(_pytree.MappingKey("x"), 1)], ["x"])
    with pytest.raises(ValueError, match="already registered"):
        _pytree.register_pytree_node(Pair, list, tuple)
