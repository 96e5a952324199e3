"""What training scripts ran into; see ``test_scripts.py``."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import inspect
import io
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

import fastdl
from fastdl import absent, nn
from fastdl.kernels import precisions
from fastdl.kernels.sparse import SparseArray
from fastdl.nn import functional as F
from fastdl.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

ABSENT = (Path(__file__).parents[1] / "docs" / "differences.md").read_text()


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
            if not inspect.isroutine(function) or name.startswith(("set_", "use_", "seed", "manual")):
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
                            tensors += fastdl.autograd.grad(
                                y.real.sum(), x, retain_graph=True, allow_unused=True
                            )
                        found |= {
                            name
                            for t in tensors
                            if t is not None and not isinstance(t._data, (np.ndarray, SparseArray))
                        }
    assert not found
    assert tried > 2000


def test_shapes_count_and_make_tensors():
    x = fastdl.ones(2, 3, 4)
    assert x.shape.numel() == 24
    assert x.size()[1:].numel() == 12
    assert (x.shape[:1] + x.shape[2:]).numel() == 8
    assert fastdl.Tensor(x.size()).shape == (2, 3, 4)
    assert fastdl.Tensor((2, 3)).tolist() == [2.0, 3.0]
    assert (repr(x.shape), x.shape[-1], hash(x.shape)) == ("(2, 3, 4)", 4, hash((2, 3, 4)))
    assert pickle.loads(pickle.dumps(x.shape)) == (2, 3, 4)
    assert fastdl.Size([1, 2]) == (1, 2)


def test_modules_follow_the_default_dtype():
    fastdl.set_default_dtype(fastdl.float64)
    try:
        modules = [nn.Linear(2, 2), nn.BatchNorm1d(2), nn.LSTM(2, 2), nn.Embedding(2, 2), nn.LazyLinear(2)]
        found = {p.dtype for m in modules for p in [*m.parameters(), *m.buffers()] if p.is_floating_point()}
        assert found == {fastdl.float64}
        assert nn.Transformer.generate_square_subsequent_mask(2).dtype == fastdl.float64
        assert modules[0](fastdl.rand(1, 2)).dtype == fastdl.float64
    finally:
        fastdl.set_default_tensor_type("torch.FloatTensor")
    assert fastdl.get_default_dtype() == nn.Linear(1, 1).weight.dtype == fastdl.float32


def test_types_of_tensors_in_the_older_notation():
    x = fastdl.tensor([1.5, 2.0])
    assert x.type(fastdl.LongTensor).tolist() == [1, 2]
    assert isinstance(x, fastdl.FloatTensor)
    assert not isinstance(x, fastdl.LongTensor)
    assert not isinstance([1.5], fastdl.FloatTensor)
    assert x.long().new(2, 3).dtype == fastdl.LongTensor(3).dtype == fastdl.int64
    assert x.new([1, 2]).tolist() == [1.0, 2.0]
    assert (x.layout, x.is_sparse, x.is_quantized) == (fastdl.strided, False, False)


def test_the_older_order_of_arguments():
    x, y = fastdl.tensor([1.0, 2.0]), fastdl.tensor([3.0, 5.0])
    with pytest.warns(UserWarning, match="older order"):
        assert fastdl.add(x, 2, y).tolist() == [7.0, 12.0]
    with pytest.warns(UserWarning, match="older order"):
        assert x.clone().add_(-0.5, y).tolist() == [-0.5, -0.5]
    with pytest.warns(UserWarning, match="older order"):
        assert x.sub(2, y).tolist() == [-5.0, -8.0]
    with pytest.warns(UserWarning, match="older order"):
        assert x.addcmul(2, y, y).tolist() == [19.0, 52.0]
    with pytest.warns(UserWarning, match="older order"):
        assert x.clone().addcdiv_(-1, y, y).tolist() == [0.0, 1.0]
    for call in (
        lambda: fastdl.add(x, y, y),
        lambda: x.add(1, 2),
        lambda: x.addcmul(1, y),
        lambda: x.add(1, y, y),
    ):
        with pytest.raises(TypeError):
            call()


def test_limits_are_python_numbers():
    info = fastdl.finfo(fastdl.float16)
    assert (info.max, info.min, info.bits, info.dtype) == (65504.0, -65504.0, 16, "float16")
    assert type(info.eps) is float
    assert info.tiny == info.smallest_normal == 2.0**-14
    assert fastdl.finfo().eps == 2.0**-23
    with pytest.raises(TypeError, match="only floating-point dtypes"):
        fastdl.finfo(fastdl.int8)


def test_integers_that_do_not_fit_are_refused():
    assert fastdl.tensor(-1, dtype=fastdl.uint8).item() == 255
    for values, dtype in (
        (300, fastdl.uint8),
        ([1, -256], fastdl.uint8),
        (128, fastdl.int8),
        (2**40, fastdl.int32),
    ):
        with pytest.raises(RuntimeError, match="numbers of dtype"):
            fastdl.tensor(values, dtype=dtype)


def test_backends_are_modules():
    cudnn = importlib.import_module("fastdl.backends.cudnn")
    cudnn.benchmark, before = True, cudnn.allow_tf32
    try:
        for allow in (True, False):
            fastdl.backends.cudnn.allow_tf32 = allow
            assert cudnn.allow_tf32 is allow
            assert (precisions.convolution == "high") is allow
        assert cudnn.version() is None
    finally:
        cudnn.benchmark, cudnn.allow_tf32 = False, before
    assert not fastdl.backends.mps.is_available()
    with importlib.import_module("fastdl.nn.attention").sdpa_kernel([nn.attention.SDPBackend.MATH]):
        assert F.scaled_dot_product_attention(*[fastdl.ones(1, 2, 4)] * 3).shape == (1, 2, 4)


def test_map_location_leads_to_a_device(tmp_path):
    fastdl.save({"x": fastdl.ones(2)}, tmp_path / "file")
    for where in (lambda storage, loc: storage, lambda storage, loc: "cpu", {"cuda:0": "cpu"}, "cpu", None):
        assert fastdl.load(tmp_path / "file", map_location=where)["x"].device.type == "cpu"
    with pytest.raises(ValueError, match="must name one device"):
        fastdl.load(tmp_path / "file", map_location={"cuda:0": "cuda:1", "cuda:1": "cuda:0"})


def test_names_that_are_not_there_say_why():
    x = fastdl.ones(2)
    for call, text in (
        (lambda: fastdl.export, "fastdl.compile"),
        (lambda: fastdl.complex32, "complex64"),
        (lambda: x.to_sparse_bsr(), "sparse layouts are"),
        (lambda: x.storage(), r"x\.numpy\(\)"),
        (lambda: fastdl.add_(x, 1), r"x\.add_\(\)"),
        (lambda: x.nonsense, "no attribute 'nonsense'$"),
        (lambda: fastdl.nonsense, "no attribute 'nonsense'$"),
        (lambda: x.__cuda_array_interface__, "on the CPU"),
    ):
        with pytest.raises(AttributeError, match=text):
            call()
    names = [name for name in absent._HINTS if hasattr(fastdl, name) or hasattr(x, name)]
    assert names == []
    assert [name for name in absent._HINTS if not re.search(rf"\b{name}\b", ABSENT)] == []


def test_imports_that_fail_say_why():
    for program, kind, text in (
        (
            "import fastdl.ao.quantization",
            ModuleNotFoundError,
            "No module named 'fastdl.ao': there are no quantised",
        ),
        (
            "from fastdl.export import export",
            ModuleNotFoundError,
            "No module named 'fastdl.export': .*fastdl.compile",
        ),
        (
            "from fastdl import quasirandom",
            ImportError,
            "cannot import name 'quasirandom' from 'fastdl': .*scipy",
        ),
        (
            "from fastdl import squeeze_",
            ImportError,
            r"cannot import name 'squeeze_' from 'fastdl': .*x\.squeeze_",
        ),
        ("import fastdl.nonsense", ModuleNotFoundError, "No module named 'fastdl.nonsense'$"),
        ("from fastdl import nonsense", ImportError, r"cannot import name 'nonsense' from 'fastdl' \("),
        ("import no_such_package.ao", ModuleNotFoundError, "No module named 'no_such_package'$"),
    ):
        with pytest.raises(kind, match=text) as error:
            exec(program)
        assert error.type is kind
    assert importlib.util.find_spec("fastdl.ao") is None


def test_a_class_of_tensors_lists_what_it_has_and_what_torchs_has():
    torch = pytest.importorskip("torch")
    absent_ones = {name for name in dir(fastdl.Tensor) if not hasattr(fastdl.Tensor, name)}
    assert absent_ones >= {name for name in absent._HINTS if hasattr(torch.Tensor, name)}
    named = {"names", "rename", "rename_", "refine_names", "align_to"}  # PyTorch 2.13 has them no more
    assert [name for name in absent_ones - named if not hasattr(torch.Tensor, name)] == []
    assert not absent_ones & set(dir(fastdl.ones(1)))


def test_what_programs_ask_of_their_environment():
    assert (fastdl.version.cuda, fastdl.version.__version__) == (None, fastdl.__version__)
    assert not fastdl.distributed.is_available()
    assert fastdl.accelerator.is_available() == fastdl.cuda.is_available()
    assert (fastdl.accelerator.current_accelerator() is None) != fastdl.cuda.is_available()
    assert fastdl.cuda.memory_allocated() >= 0
    assert fastdl.ones(2)[:, fastdl.newaxis].shape == (2, 1)
    assert fastdl.broadcast_shapes((2, 1), (3,)).numel() == 6
    assert not fastdl.is_autocast_enabled("cpu")
    with fastdl.autocast("cpu", dtype=fastdl.float16):
        assert fastdl.is_autocast_enabled("cpu")
        assert not fastdl.is_autocast_enabled("cuda")
        assert fastdl.get_autocast_dtype("cpu") is fastdl.float16
    assert not fastdl.distributed.is_initialized()
    from fastdl.distributed import init_process_group

    with pytest.raises(RuntimeError, match=r"init_process_group: .*one process trains"):
        init_process_group("gloo")
    with pytest.raises(AttributeError, match=r"nonsense.*one process trains"):
        fastdl.distributed.nonsense("gloo")
    with pytest.raises(RuntimeError, match=r"DistributedDataParallel: .*one process trains"):
        nn.parallel.DistributedDataParallel(nn.Linear(1, 1))
    assert not isinstance(nn.Linear(1, 1), (nn.DataParallel, nn.parallel.DistributedDataParallel))
    assert isinstance(fastdl.ones(1).dtype, fastdl.dtype)
    assert isinstance(nn.BatchNorm2d(1), nn.modules.batchnorm._BatchNorm)
    assert isinstance(nn.CrossEntropyLoss(fastdl.ones(2)), nn.modules.loss._WeightedLoss)
    assert nn.Linear(1, 1).to("meta").weight.is_meta
    with pytest.raises(TypeError, match=r"Namespace.*vars\(\)"):
        fastdl.save({"args": argparse.Namespace(lr=0.1)}, io.BytesIO())


def test_mistakes_are_explained():
    x = fastdl.ones(2, 3)
    for call, error, text in (
        (lambda: x @ 3, TypeError, "unsupported operand"),
        (lambda: ~x, TypeError, "bitwise_not"),
        (lambda: nn.Linear("3", 2), TypeError, "Linear: in_features must be an int"),
        (lambda: nn.Sequential(nn.ReLU), TypeError, r"ReLU\(\) makes a layer"),
        (lambda: nn.Sequential(fastdl.relu), TypeError, r"nn.ReLU\(\) for relu"),
        (lambda: x.squeeze(1.5), TypeError, "squeeze: dim must be an integer"),
        (lambda: x.sum("a"), TypeError, "sum: dim must be an integer"),
        (lambda: fastdl.arange(), TypeError, "arange: needs at least the end"),
        (lambda: fastdl.optim.Adam(None), TypeError, "got NoneType"),
        (lambda: fastdl.optim.SGD(nn.ReLU(), 0.1), TypeError, r"pass its parameters\(\)"),
        (lambda: fastdl.optim.SGD([x], lr="0.1"), TypeError, "lr must be a number"),
        (lambda: DataLoader(3), TypeError, "DataLoader: dataset must have"),
        (lambda: nn.utils.rnn.pad_packed_sequence(x), TypeError, "must be a PackedSequence"),
        (lambda: F.triplet_margin_loss(x, x, fastdl.ones(2, 4)), ValueError, "do not broadcast"),
        (
            lambda: fastdl.linalg.solve(fastdl.zeros(2, 2), fastdl.ones(2)),
            np.linalg.LinAlgError,
            "solve: A of shape",
        ),
        (
            lambda: fastdl.linalg.inv(fastdl.zeros(1, 2, 2)),
            np.linalg.LinAlgError,
            "inv: A of shape .* holds a matrix",
        ),
    ):
        with pytest.raises(error, match=text):
            call()


def test_vmap_takes_an_axis_for_each_result():
    a, b = fastdl.func.vmap(lambda v: (v, v.sum()), out_dims=(1, 0))(fastdl.ones(2, 3))
    assert (a.shape, b.tolist()) == ((3, 2), [3.0, 3.0])
    with pytest.raises(ValueError, match="out_dims has 2 entries, func returned one Tensor"):
        fastdl.func.vmap(lambda v: v, out_dims=(1, 0))(fastdl.ones(2, 3))


def test_the_graph_s_nodes_have_names():
    x = fastdl.ones(2, requires_grad=True)
    assert (x * 2).grad_fn.name() == "MulBackward"


def test_what_was_made_before_the_loop_is_walked_through_in_every_step():
    data = fastdl.tensor(np.ones((3, 2)), requires_grad=True)  # float64, so that .float() is a node
    x, t = (data[:, i : i + 1].float() for i in range(2))
    whole = fastdl.cat([x.reshape(3, 1), t.clone()], 1).unsqueeze(0)
    w = fastdl.tensor([2.0], requires_grad=True)
    for step in range(1, 3):
        (slope,) = fastdl.autograd.grad((whole * w).sum(), x, create_graph=True)
        (slope.sum() + (x * w).sum()).backward()
        assert (w.grad.item(), data.grad[0].tolist()) == (6.0 * step, [2.0 * step, 0.0])
    kept = (w * w).reshape(1)
    kept.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        kept.sum().backward()


def test_programs_names_and_types():
    """``outer`` promotes; keywords and names that repositories use."""
    angles = fastdl.outer(fastdl.arange(3), fastdl.tensor([0.5, 1.0], requires_grad=True))
    assert (angles.dtype, angles[2].tolist()) == (fastdl.float32, [1.0, 2.0])
    assert [tuple(p.shape) for p in fastdl.ones(3, 2).split(split_size=[1, 2], dim=0)] == [(1, 2), (2, 2)]
    assert fastdl.zeros_like(angles[0], memory_format=fastdl.legacy_contiguous_format).tolist() == [0.0, 0.0]
    found = nn.Linear(1, 2)._named_members(lambda module: module._parameters.items())
    assert [name for name, _ in found] == ["weight", "bias"]
    for module, name in (
        ("fastdl.nn.common_types", "_size_2_t"),
        ("fastdl.nn.parallel", "DataParallel"),
        ("fastdl.distributions.utils", "broadcast_all"),
        ("fastdl.types", "Device"),
    ):
        assert hasattr(importlib.import_module(module), name)
    assert nn.parallel.DataParallel is nn.DataParallel
    with pytest.raises(fastdl.cuda.OutOfMemoryError):
        fastdl.empty(2**50)


def test_a_convolution_with_a_weight_of_its_own():
    class Doubled(nn.Conv2d):
        def forward(self, x):
            return self._conv_forward(x, self.weight * 2, None)

    conv, x = Doubled(2, 3, 3, padding=1, padding_mode="circular", bias=False), fastdl.randn(1, 2, 5, 5)
    fastdl.testing.assert_close(conv(x), nn.Conv2d.forward(conv, x) * 2)


def test_an_optimizer_around_another_needs_no_init():
    class Lookahead(fastdl.optim.Optimizer):
        def __init__(self, base):
            self.base, self.param_groups, self.state = base, base.param_groups, {}

        def step(self, closure=None):
            self.state[self.param_groups[0]["params"][0]]["seen"] = True
            return self.base.step(closure)

    p = fastdl.ones(1, requires_grad=True)
    p.grad = fastdl.ones(1)
    outer = Lookahead(fastdl.optim.SGD([p], 0.5))
    outer.step()
    outer.zero_grad()
    assert (p.item(), outer.state[p]["seen"], p.grad) == (0.5, True, None)


def test_sampling_has_no_gradient_at_the_border_and_takes_empty_batches():
    image = fastdl.arange(4.0).reshape(1, 1, 1, 4)
    grid = fastdl.tensor([[[[-1.0, 0.0], [0.5, 0.0], [1.0, 0.0]]]], requires_grad=True)
    F.grid_sample(image, grid, padding_mode="border", align_corners=True).sum().backward()
    assert grid.grad[0, 0, :, 0].tolist() == [0.0, 1.5, 0.0]
    empty = F.grid_sample(fastdl.ones(0, 2, 3, 3), fastdl.ones(0, 4, 5, 2), align_corners=False)
    assert empty.shape == (0, 2, 4, 5)


@pytest.mark.parametrize(
    "path",
    """nn.modules.pooling.MaxPool2d nn.modules.normalization.LayerNorm nn.modules.linear.Identity
    nn.modules.sparse.Embedding nn.modules.batchnorm._NormBase nn.modules.instancenorm._InstanceNorm
    nn.modules.dropout._DropoutNd nn.modules.activation.MultiheadAttention
    distributions.uniform.Uniform distributions.studentT.StudentT
    optim.adamw.AdamW optim.optimizer.ParamsT utils.data.distributed.DistributedSampler utils.model_zoo.load_url
    hub.load_state_dict_from_url jit.Final compiler.disable amp.autocast_mode.autocast amp.grad_scaler.GradScaler
    cuda.amp.autocast_mode.autocast cuda.amp.grad_scaler.GradScaler cuda.LongTensor""".split(),
)
def test_pytorch_s_paths_lead_there(path):
    module, name = path.rsplit(".", 1)
    imported = importlib.import_module(f"fastdl.{module}")
    assert getattr(imported, name) is not None
    assert not hasattr(imported, "nonsense")
    whole = fastdl
    for part in path.split("."):
        whole = getattr(whole, part)
    assert whole is getattr(imported, name)


def test_what_would_be_compiled_runs_as_it_is():
    class Net(nn.Module):
        size: fastdl.jit.Final[int] = 3

        @fastdl.jit.ignore
        def no_weight_decay(self):
            return {"weight"}

        @fastdl.jit.ignore(drop=True)
        @fastdl.jit.unused
        def other(self, x):
            return -x

        @fastdl.compiler.disable(recursive=False)
        @fastdl.jit.export
        def forward(self, x):
            if fastdl.jit.is_scripting() or fastdl.jit.is_tracing() or fastdl.compiler.is_compiling():
                return self.other(x)
            return fastdl.jit.annotate(fastdl.Tensor, x * self.size)

    net = Net()
    assert fastdl.jit.script(net) is fastdl.jit.trace(net, fastdl.ones(1)) is net
    assert net(fastdl.ones(1)).item() == 3
    assert net.other(fastdl.ones(1)).item() == -1
    assert net.no_weight_decay() == {"weight"}
    assert fastdl.jit.freeze(net.eval()) is net
    with pytest.raises(RuntimeError, match="evaluation mode"):
        fastdl.jit.freeze(net.train())
    with pytest.raises(AttributeError, match=r"jit.*'save'.*state_dict"):
        fastdl.jit.save(net, "file")


def test_parameters_come_from_the_web(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTDL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(fastdl.hub, "_directory", None)
    fastdl.save({"w": fastdl.ones(2)}, tmp_path / "w.pt")
    digest = hashlib.sha256((tmp_path / "w.pt").read_bytes()).hexdigest()[:8]
    for wrong, name in ((False, f"net-{digest}.pt"), (True, "net-01234567.pt")):
        url = (tmp_path / "w.pt").rename(tmp_path / name).as_uri()
        if wrong:
            with pytest.raises(RuntimeError, match=f'expected "01234567", got "{digest}'):
                fastdl.hub.load_state_dict_from_url(url, check_hash=True, progress=False)
        else:
            state = fastdl.hub.load_state_dict_from_url(
                url, map_location="cpu", check_hash=True, progress=False
            )
            assert state["w"].tolist() == [1.0, 1.0]
        (tmp_path / name).rename(tmp_path / "w.pt")
    kept = tmp_path / "home" / "hub" / "checkpoints"
    assert [path.name for path in kept.iterdir()] == [f"net-{digest}.pt"]
    assert fastdl.hub.load_state_dict_from_url(f"file:///nowhere/net-{digest}.pt")["w"].tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="names no file; pass file_name="):
        fastdl.hub.load_state_dict_from_url("file:///nowhere/")
    fastdl.hub.set_dir(tmp_path / "other")
    assert fastdl.hub.get_dir() == str(tmp_path / "other")
    with pytest.raises(RuntimeError, match="not fetched and run"):
        fastdl.hub.load("some/repository", "model")
