"""What packages of third parties ran into: names they import, and what they do with modules and distributions."""

import copy
import os
import subprocess
import sys
import threading
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import fastdl
from fastdl import distributions, futures, nn
from fastdl.utils import _pytree
from fastdl.utils.data import DataLoader, TensorDataset, dataloader

torch = pytest.importorskip("torch")


def test_a_module_s_own_getattr_is_asked_for_what_is_registered():
    """Pyro's modules make a statement of every reading of a parameter."""

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1)
            self.weight = nn.Parameter(fastdl.ones(1))
            self.register_buffer("steps", fastdl.zeros(1))
            self.plain = 3

        def __getattr__(self, name):
            if name == "elsewhere":
                return 4
            seen.append(name)
            return super().__getattr__(name)

    seen = []
    module = Watched()
    seen.clear()
    for _ in range(2):
        assert isinstance(module.weight, nn.Parameter)
        assert module.layer(fastdl.ones(1)).shape == (1,)
        assert module.steps.item() == 0
    assert (module.plain, module.elsewhere, module.training) == (3, 4, True)
    assert seen == ["weight", "layer", "steps"] * 2
    with pytest.raises(AttributeError, match="nothing"):
        _ = module.nothing


@pytest.mark.parametrize("library", [fastdl, torch])
def test_a_module_that_asks_another_one_is_copied(library):
    made = wrapper(library)
    for copied in (copy.copy(made), copy.deepcopy(made)):
        assert copied.in_features == 2
        assert copied.weight.shape == (3, 2)


