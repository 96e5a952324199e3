"""``fx``: programs as graphs give what the programs give, in PyTorch's nodes."""

import copy
import importlib
import math
import operator

import numpy as np
import pytest

import fastdl
from fastdl import nn

torch = pytest.importorskip("torch")


def programs(library):
    """Modules and functions, with inputs."""
    F = library.nn.functional

    class Net(library.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = library.nn.Conv2d(3, 4, 3, padding=1)
            self.norm = library.nn.BatchNorm2d(4)
            self.head = library.nn.Sequential(library.nn.Linear(4, 4), library.nn.ReLU())
            self.token = library.nn.Parameter(library.ones(1, 1, 4))
            self.act = F.gelu
            self.register_buffer("shift", library.ones(4))
            self.layers = library.nn.ModuleList([library.nn.Linear(4, 4)])

        def forward(self, x):
            x = F.relu(self.norm(self.conv(x)))
            n, _, height, width = x.shape
            x = x.reshape(n, -1, height * width).transpose(1, 2)
            x = library.cat([self.token.expand(n, -1, -1), x], dim=1)
            x = self.act(x) + self.shift
            for layer in self.layers:
                x = layer(x)
            x = 1 - library.add(x, 1) * 2
            x = x[:, 0] / math.sqrt(4.0)
            y = library.exp(-x).sum(-1, keepdim=True)
            return self.head(x), {"y": y, "n": n}

    def function(x, scale=2.0, *, power=2):
        return library.stack([x * scale, -(x**power)], 0).max(dim=-1).values

    return [Net().eval(), function]


INPUTS = [(2, 3, 5, 5), (3, 4)]


@pytest.mark.parametrize("which", [0, 1])
def test_graphs_are_torch_s(which):
    ours, theirs = programs(fastdl)[which], programs(torch)[which]
    x = np.random.RandomState(0).randn(*INPUTS[which]).astype("float32")
    traced, expected = fastdl.fx.symbolic_trace(ours), torch.fx.symbolic_trace(theirs)

    def shown(graph):
        return [(n.op, n.name, str(getattr(n.target, "__name__", n.target))) for n in graph.nodes]

    assert shown(traced.graph) == shown(expected.graph)
    inputs = fastdl.tensor(x)
    flat = fastdl.utils._pytree.tree_leaves
    for a, b, c in zip(
        flat(traced(inputs)), flat(ours(inputs)), flat(fastdl.fx.Interpreter(traced).run(inputs)), strict=True
    ):
        assert fastdl.equal(fastdl.as_tensor(a), fastdl.as_tensor(b))
        assert fastdl.equal(fastdl.as_tensor(a), fastdl.as_tensor(c))


def test_a_traced_module_has_the_state_and_the_gradients():
    module = programs(fastdl)[0]
    traced = fastdl.fx.symbolic_trace(module)
    assert list(traced.state_dict()) != []
    assert sorted(traced.state_dict()) == sorted(module.state_dict())
    traced(fastdl.randn(2, 3, 5, 5))[0].sum().backward()
    assert module.token.grad is not None
    other = copy.deepcopy(traced)
    other.conv.weight.data.zero_()
    assert module.conv.weight.abs().sum().item() > 0
    x = fastdl.randn(1, 3, 4, 4)
    assert fastdl.equal(copy.deepcopy(traced)(x)[0], module(x)[0])
    assert not traced.training


def test_functions_are_themselves_after_a_trace():
    before = {name: getattr(fastdl, name) for name in fastdl.__all__}
    methods = dict(vars(fastdl.Tensor))
    with pytest.raises(fastdl.fx.TraceError, match="control flow"):
        fastdl.fx.symbolic_trace(lambda x: 1 if fastdl.exp(x).sum() > 0 else 2)
    assert all(getattr(fastdl, name) is value for name, value in before.items())
    assert all(vars(fastdl.Tensor)[name] is value for name, value in methods.items())
    assert not fastdl.fx.is_fx_tracing()
    assert math.sqrt(4) == 2
    assert nn.Sequential(nn.Linear(2, 2), nn.ReLU())(fastdl.ones(1, 2)).shape == (1, 2)


def test_what_cannot_be_traced_says_so():
    def loops(x):
        return list(x)

    with pytest.raises(fastdl.fx.TraceError, match="cannot be iterated"):
        fastdl.fx.symbolic_trace(loops)
    with pytest.raises(RuntimeError, match="'len' is not supported"):
        fastdl.fx.symbolic_trace(lambda x: len(x))
    with pytest.raises(NotImplementedError, match="top level"):
        fastdl.fx.wrap("len")


def test_inputs_that_are_known():
    def program(x, double=True, *rest, **more):
        return x * 2 if double else x

    traced = fastdl.fx.symbolic_trace(program, concrete_args={"double": False})
    assert [n.target for n in traced.graph.nodes] == ["x", "*rest", "**more", "output"]
    assert traced(fastdl.ones(1)).item() == 1


def test_leaves_and_wrapped_functions(tmp_path, monkeypatch):
    (tmp_path / "leaf_program.py").write_text(
        "import fastdl\n\n"
        "@fastdl.fx.wrap\ndef unknown(x):\n    return x + 1 if x.sum() > 0 else x\n\n"
        "fastdl.fx.wrap('len')\n\n"
        "def program(x):\n    return unknown(x) * len(x)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("leaf_program")
    traced = fastdl.fx.symbolic_trace(module.program)
    assert [n.name for n in traced.graph.nodes] == ["x", "unknown", "len_1", "mul", "output"]
    assert traced(fastdl.ones(3)).tolist() == [6.0] * 3
    assert module.unknown(fastdl.ones(1)).item() == 2

    class Leaves(fastdl.fx.Tracer):
        def is_leaf_module(self, m, module_qualified_name):
            return module_qualified_name == "0.1"

    graph = Leaves().trace(nn.Sequential(nn.Sequential(nn.Sequential(), nn.Sequential(nn.ReLU()))))
    assert [n.target for n in graph.nodes] == ["input", "0.1", "output"]


def test_graphs_can_be_changed():
    traced = fastdl.fx.symbolic_trace(lambda x: fastdl.exp(x) * 2)
    graph = traced.graph
    (node,) = graph.find_nodes(op="call_function", target=fastdl.exp)
    assert list(node.users) == [node.next]
    assert (node.prev.op, node.all_input_nodes) == ("placeholder", [node.prev])
    with graph.inserting_after(node):
        new = graph.call_method("neg", (node,))
    node.replace_all_uses_with(new, lambda user: user is not new)
    with graph.inserting_before(graph.output_node()):
        unused = graph.call_function(operator.add, (new, 1))
    graph.lint()
    with pytest.raises(RuntimeError, match="users"):
        graph.erase_node(node)
    assert graph.eliminate_dead_code()
    assert unused not in graph.nodes
    traced.recompile()
    assert traced(fastdl.zeros(1)).item() == -2
    new.update_arg(0, node.prev)
    assert not node.users
    graph.erase_node(node)
    traced.recompile()
    assert traced(fastdl.ones(1)).item() == -2
    assert "neg = x.neg()" in traced.code
    assert "%mul" in str(graph)
    graph.nodes[-1].args = (graph.nodes[0],)
    new.replace_input_with(graph.nodes[0], graph.nodes[-2])
    with pytest.raises(RuntimeError, match="before it has been defined"):
        graph.lint()


def test_graphs_made_by_hand():
    graph = fastdl.fx.Graph()
    x = graph.placeholder("x")
    weight = graph.get_attr("weight")
    made = graph.call_module("layer", (x,))
    part = graph.call_function(operator.getitem, (made, (slice(0, 1), ...)))
    graph.output({"part": part, "sum": graph.call_function(fastdl.add, (made, weight), {"alpha": math.inf})})
    traced = fastdl.fx.GraphModule({"weight": nn.Parameter(fastdl.ones(2)), "layer": nn.ReLU()}, graph)
    result = traced(fastdl.tensor([[-1.0, 2.0], [3.0, -4.0]]))
    assert result["part"].tolist() == [[0.0, 2.0]]
    assert result["sum"].isinf().all()
    traced.add_submodule("block.0", nn.Tanh())
    assert [name for name, _ in traced.named_modules()] == ["", "layer", "block", "block.0"]
    traced.delete_all_unused_submodules()
    assert [name for name, _ in traced.named_modules()] == ["", "layer"]
    copied = fastdl.fx.Graph()
    copied.output(copied.graph_copy(graph, {}))
    assert [n.name for n in copied.nodes] == [n.name for n in graph.nodes]
