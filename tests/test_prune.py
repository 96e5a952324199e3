"""Pruning: masks, state dicts and training as PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest

import fastdl
from fastdl import nn
from fastdl.nn.utils import prune


def pair():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4)).double()
    ours = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).double()
    ours.load_state_dict({k: v.numpy().copy() for k, v in theirs.state_dict().items()})
    return pytest.importorskip("torch.nn.utils.prune"), torch, ours, theirs


def same(ours, theirs):
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        np.testing.assert_allclose(
            ours.state_dict()[key].numpy(), value.numpy(), rtol=0, atol=1e-12, err_msg=key
        )


STEPS = {
    "l1": lambda p, m: p.l1_unstructured(m[0], "weight", amount=0.3),
    "l1 count": lambda p, m: p.l1_unstructured(m[0], name="bias", amount=3),
    "twice": lambda p, m: [p.l1_unstructured(m[0], "weight", amount=0.5) for _ in range(2)],
    "rows": lambda p, m: p.ln_structured(m[0], "weight", amount=0.25, n=2, dim=0),
    "columns twice": lambda p, m: [p.ln_structured(m[0], "weight", amount=a, n=1, dim=1) for a in (2, 0.5)],
    "both": lambda p, m: [
        p.l1_unstructured(m[0], "weight", 0.5),
        p.ln_structured(m[0], "weight", 0.25, 2, 0),
    ],
    "identity": lambda p, m: p.identity(m[2], "weight"),
    "global": lambda p, m: p.global_unstructured(
        [(m[0], "weight"), (m[2], "weight")], pruning_method=p.L1Unstructured, amount=0.4
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_pruning_and_training_follow_torch(name):
    theirs_prune, torch, ours, theirs = pair()
    STEPS[name](prune, ours)
    STEPS[name](theirs_prune, theirs)
    same(ours, theirs)
    updates = fastdl.optim.SGD(ours.parameters(), 0.1), torch.optim.SGD(theirs.parameters(), 0.1)
    x = np.random.default_rng(0).standard_normal((5, 6))
    for library, model, update in ((fastdl, ours, updates[0]), (torch, theirs, updates[1])):
        for _ in range(2):
            update.zero_grad()
            model(library.from_numpy(x)).pow(2).sum().backward()
            update.step()
    same(ours, theirs)
    assert prune.is_pruned(ours)
    for layer, other in ((ours[0], theirs[0]), (ours[2], theirs[2])):
        for tensor in ("weight", "bias"):
            if f"{tensor}_mask" in layer.state_dict():
                prune.remove(layer, tensor)
                theirs_prune.remove(other, tensor)
    assert not prune.is_pruned(ours)
    assert sorted(ours.state_dict()) == sorted(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        np.testing.assert_allclose(
            ours.state_dict()[key].numpy(), value.numpy(), rtol=0, atol=1e-12, err_msg=key
        )


def test_random_pruning_and_own_masks():
    layer = prune.random_unstructured(nn.Linear(10, 10), "weight", amount=30)
    assert int((layer.weight == 0).sum()) == 30
    prune.random_structured(layer, "weight", amount=2, dim=0)
    assert int((layer.weight == 0).all(1).sum()) == 2
    mask = fastdl.zeros(10, 10)
    mask[0] = 1
    prune.custom_from_mask(layer, "weight", mask)
    assert bool((layer.weight[1:] == 0).all())
    pairs = [(nn.Linear(4, 4), "weight"), (nn.Linear(4, 4), "weight")]
    prune.global_unstructured(pairs, pruning_method=prune.RandomUnstructured, amount=5)
    assert sum(int((m.weight == 0).sum()) for m, _ in pairs) == 5


def test_mistakes_are_explained():
    with pytest.raises(ValueError, match="between 0"):
        prune.l1_unstructured(nn.Linear(2, 2), "weight", amount=1.5)
    with pytest.raises(ValueError, match="between 0 and the number"):
        prune.l1_unstructured(nn.Linear(2, 2), "weight", amount=5)
    with pytest.raises(ValueError, match="has to be pruned before"):
        prune.remove(nn.Linear(2, 2), "weight")
    with pytest.raises(ValueError, match="two dimensions"):
        prune.ln_structured(nn.Linear(2, 2), "bias", 1, 2, 0)
    with pytest.raises(TypeError, match="L1Unstructured"):
        prune.global_unstructured([(nn.Linear(2, 2), "weight")], pruning_method=None, amount=1)
