"""Module: registration, walking, state dicts, hooks, conversion, copies."""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
import weakref
from collections import OrderedDict

import numpy as np
import pytest

import fastdl
from fastdl import nn
from fastdl.nn import functional as F


def tensor(values, dtype=np.float32):
    return fastdl.from_numpy(np.array(values, dtype=dtype))


class Leaf(nn.Module):
    def __init__(self, size=3, bias=True):
        super().__init__()
        self.weight = nn.Parameter(tensor(np.arange(size)))
        if bias:
            self.bias = nn.Parameter(tensor([1.0]))
        else:
            self.register_parameter("bias", None)
        self.register_buffer("mean", tensor(np.zeros(size)))
        self.register_buffer("scratch", tensor([7.0]), persistent=False)
        self.size = size

    def forward(self, x):
        return F.relu(x)

    def extra_repr(self):
        return f"size={self.size}"


class Tree(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = Leaf()
        self.second = nn.Sequential(Leaf(2), Leaf(2, bias=False))
        self.gain = nn.Parameter(tensor(2.0))

    def forward(self, x):
        return self.second(self.first(x))


# Registration -------------------------------------------------------------------------------------


def test_order_and_names():
    net = Tree()
    assert [name for name, _ in net.named_parameters()] == [
        "gain",
        "first.weight",
        "first.bias",
        "second.0.weight",
        "second.0.bias",
        "second.1.weight",
    ]
    assert [name for name, _ in net.named_parameters("net", recurse=False)] == ["net.gain"]
    assert [name for name, _ in net.named_buffers()] == [
        f"{path}.{name}" for path in ("first", "second.0", "second.1") for name in ("mean", "scratch")
    ]
    assert [name for name, _ in net.named_modules()] == ["", "first", "second", "second.0", "second.1"]
    assert [name for name, _ in net.named_children()] == ["first", "second"]
    assert list(net.modules())[1] is net.first
    assert list(net.children()) == [net.first, net.second]


def test_shared_members_appear_once():
    net = nn.Module()
    net.a = Leaf()
    net.b = net.a
    net.c = nn.Module()
    net.c.weight = net.a.weight
    assert [name for name, _ in net.named_modules()] == ["", "a", "c"]
    assert [name for name, _ in net.named_modules(remove_duplicate=False)] == ["", "a", "b", "c"]
    assert [name for name, _ in net.named_parameters()] == ["a.weight", "a.bias"]
    names = [name for name, _ in net.named_parameters(remove_duplicate=False)]
    assert names == ["a.weight", "a.bias", "b.weight", "b.bias", "c.weight"]
    assert list(net.children()) == [net.a, net.c]


def test_reassignment_keeps_the_order_and_changes_kind():
    net = Leaf()
    net.weight = nn.Parameter(tensor([5.0]))
    assert [name for name, _ in net.named_parameters()] == ["weight", "bias"]
    net.weight = None
    assert net.weight is None
    assert [name for name, _ in net.named_parameters()] == ["bias"]
    net.mean = nn.Parameter(tensor([1.0]))  # a buffer becomes a parameter
    assert "mean" in dict(net.named_parameters())
    assert "mean" not in dict(net.named_buffers())
    net.plain = 3
    net.plain = Leaf()
    assert dict(net.named_children()) == {"plain": net.plain}
    del net.plain
    assert not hasattr(net, "plain")
    assert not list(net.children())


def test_buffer_class_registers():
    net = nn.Module()
    net.kept = nn.Buffer(tensor([1.0]))
    net.dropped = nn.Buffer(tensor([2.0]), persistent=False)
    assert [name for name, _ in net.named_buffers()] == ["kept", "dropped"]
    assert list(net.state_dict()) == ["kept"]


def test_registries_are_live():
    net = Leaf()
    assert dict(net._parameters) == {"weight": net.weight, "bias": net.bias}
    net._parameters["extra"] = nn.Parameter(tensor([1.0]))
    assert net.extra is net._parameters["extra"]
    del net._parameters["weight"]
    assert not hasattr(net, "weight")
    with pytest.raises(KeyError):
        net._parameters["mean"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("weight", tensor([1.0]), "cannot assign 'fastdl.tensor.Tensor' as parameter 'weight'"),
        ("weight", 3, "cannot assign 'int' as parameter 'weight'"),
        ("child", 3, "cannot assign 'int' as child module 'child'"),
        ("mean", 3.0, "cannot assign 'float' as buffer 'mean'"),
    ],
)
def test_wrong_kinds_are_refused(name, value, message):
    net = Leaf()
    net.child = Leaf()
    with pytest.raises(TypeError, match=message):
        setattr(net, name, value)


