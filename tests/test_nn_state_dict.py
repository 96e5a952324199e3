"""Module: state dicts, their versions and hooks, loading."""

from __future__ import annotations

import copy
from collections import OrderedDict

import numpy as np
import pytest

import fastdl
from fastdl import nn
from test_nn_module import Leaf, Tree, tensor


def test_state_dict_keys_values_and_sharing():
    net = Tree()
    state = net.state_dict()
    assert list(state) == [
        "gain",
        "first.weight",
        "first.bias",
        "first.mean",
        "second.0.weight",
        "second.0.bias",
        "second.0.mean",
        "second.1.weight",
        "second.1.mean",
    ]
    assert not state["gain"].requires_grad
    assert np.shares_memory(state["first.weight"].numpy(), net.first.weight.detach().numpy())
    assert net.state_dict(keep_vars=True)["gain"] is net.gain
    assert next(iter(net.state_dict(prefix="x."))) == "x.gain"


def test_load_copies_in_place():
    source, target = Tree(), Tree()
    source.first.weight._data[...] = 9
    kept = target.first.weight
    result = target.load_state_dict(source.state_dict())
    assert repr(result) == "<All keys matched successfully>"
    assert target.first.weight is kept
    assert not np.shares_memory(kept.detach().numpy(), source.first.weight.detach().numpy())
    np.testing.assert_array_equal(kept.detach().numpy(), 9)


def test_load_takes_arrays_and_converts_floats():
    net = Leaf()
    state = {name: np.asarray(t.numpy(), np.float64) + 1 for name, t in net.state_dict().items()}
    net.load_state_dict(state)
    assert net.weight.dtype == np.float32
    np.testing.assert_array_equal(net.weight.detach().numpy(), [1, 2, 3])


def test_load_reports_everything_at_once():
    net = Tree()
    state = net.state_dict()
    del state["first.bias"], state["second.1.weight"]
    state["first.weight"] = tensor(np.zeros((2, 2)))
    state["second.9.weight"] = tensor([1.0])
    state["first.mean"] = "text"
    with pytest.raises(RuntimeError) as error:
        net.load_state_dict(state)
    text = str(error.value)
    assert text.startswith("Error(s) in loading state_dict for Tree:\n\tMissing key(s)")
    assert 'Missing key(s) in state_dict: "first.bias", "second.1.weight". ' in text
    assert 'Unexpected key(s) in state_dict: "second.9.weight". ' in text
    assert "size mismatch for first.weight: copying a param with shape (2, 2) from checkpoint" in text
    assert "the shape in current model is (3,)" in text
    assert 'named "first.mean", expected a tensor or array' in text


def test_load_not_strict():
    net = Tree()
    state = net.state_dict()
    del state["gain"]
    state["other"] = tensor([1.0])
    result = net.load_state_dict(state, strict=False)
    assert result.missing_keys == ["gain"]
    assert result.unexpected_keys == ["other"]
    state["first.weight"] = tensor([1.0])
    with pytest.raises(RuntimeError, match=r"size mismatch for first\.weight"):
        net.load_state_dict(state, strict=False)
    with pytest.raises(TypeError, match="dict-like"):
        net.load_state_dict([1])


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8])
def test_load_converts_to_the_model_s_dtype(dtype):
    """Averages of state dicts make the batch counter a float, and PyTorch loads them."""
    layer = nn.BatchNorm1d(2)
    state = {name: tensor(np.full(t.shape, 3), dtype) for name, t in layer.state_dict().items()}
    layer.load_state_dict(state)
    assert (layer.num_batches_tracked.item(), layer.num_batches_tracked.dtype) == (3, np.int64)
    assert (layer.running_var.tolist(), layer.running_var.dtype) == ([3.0, 3.0], np.float32)


@pytest.mark.parametrize("values", [["1.5", "2.5"], [None, 2.5]], ids=["text", "objects"])
def test_load_refuses_what_is_no_number(values):
    layer = nn.Linear(2, 1)
    state = {**layer.state_dict(), "weight": np.array([values])}
    with pytest.raises(RuntimeError, match=r"dtype mismatch for weight: .* which holds no numbers"):
        layer.load_state_dict(state)


def test_prefixes_of_wrapped_modules_are_taken_off():
    state = nn.DataParallel(nn.Sequential(nn.BatchNorm1d(2))).state_dict()
    assert next(iter(state)) == "module.0.weight"
    nn.modules.utils.consume_prefix_in_state_dict_if_present(state, "module.")
    bare = nn.Sequential(nn.BatchNorm1d(2))
    assert list(state) == list(bare.state_dict())
    assert state._metadata["0"] == {"version": 2}
    bare.load_state_dict(state)