def wrapper(library):
    class Wrapper(library.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def __getattr__(self, name):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(self.module, name)

    return Wrapper(library.nn.Linear(2, 3))


def test_a_transform_or_distribution_may_be_a_module():
    class Flow(distributions.transforms.AffineTransform, nn.Module):
        def __init__(self):
            super().__init__(0.0, 2.0)
            self.bias = nn.Parameter(fastdl.ones(1))

        __hash__ = nn.Module.__hash__

    assert [name for name, _ in Flow().named_parameters()] == ["bias"]


@pytest.mark.parametrize("library", [fastdl, torch])
def test_distributions_of_a_program_s_own(library):
    dist = library.distributions

    class Delta(dist.Distribution):
        arg_constraints: ClassVar = {"v": dist.constraints.dependent}  # which cannot be checked alone

        def __init__(self, v, validate_args=None):
            self.v = v
            super().__init__(v.shape, (), validate_args)

    assert Delta(library.ones(2)).batch_shape == (2,)

    class Rate(dist.Poisson):
        def expand(self, batch_shape, _instance=None):
            new = self._get_checked_instance(dist.Poisson, _instance)
            new.rate = self.rate.expand(batch_shape)
            super(dist.Poisson, new).__init__(batch_shape, validate_args=False)
            return new

    assert Rate(library.tensor(2.0)).expand((3,)).log_prob(library.tensor(1.0)).shape == (3,)

    class DiagNormal(dist.Independent):
        def __init__(self, loc, scale):
            super().__init__(dist.Normal(loc, scale), 1)

        def expand(self, batch_shape, new=None):
            return super().expand(batch_shape, self._get_checked_instance(DiagNormal, new))

    wide = DiagNormal(library.zeros(3), library.ones(3)).expand((2,))
    assert type(wide) is DiagNormal
    assert (tuple(wide.batch_shape), tuple(wide.event_shape)) == ((2,), (3,))

    class Own(dist.Normal):
        def __init__(self):
            super().__init__(0.0, 1.0)

    with pytest.raises(NotImplementedError, match=r"expand\(\)"):
        Own()._get_checked_instance(dist.Normal)


def test_the_entropy_of_an_exponential_family():
    from fastdl.distributions.exp_family import ExponentialFamily  # by PyTorch's path

    assert ExponentialFamily is distributions.ExponentialFamily

    def entropy(library):
        class Wait(library.distributions.ExponentialFamily):
            def __init__(self, rate):
                self.rate = rate
                super().__init__(rate.shape, validate_args=False)

            _mean_carrier_measure = 0

            @property
            def _natural_params(self):
                return (-self.rate,)

            def _log_normalizer(self, x):
                return -library.log(-x)

        return Wait(library.tensor([0.5, 2.0])).entropy().tolist()

    expected = distributions.Exponential(fastdl.tensor([0.5, 2.0])).entropy().tolist()
    assert entropy(fastdl) == pytest.approx(expected)
    assert entropy(fastdl) == pytest.approx(entropy(torch))
    with pytest.raises(NotImplementedError):
        distributions.ExponentialFamily().entropy()


def test_utilities_of_distributions():
    utils = distributions.utils  # there without an import of its own
    _standard_normal, _sum_rightmost = utils._standard_normal, utils._sum_rightmost
    clamp_probs = utils.clamp_probs
    x = fastdl.arange(24.0).reshape(2, 3, 4)
    assert _sum_rightmost(x, 2).tolist() == [66.0, 210.0]
    assert _sum_rightmost(x, 0) is x
    assert _standard_normal((2, 3), fastdl.float64, "cpu").dtype == fastdl.float64
    limits = clamp_probs(fastdl.tensor([0.0, 1.0])).tolist()
    assert limits == torch.distributions.utils.clamp_probs(torch.tensor([0.0, 1.0])).tolist()
    assert fastdl._standard_gamma(fastdl.ones(4)).min().item() > 0
    assert fastdl._sample_dirichlet(fastdl.ones(2, 3)).sum(-1).tolist() == pytest.approx([1.0, 1.0])


NAMES = [n for n in dir(torch) if n.startswith("_foreach_") and n not in ("_foreach_mm", "_foreach_powsum")]


def _arguments(name, library):
    def tensors(seed):
        values = np.random.RandomState(seed).rand(2, 3).astype("float32") * 0.5 + 0.3
        return [library.tensor(values[0]), library.tensor(values[1]).reshape(3, 1)]

    method = name.removeprefix("_foreach_").removesuffix("_")
    if method in ("addcmul", "addcdiv"):
        rest = [(tensors(1), tensors(2)), (tensors(1), tensors(2), 0.5), (tensors(1), tensors(2), [0.5, 2.0])]
        rest.append((tensors(1), tensors(2), library.tensor([0.5, 2.0])))
    elif method == "lerp":
        rest = [(tensors(1), 0.25), (tensors(1), tensors(2)), (tensors(1), [0.25, 0.75])]
    elif method == "copy":
        rest = [(tensors(1),)]
    elif method == "norm":
        rest = [(), (1,), (float("inf"),)]
    elif method in "add sub mul div pow clamp_max clamp_min maximum minimum".split():
        rest = [(0.5,), ([0.5, 2.0],), (tensors(1),)]
    else:
        rest = [()]
    return [(tensors(0), *more) for more in rest]


@pytest.mark.parametrize("name", NAMES)
def test_functions_for_each_tensor_of_a_list(name):
    for ours, theirs in zip(_arguments(name, fastdl), _arguments(name, torch), strict=True):
        results = getattr(fastdl, name)(*ours)
        expected = getattr(torch, name)(*theirs)
        for result, other in zip(results, expected, strict=True):
            np.testing.assert_allclose(result.numpy(), other.numpy(), rtol=2e-6, atol=1e-7)
        if name.endswith("_"):
            assert all(result is tensor for result, tensor in zip(results, ours[0], strict=True))


def test_functions_for_each_tensor_with_factors():
    lists = [[library.ones(2), library.zeros(2)] for library in (fastdl, torch)]
    for values, library in zip(lists, (fastdl, torch), strict=True):
        library._foreach_add_(values, [library.ones(2)] * 2, alpha=-0.5)
        assert [v.tolist() for v in values] == [[0.5, 0.5], [-0.5, -0.5]]
        powers = library._foreach_pow(2.0, [library.ones(1), library.zeros(1)])
        assert [v.tolist() for v in powers] == [[2.0], [1.0]]
    with pytest.raises(RuntimeError, match="same length"):
        fastdl._foreach_mul(lists[0], [1.0])
    with pytest.raises(AttributeError):
        _ = fastdl._foreach_nothing


@pytest.mark.parametrize("library", [fastdl, torch])
def test_what_functions_for_each_tensor_refuse(library):
    x = [library.ones(2), library.ones(3)]
    for kind in (list, tuple):
        assert type(library._foreach_add(kind(x), 1)) is tuple
        assert type(library._foreach_add_(kind(x), 1)) is kind
    for name, arguments in (
        ("add", ([], 1)),
        ("zero_", ([],)),
        ("mul", (x, library.ones(1))),
        ("addcdiv", (x, x, x, library.tensor(2.0))),
        ("zero_", ([library.ones(1, requires_grad=True)],)),
    ):
        with pytest.raises(RuntimeError):
            getattr(library, f"_foreach_{name}")(*arguments)
    for wrong in (library.ones(2), iter(x), [1.0]):
        with pytest.raises(TypeError):
            library._foreach_add(wrong, 1)


@pytest.mark.filterwarnings("ignore")  # PyTorch warns of these forms
def test_older_forms_in_linear_algebra():
    values = np.random.RandomState(0).randn(2, 3, 3).astype("float32")
    x, y = fastdl.tensor(values), torch.tensor(values)
    for ours, theirs in (
        (x.lu(), y.lu()),
        (fastdl.lu(x, get_infos=True), torch.lu(y, get_infos=True)),
        (fastdl.triangular_solve(x, x), torch.triangular_solve(y, y)),
        (x.triangular_solve(x, False, True, True), y.triangular_solve(y, False, True, True)),
    ):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-4)
    with pytest.raises(np.linalg.LinAlgError, match="singular"):
        fastdl.lu(fastdl.zeros(2, 2))