def test_registration_errors():
    net = nn.Module()
    with pytest.raises(TypeError, match="should be a string"):
        net.register_parameter(3, None)
    for register, what in ((net.register_parameter, "parameter"), (net.register_buffer, "buffer")):
        with pytest.raises(KeyError, match=f"{what} name .*be empty string"):
            register("", None)
        with pytest.raises(KeyError, match=f"{what} name .*contain"):
            register("a.b", None)
        with pytest.raises(KeyError, match="'forward' already exists"):
            register("forward", None)
        with pytest.raises(TypeError, match=f"cannot assign 'int' object to {what} 'x'"):
            register("x", 1)
    with pytest.raises(TypeError, match="int is not a Module subclass"):
        net.add_module("x", 1)
    with pytest.raises(KeyError, match="'train' already exists"):
        net.add_module("train", nn.Identity())
    made = F.relu(nn.Parameter(tensor([1.0])))
    made.__class__ = nn.Parameter
    with pytest.raises(ValueError, match="parameters are leaves"):
        net.register_parameter("x", made)


def test_forgotten_super_init():
    class Forgetful(nn.Module):
        def __init__(self, value):
            self.thing = value

    for value, noun in ((nn.Identity(), "module"), (nn.Parameter(tensor([1.0])), "parameters")):
        with pytest.raises(AttributeError, match=rf"cannot assign {noun} before Module.__init__\(\) call"):
            Forgetful(value)


def test_missing_attribute_and_missing_forward():
    with pytest.raises(AttributeError, match="'Leaf' object has no attribute 'nothing'"):
        Leaf().nothing  # noqa: B018
    with pytest.raises(NotImplementedError, match="missing the required"):
        nn.Module()(1)


def test_getters():
    net = Tree()
    assert net.get_submodule("") is net
    assert net.get_submodule("second.0") is net.second[0]
    assert net.get_parameter("second.0.weight") is net.second[0].weight
    assert net.get_buffer("first.mean") is net.first.mean
    for get, target, message in (
        (net.get_submodule, "second.7", "Sequential has no attribute `7`"),
        (net.get_submodule, "first.weight", "`weight` is not an nn.Module"),
        (net.get_parameter, "first.mean", "`mean` is not an nn.Parameter"),
        (net.get_buffer, "first.weight", "`weight` is not a buffer"),
    ):
        with pytest.raises(AttributeError, match=message):
            get(target)
    net.set_submodule("second.0", nn.Identity())
    assert isinstance(net.second[0], nn.Identity)


# State dicts --------------------------------------------------------------------------------------


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


def test_load_refuses_lossy_kinds():
    net = nn.Module()
    net.register_buffer("count", tensor([1], np.int64))
    with pytest.raises(RuntimeError, match="dtype mismatch for count: the checkpoint has float32"):
        net.load_state_dict({"count": tensor([1.5])})


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


# Hooks --------------------------------------------------------------------------------------------


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


def test_forward_hooks_order_replacement_and_removal():
    net = Leaf()
    calls = []
    net.register_forward_pre_hook(lambda m, args: calls.append("pre") or (args[0],))
    first = net.register_forward_pre_hook(lambda m, args: calls.append("pre first"), prepend=True)
    post = net.register_forward_hook(lambda m, args, out: calls.append("post") or tensor([42.0]))
    out = net(tensor([-1.0]))
    assert calls == ["pre first", "pre", "post"]
    assert out.numpy() == [42.0]
    first.remove()
    first.remove()
    with post:
        pass
    calls.clear()
    assert net(tensor([-1.0])).detach().numpy() == [0.0]
    assert calls == ["pre"]
    net._forward_pre_hooks.clear()
    net(tensor([-1.0]))
    assert calls == ["pre"]
    assert not net._hooked  # back on the fast way


