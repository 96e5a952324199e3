"""docs/differences.md is true: what it lists is not there, and what is not there is listed; ``index_reduce``."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import numpy as np
import pytest

import fastdl

torch = pytest.importorskip("torch")
TEXT = (Path(__file__).parents[1] / "docs" / "differences.md").read_text()
ROWS = [
    [cell.strip() for cell in line.split("|")[1:4]] for line in TEXT.splitlines() if line.startswith("| ")
][1:]


@pytest.mark.parametrize("area", ["linalg", "sparse", "nn", "utils.data"])
def test_what_is_listed_is_not_there(area):
    module = importlib.import_module(f"fastdl.{area}")
    names = [n for a, cell, _ in ROWS if a == area for n in re.findall(r"`(\w+)`", cell)]
    assert names
    assert [n for n in names if hasattr(module, n)] == []


@pytest.mark.parametrize(
    "area",
    ["linalg", "optim", "sparse", "distributions", "func", "nn.modules", "utils.data", "nn.utils.prune"],
)
def test_what_is_not_there_is_listed(area):
    theirs = importlib.import_module(f"torch.{area}")
    ours = importlib.import_module(f"fastdl.{area}")
    public = getattr(theirs, "__all__", None) or [
        n for n in dir(theirs) if callable(getattr(theirs, n)) and n[0] != "_"
    ]
    missing = {n for n in public if not hasattr(ours, n)}
    # Internals, and what has another name here.
    missing -= {
        "LinearCrossEntropyOptions",
        "Optimizer",
        "debug_unwrap",
    }
    missing -= {
        "DFIterDataPipe",
        "DataChunk",
        "IterDataPipe",
        "MapDataPipe",
        "rearrange",
    }
    missing -= {
        n for n in missing if "Transform" in n or "determinism" in n or "runtime" in n or "datapipe" in n
    }
    missing -= {
        "argument_validation",
        "non_deterministic",
        "identity_transform",
    }
    missing -= {"ldl_factor_ex", "common_notes", "_DatasetKind"}
    assert [n for n in sorted(missing) if not re.search(rf"\b{n}\b", TEXT)] == []


@pytest.mark.parametrize("reduce", ["prod", "mean", "amax", "amin"])
@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.filterwarnings("ignore:index_reduce")
def test_index_reduce(reduce, include_self):
    rng = np.random.default_rng(0)
    x, source, index = rng.random((4, 3)), rng.random((4, 5)), np.array([2, 0, 2, 1, 2])
    ours, theirs = fastdl.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    mine = 1, fastdl.tensor(index), fastdl.tensor(source), reduce
    other = 1, torch.tensor(index), torch.tensor(source), reduce
    got = fastdl.index_reduce(ours, *mine, include_self=include_self)
    expected = torch.index_reduce(theirs, *other, include_self=include_self)
    np.testing.assert_allclose(got.detach().numpy(), expected.detach().numpy())
    got.square().sum().backward()
    expected.square().sum().backward()
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy())
    again = fastdl.tensor(x).index_reduce_(*mine, include_self=include_self)
    np.testing.assert_array_equal(again.numpy(), got.detach().numpy())
    with pytest.raises(ValueError, match="reduce must be one of prod, mean, amax, amin"):
        fastdl.index_reduce(ours, 1, fastdl.tensor(index), fastdl.tensor(source), "sum")
    with pytest.raises(ValueError, match="an entry for each slice of source"):
        fastdl.index_reduce(ours, 1, fastdl.tensor(index[:2]), fastdl.tensor(source), reduce)
