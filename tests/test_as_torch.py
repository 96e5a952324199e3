"""fastdl under PyTorch's name, in processes of their own: the name is the process's."""

import os
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
assert importlib.util.find_spec("torch._dynamo") is None
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


@pytest.mark.parametrize("arguments", [[], ["-m"]])
def test_usage(arguments: list[str]) -> None:
    done = run("-m", "fastdl.as_torch", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("usage: python -m fastdl.as_torch")


def test_after_pytorch() -> None:
    pytest.importorskip("torch")
    done = run("-c", "import torch\nfrom fastdl.as_torch import install\ninstall()")
    assert "PyTorch is imported already; call install() before" in done.stderr