def test_hooks_with_kwargs():
    class Scaled(nn.Module):
        def forward(self, x, negate=False):
            return tensor(-x.numpy()) if negate else x

    net = Scaled()
    seen = []
    net.register_forward_pre_hook(lambda m, args, kwargs: (args, {"negate": True}), with_kwargs=True)
    net.register_forward_hook(lambda m, args, kwargs, out: seen.append(kwargs), with_kwargs=True)
    assert net(tensor([2.0])).detach().numpy() == [-2.0]
    assert seen == [{"negate": True}]
    net.register_forward_pre_hook(lambda m, args, kwargs: 1, with_kwargs=True)
    with pytest.raises(RuntimeError, match=r"\(new_args, new_kwargs\)"):
        net(tensor([2.0]))


def test_always_call():
    class Broken(nn.Module):
        def forward(self, x):
            raise ValueError("broken forward")

    net = Broken()
    seen = []
    net.register_forward_hook(lambda m, args, out: seen.append("skipped"))
    net.register_forward_hook(lambda m, args, out: seen.append(out), always_call=True)
    with pytest.raises(ValueError, match="broken forward"):
        net(1)
    assert seen == [None]


def test_full_backward_hook_sees_and_replaces():
    net = Leaf()
    seen = []

    def hook(module, grad_input, grad_output):
        seen.append((module, grad_input[0].numpy().copy(), grad_output[0].numpy().copy()))
        return (tensor(grad_input[0].numpy() * 10),)

    net.register_full_backward_hook(hook)
    net.register_full_backward_pre_hook(lambda m, grad_output: (tensor(grad_output[0].numpy() + 1),))
    x = tensor([-1.0, 2.0])
    x.requires_grad = True
    net(x).backward(tensor([3.0, 5.0]))
    ((module, grad_input, grad_output),) = seen
    assert module is net
    np.testing.assert_array_equal(grad_output, [4, 6])
    np.testing.assert_array_equal(grad_input, [0, 6])
    np.testing.assert_array_equal(x.grad.numpy(), [0, 60])


def test_full_backward_hook_without_input_gradient():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(tensor([1.0]))

        def forward(self, x):
            return F.relu(self.w), F.relu(self.w)

    net = Constant()
    seen = []
    net.register_full_backward_hook(lambda m, gi, go: seen.append((gi, [g.numpy()[0] for g in go])))
    first, _ = net(3)
    first.backward(tensor([2.0]))
    assert seen == [((None,), [2.0, 0.0])]
    assert net.w.grad.numpy() == [2.0]


def test_modules_with_hooks_die_without_the_collector():
    gc.disable()
    try:
        net = Tree()
        net.register_forward_hook(lambda *a: None)
        ref = weakref.ref(net)
        net(tensor([1.0]))
        del net
        assert ref() is None
    finally:
        gc.enable()


# Everything below ---------------------------------------------------------------------------------


def test_train_eval_apply_requires_grad_zero_grad():
    net = Tree()
    assert net.eval() is net
    assert not any(m.training for m in net.modules())
    net.train()
    assert all(m.training for m in net.modules())
    with pytest.raises(ValueError, match="boolean"):
        net.train(1)
    order = []
    net.apply(lambda m: order.append(m))
    assert order == [net.first, net.second[0], net.second[1], net.second, net]
    net.requires_grad_(False)
    assert not any(p.requires_grad for p in net.parameters())
    net.gain.grad = tensor(3.0)
    net.zero_grad(set_to_none=False)
    assert net.gain.grad.numpy() == 0
    net.zero_grad()
    assert net.gain.grad is None