def test_seldom_names():
    x = fastdl.zeros(2, requires_grad=True)
    value = fastdl.tensor(3.0, requires_grad=True)
    fastdl.fill(x, value).sum().backward()
    assert (x.grad.tolist(), value.grad.item()) == ([0.0, 0.0], 2.0)
    assert (fastdl.sym_int(3.7), fastdl.sym_max(1, 2)) == (3, 2)
    assert not isinstance(3, fastdl.SymInt)
    assert not fastdl.is_inference_mode_enabled()
    with fastdl.autocast("cpu", fastdl.float16):
        assert fastdl.is_autocast_cpu_enabled()
        assert fastdl.get_autocast_cpu_dtype() == fastdl.float16
    fastdl._assert(fastdl.tensor(True), "not raised")
    with pytest.raises(AssertionError, match="why"):
        fastdl._assert(False, "why")
    with pytest.raises(RuntimeError, match="why"):
        fastdl._assert_async(fastdl.zeros(1), "why")
    rows = [0, 0, 2, 2, 2]
    starts = fastdl._convert_indices_from_coo_to_csr(fastdl.tensor(rows), 4)
    assert starts.tolist() == torch._convert_indices_from_coo_to_csr(torch.tensor(rows), 4).tolist()
    pair = fastdl._convert_indices_from_csr_to_coo(starts, fastdl.tensor([4, 5, 6, 7, 8]))
    assert pair.tolist() == [rows, [4, 5, 6, 7, 8]]
    parts = fastdl._segment_reduce(fastdl.tensor([1.0, 3.0, 2.0]), "amax", offsets=fastdl.tensor([0, 2, 3]))
    assert parts.tolist() == [3.0, 2.0]
    assert fastdl.cuda.set_rng_state_all(fastdl.cuda.get_rng_state_all()) is None


def test_values_that_come_later():
    later = futures.Future()
    order = []
    chained = later.then(lambda done: done.value() + 1)
    later.add_done_callback(lambda done: order.append(done.wait()))
    assert not later.done()
    with pytest.raises(RuntimeError, match="no value yet"):
        later.value()
    threading.Timer(0.01, later.set_result, [1]).start()
    assert chained.wait() == 2
    assert order == [1]
    with pytest.raises(RuntimeError, match="set already"):
        later.set_result(2)
    failed = futures.Future()
    after = failed.then(lambda done: done.wait())
    failed.set_exception(ZeroDivisionError())
    for future in (failed, after):
        with pytest.raises(ZeroDivisionError):
            future.wait()
    with pytest.raises(ValueError, match="must be an Exception"):
        futures.Future().set_exception("text")
    assert futures.wait_all([later, chained]) == [1, 2]
    assert futures.collect_all([]).wait() == []
    assert fastdl.Future is futures.Future


def test_a_value_that_comes_is_set_once():
    later = futures.Future()
    later.set_result(1)
    later._future.done = lambda: False  # as a thread sees it that comes at the same time
    for again in (lambda: later.set_result(2), lambda: later.set_exception(ValueError())):
        with pytest.raises(RuntimeError, match="set already"):
            again()


def test_nests_have_kinds_that_packages_may_read():
    Pair = namedtuple("Pair", "a b")
    tree = {"x": [1, (2, Pair(3, 4))], "y": OrderedDict(z=5)}
    leaves, spec = _pytree.tree_flatten(tree)
    assert leaves == [1, 2, 3, 4, 5]
    assert _pytree.tree_unflatten(leaves, spec) == tree
    assert _pytree._get_node_type(Pair(1, 2)) is namedtuple
    _, context = _pytree.SUPPORTED_NODES[dict].flatten_fn(tree)
    assert context == ["x", "y"]
    made = _pytree.TreeSpec(dict, context, [_pytree.LeafSpec(), _pytree.LeafSpec()])
    assert _pytree.tree_unflatten([1, 2], made) == {"x": 1, "y": 2}