def test_load_assign():
    net = Leaf()
    state = {name: tensor(np.ones(t.shape), np.float64) for name, t in net.state_dict().items()}
    net.weight.requires_grad = False
    net.load_state_dict(state, assign=True)
    assert isinstance(net.weight, nn.Parameter)
    assert not net.weight.requires_grad
    assert net.bias.requires_grad
    assert net.weight.dtype == np.float64
    assert np.shares_memory(net.weight.detach().numpy(), state["weight"].numpy())
    assert net.mean is state["mean"]


def test_extra_state():
    class Counting(Leaf):
        seen = 0

        def get_extra_state(self):
            return {"seen": self.seen}

        def set_extra_state(self, state):
            self.seen = state["seen"]

    net, other = Counting(), Counting()
    net.seen = 5
    state = net.state_dict()
    assert state["_extra_state"] == {"seen": 5}
    other.load_state_dict(state)
    assert other.seen == 5
    del state["_extra_state"]
    with pytest.raises(RuntimeError, match=r'Missing key.*"_extra_state"'):
        other.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"_extra_state"'):
        Leaf().load_state_dict(net.state_dict())


def test_state_dict_hooks():
    net = Leaf()
    calls = []
    net.register_state_dict_pre_hook(lambda module, prefix, keep: calls.append(("pre", prefix, keep)))
    net.register_state_dict_post_hook(lambda module, state, prefix, meta: state.pop(prefix + "bias") and None)
    net.register_load_state_dict_pre_hook(
        lambda module, state, prefix, *rest: state.setdefault(prefix + "bias", tensor([4.0])) and None
    )
    net.register_load_state_dict_post_hook(lambda module, keys: keys.unexpected_keys.clear())
    state = net.state_dict()
    assert calls == [("pre", "", False)]
    assert list(state) == ["weight", "mean"]
    state["foreign"] = tensor([0.0])
    net.load_state_dict(state)
    assert net.bias.detach().numpy() == [4.0]


def test_older_state_dict_hooks():
    """The private names by which programs register them, run by torch and here."""
    torch = pytest.importorskip("torch")
    for lib in (fastdl, torch):
        layer = lib.nn.Linear(2, 2)
        layer._register_state_dict_hook(lambda m, state, prefix, meta: {"renamed": state["weight"]})
        layer._register_state_dict_hook(lambda m, state, prefix, meta: state.update(kind=type(m).__name__))
        assert list(layer.state_dict()) == ["renamed", "kind"]

        def rename(state, prefix, meta, strict, missing, unexpected, errors):
            state[prefix + "weight"] = state.pop(prefix + "old")

        handle = layer._register_load_state_dict_pre_hook(rename)
        layer.load_state_dict({"old": lib.eye(2), "bias": lib.zeros(2)})
        assert layer.weight.tolist() == [[1.0, 0.0], [0.0, 1.0]]
        handle.remove()
        seen = []
        layer._register_load_state_dict_pre_hook(lambda m, *args: seen.append(m), with_module=True)
        layer.load_state_dict({"weight": lib.ones(2, 2), "bias": lib.zeros(2)})
        assert seen == [layer]


def test_ordered_dict_is_accepted_by_torch():
    torch = pytest.importorskip("torch")
    state = nn.ParameterList([tensor([1.0, 2.0])]).state_dict()
    theirs = torch.nn.ParameterList([torch.zeros(2)])
    theirs.load_state_dict(OrderedDict((k, torch.from_numpy(v.numpy())) for k, v in state.items()))
    ours = nn.ParameterList([tensor([0.0, 0.0])])
    ours.load_state_dict(theirs.state_dict())
    np.testing.assert_array_equal(ours[0].detach().numpy(), [1, 2])


class Renamed(nn.Module):
    _version = 2

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(fastdl.ones(2))
        self.seen = []

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        self.seen.append(local_metadata.get("version"))
        if local_metadata.get("version", 1) < 2 and prefix + "weight" in state_dict:
            state_dict[prefix + "w"] = state_dict.pop(prefix + "weight")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


def test_a_state_dict_notes_versions():
    net = nn.Sequential(Renamed(), nn.BatchNorm1d(2))
    hooks = []
    net.register_state_dict_post_hook(lambda module, state, prefix, metadata: hooks.append(metadata))
    state = net.state_dict()
    assert state._metadata == {"": {"version": 1}, "0": {"version": 2}, "1": {"version": 2}}
    assert hooks == [{"version": 1}]
    net.load_state_dict(state)
    net.load_state_dict(copy.deepcopy(state))
    net.load_state_dict(dict(state))
    old = {"0.weight": fastdl.zeros(2), **{k: v for k, v in state.items() if k[0] == "1"}}
    net.load_state_dict(old)
    assert net[0].seen == [2, 2, None, None]
    assert net[0].w.tolist() == [0.0, 0.0]
    del state["1.num_batches_tracked"]
    net.load_state_dict(dict(state))  # without a note it may be older than the counter
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "1.num_batches_tracked"'):
        net.load_state_dict(state)