def test_conversion():
    net = Leaf()
    net.register_buffer("count", tensor([1], np.int64))
    net.weight.grad = tensor([1.0, 2.0, 3.0])
    kept = net.weight
    assert net.double() is net
    assert net.weight is kept
    assert {t.dtype for t in (net.weight, net.weight.grad, net.bias, net.mean)} == {np.dtype(np.float64)}
    assert net.count.dtype == np.int64
    assert net.float().weight.dtype == np.float32
    assert net.half().weight.dtype == np.float16
    assert net.to(np.float64).weight.dtype == np.float64
    assert net.to("cpu", dtype=np.float32).weight.dtype == np.float32
    assert net.to(tensor([1.0], np.float64)).weight.dtype == np.float64
    with pytest.raises(TypeError, match="floating-point and complex dtypes only"):
        net.to(np.int64)
    with pytest.raises(RuntimeError, match=r"device .cuda. is not available"):
        net.to("cuda")


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"]
)
def test_copies_are_independent_and_keep_sharing(clone):
    net = Tree()
    net.tied = net.first.weight
    net.first.bias.requires_grad = False
    other = clone(net)
    assert repr(other) == repr(net)
    assert other.tied is other.first.weight
    assert other.first.weight is not net.first.weight
    assert isinstance(other.gain, nn.Parameter)
    assert not other.first.bias.requires_grad
    assert other.gain.requires_grad
    other.first.weight._data[...] = 77
    assert not (net.first.weight.detach().numpy() == 77).any()
    assert list(other.state_dict()) == list(net.state_dict())
    other.fresh = nn.Parameter(tensor([1.0]))
    assert "fresh" in dict(other.named_parameters())
    assert not hasattr(net, "fresh")


def test_parameter():
    p = nn.Parameter(tensor([1.0, 2.0]))
    assert p.requires_grad
    assert repr(p).startswith("Parameter containing:\n")
    data = np.ones(2, np.float32)
    assert np.shares_memory(nn.Parameter(data).detach().numpy(), data)
    assert not nn.Parameter(tensor([1.0]), requires_grad=False).requires_grad
    with pytest.raises(RuntimeError, match="only floating-point and complex tensors"):
        nn.Parameter(tensor([1], np.int64))


def test_repr_is_torchs():
    torch = pytest.importorskip("torch")

    def build(nn):
        class Custom(nn.Module):
            def __init__(self):
                super().__init__()
                self.blocks = nn.ModuleList([nn.Identity(), nn.Identity(), nn.Flatten()])
                self.named = nn.ModuleDict(
                    {"a": nn.Identity(), "b": nn.Sequential(nn.Flatten(0), nn.Identity())}
                )
                self.empty = nn.Sequential()
                self.absent = None
                self.unflatten = nn.Unflatten(1, (2, -1))

            def extra_repr(self):
                return "one=1\ntwo=2"

        return Custom()

    assert repr(build(nn)) == repr(build(torch.nn))


def test_ordered_dict_is_accepted_by_torch():
    torch = pytest.importorskip("torch")
    state = nn.ParameterList([tensor([1.0, 2.0])]).state_dict()
    theirs = torch.nn.ParameterList([torch.zeros(2)])
    theirs.load_state_dict(OrderedDict((k, torch.from_numpy(v.numpy())) for k, v in state.items()))
    ours = nn.ParameterList([tensor([0.0, 0.0])])
    ours.load_state_dict(theirs.state_dict())
    np.testing.assert_array_equal(ours[0].detach().numpy(), [1, 2])


# ------------------------------------------------------------------------------------------ versions of state dicts


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


class Wrapper(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base = base
        self.scale = nn.Parameter(fastdl.ones(1))

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)


def test_a_module_may_look_further_for_its_attributes():
    wrapper = Wrapper(nn.Linear(3, 2))
    assert wrapper.in_features == 3
    assert wrapper.weight is wrapper.base.weight
    assert list(wrapper.state_dict()) == ["scale", "base.weight", "base.bias"]
    with pytest.raises(AttributeError, match="'Linear' object has no attribute 'nothing'"):
        wrapper.nothing  # noqa: B018
    assert copy.deepcopy(wrapper).in_features == 3