def test_iterators_of_loaders_have_kinds():
    data = TensorDataset(fastdl.arange(4))
    here, there = iter(DataLoader(data, 2)), iter(DataLoader(data, 2, num_workers=1))
    assert isinstance(here, dataloader._SingleProcessDataLoaderIter)
    assert isinstance(there, dataloader._MultiProcessingDataLoaderIter)
    assert isinstance(here, dataloader._BaseDataLoaderIter)
    assert len(here) == len(there) == 2
    assert [b[0].tolist() for b in here] == [b[0].tolist() for b in there] == [[0, 1], [2, 3]]


def test_pieces_for_devices():
    from fastdl.nn.parallel.scatter_gather import gather, scatter

    x = fastdl.arange(6.0).reshape(3, 2)
    pieces = scatter({"x": x, "n": 3, "more": [x]}, ["cpu", "cpu"])
    assert [(p["x"].shape[0], p["n"], p["more"][0].shape[0]) for p in pieces] == [(2, 3, 2), (1, 3, 1)]
    assert gather([{"x": p["x"]} for p in pieces], "cpu")["x"].tolist() == x.tolist()
    assert gather([(x, None), (x, None)], "cpu")[0].shape == (6, 2)


def test_what_is_not_there_says_so():
    assert not fastdl.distributed.is_nccl_available()
    assert fastdl.distributed.ReduceOp.SUM.name == "SUM"
    assert fastdl.distributed.group.WORLD is None
    for call in (
        lambda: fastdl.distributed.all_gather_object([], 1),
        lambda: fastdl.distributed.FileStore("file"),
        lambda: fastdl.onnx.export(nn.Linear(1, 1)),
        lambda: fastdl.autograd.forward_ad.make_dual(fastdl.ones(1), fastdl.ones(1)),
        lambda: fastdl.autograd.forward_ad.dual_level().__enter__(),
    ):
        with pytest.raises(RuntimeError, match=r"docs/differences\.md"):
            call()
    x = fastdl.ones(1)
    assert fastdl.autograd.forward_ad.unpack_dual(x) == (x, None)
    assert not fastdl.onnx.is_in_onnx_export()
    fastdl.serialization.add_safe_globals([int])
    assert fastdl.serialization.get_safe_globals() == []
    with fastdl.serialization.safe_globals([int]):
        pass


def test_types_of_scripts():
    is_a = fastdl.jit.isinstance
    assert is_a([1, 2], list[int])
    assert not is_a([1, "a"], list[int])
    assert is_a({"a": [1.0]}, dict[str, list[float]])
    assert is_a(None, int | None)
    assert is_a((1, "a"), tuple[int, str])
    assert not is_a((1,), tuple[int, str])
    assert is_a(fastdl.ones(1), (int, fastdl.Tensor))
    assert fastdl.jit.Attribute(3, int) == 3


PROGRAM = """
import sys
import torch
from torch._C import _get_tracing_state
from torch._subclasses.fake_tensor import is_fake
from torch._tensor_str import PRINT_OPTS, _tensor_str
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel.distributed import DistributedDataParallel
from torch.utils._foreach_utils import _group_tensors_by_device_and_dtype
from torch.utils.data._utils.collate import default_collate, default_collate_fn_map
import torch.functional

x = torch.arange(6.0)
assert torch.functional.einsum("i,i", x, x).item() == 55
default_collate_fn_map[complex] = lambda batch, *, collate_fn_map: sum(batch)
assert default_collate([(1, 1j), (2, 2j)])[1] == 3j
assert torch.complex32.is_complex and x.dtype != torch.complex32 and str(torch.chalf) == "torch.complex32"
assert _get_tracing_state() is None and not is_fake(x) and default_collate([1, 2]).tolist() == [1, 2]
flat = _flatten_dense_tensors([x[:2], x[2:].reshape(2, 2)])
a, b = _unflatten_dense_tensors(flat, [x[:2], x[2:].reshape(2, 2)])
assert flat.tolist() == x.tolist() and b.tolist() == [[2, 3], [4, 5]]
groups = _group_tensors_by_device_and_dtype([[x, x.long(), x]], with_indices=True)
assert [v[1] for v in groups.values()] == [[0, 2], [1]]
where, dtype, non_blocking, _ = torch._C._nn._parse_to("cpu", torch.float64)
assert (where.type, dtype, non_blocking) == ("cpu", torch.float64, False)
with torch._tensor_str.printoptions(precision=1):
    assert PRINT_OPTS.precision == 1 and _tensor_str(x[:2], 0) == "[0., 1.]"
assert PRINT_OPTS.precision == 4
assert torch.ops.aten.add.Tensor is torch.ops.aten.add.Tensor and torch.ops.aten.relu(-x).sum() == 0
"""


def test_private_modules():
    environment = {**os.environ, "PYTHONPATH": str(Path(fastdl.__file__).parents[1])}
    program = f"from fastdl.as_torch import install\ninstall()\n{PROGRAM}"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
