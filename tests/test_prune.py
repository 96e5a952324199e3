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


def every_second(library_prune):
    """A method of one's own, written against either library."""

    class EverySecond(library_prune.BasePruningMethod):
        PRUNING_TYPE = "unstructured"

        def compute_mask(self, t, default_mask):
            mask = default_mask.clone()
            mask.view(-1)[::2] = 0
            return mask

    return EverySecond


OWN = {
    "own": lambda p, m, lib: every_second(p).apply(m[0], "weight"),
    "own after l1": lambda p, m, lib: [
        p.l1_unstructured(m[0], "weight", 0.3),
        every_second(p).apply(m[0], "weight"),
    ],
    "rows, then own, then l1": lambda p, m, lib: [
        p.LnStructured.apply(m[0], "weight", 0.25, 2, dim=0),
        every_second(p).apply(m[0], "weight"),
        p.L1Unstructured.apply(m[0], "weight", amount=4),
    ],
    "columns by a norm without a number": lambda p, m, lib: p.ln_structured(
        m[0], "weight", 2, n=float("inf"), dim=-1
    ),
    "importance": lambda p, m, lib: p.l1_unstructured(
        m[0], "weight", 7, importance_scores=lib.arange(48).reshape(8, 6).double()
    ),
    "mask after l1": lambda p, m, lib: [
        p.l1_unstructured(m[2], "weight", 0.5),
        p.custom_from_mask(m[2], "weight", lib.arange(32).reshape(4, 8) % 3 == 0),
    ],
    "global after l1, importance": lambda p, m, lib: [
        p.l1_unstructured(m[2], "weight", 0.5),
        p.global_unstructured(
            ((m[0], "weight"), (m[2], "weight")),
            pruning_method=p.L1Unstructured,
            importance_scores={(m[2], "weight"): lib.arange(32).reshape(4, 8).double()},
            amount=9,
        ),
    ],
    "global, own": lambda p, m, lib: p.global_unstructured(
        [(m[0], "bias"), (m[2], "weight")], pruning_method=every_second(p)
    ),
}


@pytest.mark.parametrize("name", OWN)
def test_methods_of_ones_own_follow_torch(name):
    theirs_prune, torch, ours, theirs = pair()
    OWN[name](prune, ours, fastdl)
    OWN[name](theirs_prune, theirs, torch)
    same(ours, theirs)
    for layer, other in ((ours[0], theirs[0]), (ours[2], theirs[2])):
        found = list(layer._forward_pre_hooks.values())
        wanted = list(other._forward_pre_hooks.values())
        assert [type(h).__name__ for h in found] == [type(h).__name__ for h in wanted]
        for hook, expected in zip(found, wanted, strict=True):
            if isinstance(hook, prune.PruningContainer):
                assert [type(m).__name__ for m in hook] == [type(m).__name__ for m in expected]
                assert len(hook) == len(expected)
                assert hook[-1]._tensor_name == expected[-1]._tensor_name


def test_a_tensor_without_a_module():
    torch = pytest.importorskip("torch")
    t = np.random.default_rng(1).standard_normal((4, 6)).astype(np.float32)
    theirs_prune = pytest.importorskip("torch.nn.utils.prune")
    for make in (lambda p: p.L1Unstructured(amount=5), lambda p: p.LnStructured(2, n=1, dim=1)):
        ours = make(prune).prune(fastdl.from_numpy(t))
        np.testing.assert_array_equal(
            ours.numpy(), make(theirs_prune).prune(torch.from_numpy(t.copy())).numpy()
        )


def test_a_failed_pruning_leaves_the_layer():
    layer = nn.Linear(3, 4)
    for mistake in (
        lambda: prune.custom_from_mask(layer, "weight", fastdl.ones(2, 2)),
        lambda: prune.l1_unstructured(layer, "weight", 100),
        lambda: prune.l1_unstructured(layer, "weight", 1, importance_scores=fastdl.ones(2)),
    ):
        with pytest.raises(ValueError):
            mistake()
        assert list(layer.state_dict()) == ["weight", "bias"]
    with pytest.raises(TypeError, match="int or float"):
        prune.L1Unstructured("much")
    with pytest.raises(TypeError, match="PRUNING_TYPE"):
        prune.global_unstructured([(layer, "weight")], prune.RandomStructured, amount=1)
    with pytest.raises(TypeError, match="BasePruningMethod"):
        prune.PruningContainer().add_pruning_method(3)


def test_apply_returns_the_hook_and_takes_torch_s_places():
    theirs_prune, torch, ours, theirs = pair()
    for p, model, lib in ((prune, ours, fastdl), (theirs_prune, theirs, torch)):
        scores = lib.arange(48).reshape(8, 6).double()
        method = p.L1Unstructured.apply(model[0], "weight", 5, scores)
        assert type(method) is p.L1Unstructured
        assert list(model[0]._forward_pre_hooks.values()) == [method]
        both = p.LnStructured.apply(model[0], "weight", 1, 2, 0, -scores)
        assert type(both) is p.PruningContainer
        assert list(model[0]._forward_pre_hooks.values()) == [both]
    same(ours, theirs)


@pytest.mark.parametrize("n", ["fro", "nuc", 1])
def test_slices_of_three_dimensional_weights_by_norm(n):
    """``nuc`` is of the matrices that the slices are."""
    torch = pytest.importorskip("torch")
    theirs_prune = pytest.importorskip("torch.nn.utils.prune")
    # Slices with one large singular value have the smaller sum of them, but the larger sum of squares.
    weight = np.random.default_rng(1).standard_normal((6, 4, 5))
    weight[::2] = 1.3
    masks = []
    for p, lib in ((prune, fastdl), (theirs_prune, torch)):
        layer = lib.nn.Conv1d(4, 6, 5).double()
        layer.weight.data = lib.from_numpy(weight.copy())
        masks.append(p.ln_structured(layer, "weight", 3, n=n, dim=0).weight_mask.numpy())
    np.testing.assert_array_equal(*masks)
    with pytest.raises(RuntimeError, match="matrix_norm: dim must"):
        prune.ln_structured(nn.Linear(3, 4), "weight", 1, n="nuc", dim=0)


def test_importance_scores_of_several_parameters_are_a_dict():
    with pytest.raises(TypeError, match="importance_scores must be a dict, got list"):
        prune.global_unstructured(
            [(nn.Linear(2, 2), "weight")], prune.L1Unstructured, importance_scores=[1], amount=1
        )