WRONG = {
    "None": None,
    "str": "xyz",
    "float": 2.5,
    "long": (2, 2, 2, 2, 2),
    "list": [1, 2],
    "dict": {},
    "nan": float("nan"),
    "negative": -1,
}
LAYERS = {
    "Linear": {"in_features": 4, "out_features": 4},
    "Bilinear": {"in1_features": 4, "in2_features": 4, "out_features": 4},
    **{f"Conv{n}d": {"in_channels": 4, "out_channels": 4, "kernel_size": 2} for n in (1, 2, 3)},
    **{f"ConvTranspose{n}d": {"in_channels": 4, "out_channels": 4, "kernel_size": 2} for n in (1, 2, 3)},
    **{f"BatchNorm{n}d": {"num_features": 4} for n in (1, 2, 3)},
    **{f"InstanceNorm{n}d": {"num_features": 4, "affine": True} for n in (1, 2, 3)},
    "GroupNorm": {"num_groups": 2, "num_channels": 4},
    "LayerNorm": {"normalized_shape": 4},
    "RMSNorm": {"normalized_shape": 4},
    "Embedding": {"num_embeddings": 4, "embedding_dim": 4},
    "EmbeddingBag": {"num_embeddings": 4, "embedding_dim": 4},
    "AvgPool1d": {"kernel_size": 2},
    "FractionalMaxPool2d": {"kernel_size": 2, "output_size": 2},
    "ZeroPad2d": {"padding": 1},
    "PReLU": {},
    "Dropout": {},
    "MultiheadAttention": {"embed_dim": 4, "num_heads": 2},
    "Upsample": {"scale_factor": 2},
}


@pytest.mark.parametrize("layer", LAYERS)
def test_errors_of_constructors_name_the_argument(layer):
    """Whatever kind an argument has: taken, or an error with the layer's or the argument's name in it."""
    cls, good = getattr(nn, layer), LAYERS[layer]
    names = [n for n in inspect.signature(cls).parameters if n not in ("device", "dtype", "bias")]
    messages = []
    for name in names:
        for value in WRONG.values():
            try:
                cls(**{**good, name: value})
            except (TypeError, ValueError, RuntimeError, IndexError) as error:
                messages.append((name, str(error)))
    assert messages
    assert [(name, text) for name, text in messages if layer not in text and name not in text] == []


def test_errors_of_constructors_say_what_came():
    for make, text in (
        (lambda: nn.Linear(None, 3), "Linear: in_features must be an int, got None"),
        (
            lambda: nn.Linear(4.0, 3),
            r"Linear: in_features must be an int, got 4.0 \(float\); use in_features=int",
        ),
        (lambda: nn.BatchNorm2d("a"), r"BatchNorm2d: num_features must be an int, got 'a' \(str\)"),
        (lambda: nn.InstanceNorm1d([3], affine=True), "InstanceNorm1d: num_features must be an int"),
        (
            lambda: nn.Conv2d(3, 4, 3, groups=None),
            "Conv2d: groups must be an int, got None; leave it out for its .* 1",
        ),
        (
            lambda: nn.Conv2d(3, 4, 3, padding=None),
            "Conv2d: padding must be an int or a tuple of ints, got None",
        ),
        (
            lambda: nn.Embedding(3, 4, _weight=[1.0]),
            r"Embedding: _weight must be a Tensor or None, got \[1.0\]",
        ),
    ):
        with pytest.raises(TypeError, match=text):
            make()
    with pytest.raises(ValueError, match="Linear: out_features is a size and must not be negative, got -1"):
        nn.Linear(3, -1)
    with pytest.raises(ValueError, match="ConvTranspose1d"):
        nn.ConvTranspose1d(3, 4, (2, 2))
    with pytest.raises(TypeError, match="unexpected keyword argument 'bais'"):
        nn.Linear(3, 4, bais=True)

    class Mine(nn.Linear):
        def __init__(self, width):
            super().__init__(width, None)

    with pytest.raises(TypeError, match="Linear: out_features must be an int"):
        Mine(3)
    assert list(inspect.signature(nn.Linear).parameters)[:2] == ["in_features", "out_features"]


