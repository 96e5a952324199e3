"""fastdl under PyTorch's name, in processes of their own: the name is the process's."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastdl

PROGRAM = """
import importlib.util
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.jit.annotations import List
from torch.nn.modules.pooling import MaxPool2d
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

import fastdl

assert torch.nn is nn is fastdl.nn
assert fastdl.nn.__spec__.name == "fastdl.nn"
assert isinstance(torch.ones(1), torch.Tensor)
assert int(torch.__version__.split(".")[0]) >= 2
assert "nn" in dir(torch)
assert importlib.util.find_spec("torch._inductor") is None
assert importlib.util.find_spec("torch._dynamo") is not None
assert sys.modules["torch"] is torch is torch.torch
torch._C._log_api_usage_once("test")
assert not isinstance(nn.Linear(1, 1), torch.jit.ScriptModule)
for missing in ("torch.no_such_module", "torch.nn.no_such_module"):
    try:
        importlib.import_module(missing)
    except ModuleNotFoundError as error:
        assert missing in str(error)
    else:
        raise AssertionError(missing)

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
schedule = StepLR(optimizer, 2)
x = torch.randn(32, 4)
for inputs, targets in DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=8):
    optimizer.zero_grad()
    F.mse_loss(model(inputs), targets).backward()
    optimizer.step()
    schedule.step()
print(torch.__name__, *sys.argv[1:])
"""


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(fastdl.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=120,
        check=False,
    )


def test_a_program(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    done = run("-m", "fastdl.as_torch", "program.py", "--epochs", "3", cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout == "torch --epochs 3\n"


def test_a_module_beside_others(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "layers.py").write_text(
        "from torch import nn\n\nclass Twice(nn.Module):\n    forward = lambda self, x: 2 * x\n"
    )
    (package / "train.py").write_text(
        "import torch\nfrom package.layers import Twice\nprint(Twice()(torch.ones(2)))\n"
    )
    done = run("-m", "fastdl.as_torch", "-m", "package.train", cwd=tmp_path)
    assert done.stdout == "tensor([2., 2.])\n", done.stderr


def test_in_a_program() -> None:
    done = run(
        "-c", "from fastdl.as_torch import install; install(); install(); import torch; print(torch.eye(1))"
    )
    assert done.stdout == "tensor([[1.]])\n", done.stderr


DTYPES = """
import importlib.metadata
import pickle

import numpy as np
import torch

x = torch.ones(2)
assert importlib.metadata.version("torch") == torch.__version__
assert "torch" in importlib.metadata.packages_distributions()["torch"]
assert isinstance(x.dtype, torch.dtype) and x.dtype is torch.float32 is torch.float is torch.get_default_dtype()
assert str(x.dtype) == repr(x.dtype) == "torch.float32"
assert x.dtype == np.float32 and np.dtype("float32") == x.dtype and np.zeros(2, x.dtype).dtype == np.float32
assert {np.dtype("int8"): 1}[torch.int8] == 1 and torch.int8 != torch.uint8
assert torch.float32.is_floating_point and torch.float32.is_signed and not torch.uint8.is_signed
assert torch.complex64.is_complex and torch.complex64.to_real() is torch.float32 is torch.float32.to_real()
assert torch.float64.to_complex() is torch.complex128 and torch.int16.itemsize == 2
assert torch.promote_types(torch.int32, torch.float16) is torch.float16
assert x.to(torch.int64).dtype is torch.int64 is torch.zeros(1, dtype=torch.int64).new_ones(2).dtype
assert pickle.loads(pickle.dumps(torch.int8)) is torch.int8
assert torch.linalg.solve_triangular(torch.eye(2), x[:, None], upper=False, unitriangular=True).dtype is torch.float32
assert not torch.ones(2, dtype=x.dtype).masked_fill(x > 0, 0).any()
"""

FLOAT8 = """
import torch

e4, e5 = torch.float8_e4m3fn, torch.float8_e5m2
assert e4 is torch.float8_e4m3fn and e4 != e5 and e4 != torch.float32 and e4.itemsize == 1 and e4.is_floating_point
assert (torch.finfo(e4).max, torch.finfo(e5).max, torch.finfo(e4).dtype) == (448.0, 57344.0, "float8_e4m3fn")
try:
    torch.zeros(2, dtype=e4)