def _global_hooks_story(lib):
    """What global hooks of ``lib`` saw: calls, gradients and members of a small model, and its numbers."""
    module = lib.nn.modules.module
    seen = []

    def note(kind, result=None):
        def hook(m, *rest):
            shapes = [
                tuple(r.shape) if hasattr(r, "shape") else r if isinstance(r, str) else None for r in rest
            ]
            seen.append((kind, type(m).__name__, shapes))
            return result(rest) if result else None

        return hook

    handles = [
        module.register_module_parameter_registration_hook(note("parameter")),
        module.register_module_buffer_registration_hook(note("buffer")),
        module.register_module_module_registration_hook(note("module")),
    ]
    model = lib.nn.Sequential(lib.nn.Linear(3, 2), lib.nn.BatchNorm1d(2), lib.nn.ReLU())
    model.add_module("last", lib.nn.Tanh())
    other = lib.nn.Module()
    other.extra = lib.nn.Identity()
    other.extra = None
    other.register_buffer("none", None)
    other.none = lib.ones(1)
    other.register_parameter("no", None)
    for handle in handles:
        handle.remove()
    model.double()
    model[0].weight.data.copy_(lib.arange(6.0).reshape(2, 3))
    model[0].bias.data.fill_(0.5)
    other.unseen = lib.nn.Identity()
    own = model[0].register_forward_hook(note("own forward"))
    handles = [
        module.register_module_forward_pre_hook(note("pre", lambda r: (r[0][0] * 2,))),
        module.register_module_forward_hook(note("forward", lambda r: r[1] + 1)),
        module.register_module_forward_hook(note("with kwargs"), with_kwargs=True),
        module.register_module_full_backward_pre_hook(note("backward pre", lambda r: (r[0][0] * 3,))),
        module.register_module_full_backward_hook(note("backward", lambda r: (r[0][0] * 2,))),
    ]
    x = lib.tensor(
        [[1.0, 2.0, 4.0], [0.5, -1.0, 2.0], [3.0, 0.25, 1.0]], dtype=lib.float64, requires_grad=True
    )
    y = model(x)
    for handle in handles:  # a call takes the backward hooks that were there when it began
        handle.remove()
    y.square().sum().backward()
    own.remove()
    again = model(x)
    return (
        seen,
        y.detach().numpy(),
        x.grad.numpy(),
        model[0].weight.grad.numpy(),
        again.detach().numpy(),
    )


def test_global_hooks_agree_with_torch():
    torch = pytest.importorskip("torch")
    ours, theirs = _global_hooks_story(fastdl), _global_hooks_story(torch)
    assert ours[0] == theirs[0]
    assert len(ours[0]) > 30
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_global_registration_hooks_replace_and_are_removed():
    from fastdl.nn.modules import module

    class Marked(nn.Parameter):
        pass

    with module.register_module_parameter_registration_hook(lambda m, name, p: Marked(p.detach())):
        layer = nn.Linear(2, 2)
    assert type(layer.weight) is Marked
    assert [type(p) for p in nn.Linear(2, 2).parameters()] == [nn.Parameter] * 2
    with module.register_module_module_registration_hook(lambda m, name, child: nn.Tanh()):
        model = nn.Sequential(nn.ReLU())
    assert isinstance(model[0], nn.Tanh)
    with module.register_module_buffer_registration_hook(lambda m, name, b: tensor([3.0])):
        model.register_buffer("three", None)
    assert model.three.item() == 3.0


def test_global_forward_hooks_leave_nothing_behind():
    """After the last one is gone, a call goes the fast way again; a fused ``Sequential`` shows its layers to hooks."""
    from fastdl.nn.modules import module

    seen = []
    model, x = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), tensor([[1.0, 2.0]])
    before = model(x).detach()
    own = model[1].register_forward_hook(lambda *_: None)
    handle = module.register_module_forward_hook(lambda m, args, y: seen.append(type(m).__name__))
    model(x)
    assert seen == ["Linear", "ReLU", "Sequential"]
    handle.remove()
    own.remove()
    for _ in range(2):
        np.testing.assert_array_equal(model(x).detach().numpy(), before.numpy())
    assert not nn.Module._hooked
    assert not any("_hooked" in m.__dict__ for m in model.modules())
    assert len(seen) == 3

    class Fails(nn.Module):
        def forward(self, x):
            raise RuntimeError("no")

    with (
        module.register_module_forward_hook(lambda m, args, y: seen.append(y), always_call=True),
        pytest.raises(RuntimeError, match="no"),
    ):
        Fails()(x)
    assert seen[3:] == [None]
    with pytest.raises(TypeError, match="register_module_forward_hook: hook must be a function, got int"):
        module.register_module_forward_hook(3)