except TypeError as error:
    assert "torch.float8_e4m3fn is not supported" in str(error)
else:
    raise AssertionError
"""

PRIVATE = """
import sys

import torch
from torch._dynamo import allow_in_graph, mark_static_address
from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex
from torch._higher_order_ops.associative_scan import associative_scan
from torch.distributed.tensor import DTensor

def twice(x):
    return 2 * x

assert torch._dynamo.disable(twice) is allow_in_graph(twice) is twice
assert mark_static_address(torch.ones(1)) is None and not isinstance(torch.ones(1), DTensor)
try:
    torch.distributed.device_mesh.DeviceMesh("cpu", [0])
except RuntimeError as error:
    assert "no communication between processes" in str(error)
else:
    raise AssertionError
assert not isinstance(torch.compile(torch.nn.Linear(1, 1)), torch._dynamo.eval_frame.OptimizedModule)
with TransformGetItemToIndex():
    assert torch.vmap(lambda i: torch.arange(3)[i])(torch.tensor([2, 0])).tolist() == [2, 0]
assert associative_scan(lambda a, b: a * b, torch.tensor([1, 2, 3, 4]), 0).tolist() == [1, 2, 6, 24]

# Programs that put other functions in the place of initial values look into the modules that are imported.
import torch.nn
sys.modules["torch.nn.init"].xavier_uniform_ = lambda tensor: tensor.data.fill_(7)
assert torch.nn.MultiheadAttention(4, 1).in_proj_weight.unique().tolist() == [7]

class Mode(torch.overrides.TorchFunctionMode):
    pass

assert not torch.overrides.has_torch_function((Mode(),)) and torch.overrides.is_tensor_like(torch.ones(1))
try:
    with Mode():
        pass
except RuntimeError as error:
    assert "Mode: functions cannot be intercepted" in str(error)
else:
    raise AssertionError

torch._check(True)
try:
    torch._check_tensor_all_with(ValueError, torch.tensor([True, False]), lambda: "not all")
except ValueError as error:
    assert str(error) == "not all"
else:
    raise AssertionError

torch.library.custom_op("mine::twice", twice, mutates_args=())
assert torch.ops.mine.twice(torch.ones(1)).item() == 2
assert not hasattr(torch.ops, "nobodys") and not hasattr(torch.ops.mine, "thrice")
"""


PASSED_ON = """
import io

import torch
from torch import fx, nn

# A dtype that a program passes on, and one that comes from a tensor: kernels and files take both.
x = torch.ones(4, requires_grad=True)
assert x.detach().view(torch.int32).tolist() == [1065353216] * 4
file = io.BytesIO()
torch.save({"dtype": torch.float16, "own": x.dtype}, file)
file.seek(0)
assert torch.load(file) == {"dtype": torch.float16, "own": torch.float32}
assert torch.autograd.functional.jacobian(torch.exp, x.detach()).diagonal().shape == (4,)
assert torch.distributions.OneHotCategorical(torch.ones(2)).enumerate_support().tolist() == [[1, 0], [0, 1]]
attended = nn.functional.scaled_dot_product_attention(*[x.view(1, 2, 2)] * 3, dropout_p=0.5)
out = nn.LSTM(4, 4, num_layers=2, dropout=0.5)(x.view(1, 4))[0]
for y in (attended, out):
    slope, = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    slope.sum().backward()

class Twice(nn.Module):
    def forward(self, x):
        return 2 * x.to(torch.float64)

code = fx.symbolic_trace(Twice()).code
assert "float64" in code, code

# What programs compare and print.
assert x.type() == "torch.FloatTensor" and str(x.layout) == "torch.strided"
assert repr(x.detach().double()) == "tensor([1., 1., 1., 1.], dtype=torch.float64)"
assert str(torch.channels_last) == "torch.channels_last"
"""


@pytest.mark.parametrize("program", [DTYPES, FLOAT8, PRIVATE, PASSED_ON])
def test_what_packages_ask(program: str) -> None:
    if program is FLOAT8:
        pytest.importorskip("ml_dtypes")
    done = run("-c", f"from fastdl.as_torch import install\ninstall()\n{program}")
    assert done.returncode == 0, done.stderr


def test_a_line() -> None:
    program = "import sys, pickle, torch\nclass K: pass\npickle.dumps(K()), pickle.dumps(torch.int8)\nprint(sys.argv)"
    done = run("-m", "fastdl.as_torch", "-c", program, "a", "-b")
    assert done.stdout == "['-c', 'a', '-b']\n", done.stderr


def test_errors_begin_in_the_program(tmp_path: Path) -> None:
    program = "import torch\ndef f():\n    torch.ones(2).view(3)\nf()\n"
    (tmp_path / "wrong.py").write_text(program)
    for arguments in (["wrong.py"], ["-m", "wrong"], ["-c", program]):
        done = run("-m", "fastdl.as_torch", *arguments, cwd=tmp_path)
        assert done.returncode == 1
        first, frame = done.stderr.splitlines()[:2]
        assert first == "Traceback (most recent call last):"
        assert re.fullmatch(r'  File ".*(wrong\.py|<string>)", line 4, in <module>', frame)
        assert "runpy" not in done.stderr
        assert "as_torch" not in done.stderr
        assert "cannot have shape (3,)" in done.stderr.splitlines()[-1]
    (tmp_path / "wrong.py").write_text("import torch\nx = (\n")
    done = run("-m", "fastdl.as_torch", "wrong.py", cwd=tmp_path)
    assert done.stderr.startswith('  File "wrong.py", line 2')


def test_a_file_that_is_not_there() -> None:
    done = run("-m", "fastdl.as_torch", "nothing.py")
    assert done.returncode == 2
    assert done.stderr == "python -m fastdl.as_torch: can't open file 'nothing.py': no such file\n"


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(option: str) -> None:
    done = run("-m", "fastdl.as_torch", option)
    assert done.returncode == 0
    assert done.stdout.startswith(
        "usage: python -m fastdl.as_torch FILE ... | -m MODULE ... | -c PROGRAM ...\n"
    )


IMPORTS = """
import importlib.util

for line, kind, text in (
    ("from torch.ao.quantization import quantize_dynamic", ModuleNotFoundError, "'torch.ao': there are no quantised"),
    ("import torch.export", ModuleNotFoundError, "No module named 'torch.export': models run as they are"),
    ("from torch import export", ImportError, "cannot import name 'export' from 'torch': models run"),
    ("from torch import quantize_per_tensor", ImportError, "from 'torch': there are no quantised tensors"),
    ("from torchvision import datasets", ModuleNotFoundError, "'torchvision': it is made for PyTorch's own core"),
    ("import torchvision.transforms", ModuleNotFoundError, "fastdl.datasets.load_mnist"),
):
    try:
        exec(line)
    except ImportError as error:
        assert type(error) is kind and text in str(error), (line, error)
    else:
        raise AssertionError(line)
for name in ("torch.ao", "torchvision"):
    assert importlib.util.find_spec(name) is None
"""


def test_imports_that_fail_say_why() -> None:
    if importlib.util.find_spec("torchvision") is not None:
        pytest.skip("torchvision is there")
    done = run("-m", "fastdl.as_torch", "-c", IMPORTS)
    assert done.returncode == 0, done.stderr
    done = run("-c", "import fastdl, torchvision")
    assert done.stderr.endswith("No module named 'torchvision'\n")  # nobody else's imports change
    forgets = "for name in [n for n in sys.modules if n.startswith('fastdl')]: del sys.modules[name]"
    done = run("-c", f"import fastdl, sys\n{forgets}\nimport nowhere")
    assert done.stderr.endswith("ModuleNotFoundError: No module named 'nowhere'\n")


@pytest.mark.parametrize("arguments", [[], ["-m"], ["-c"], ["-x"]])
def test_usage(arguments: list[str]) -> None:
    done = run("-m", "fastdl.as_torch", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("usage: python -m fastdl.as_torch")


def test_after_pytorch() -> None:
    pytest.importorskip("torch")
    done = run("-c", "import torch\nfrom fastdl.as_torch import install\ninstall()")
    assert "PyTorch is imported already; call install() before" in done.stderr
