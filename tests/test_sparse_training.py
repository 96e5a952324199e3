"""Sparse gradients of embeddings, the optimizers that take them, sparse buffers, files, and a graph network."""

from __future__ import annotations

import io

import numpy as np
import pytest

import fastdl
from fastdl.sparse.tensor import SparseTensor

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore:Sparse", "ignore:.*deprecated", "ignore:.*COO")
LIBRARIES = (fastdl, torch)
TABLE = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
WORDS = np.array([[1, 3, 1], [6, 0, 3]])


def table(m, kind="Embedding", **options):
    layer = getattr(m.nn, kind)(7, 3, sparse=True, **options)
    with m.no_grad():
        layer.weight.copy_(m.tensor(TABLE))
    return layer


def loss(m, layer, words=WORDS):
    return layer(m.tensor(words)).pow(2).sum()


def same(ours, theirs):
    assert tuple(ours.shape) == tuple(theirs.shape)
    assert ours.is_coalesced() == theirs.is_coalesced()
    ours, theirs = ours.coalesce(), theirs.coalesce()
    np.testing.assert_array_equal(ours.indices().numpy(), theirs.indices().numpy())
    np.testing.assert_allclose(ours.values().numpy(), theirs.values().numpy(), rtol=1e-6)


LAYERS = {
    "embedding": lambda m: table(m),
    "padding": lambda m: table(m, padding_idx=1),
    "bag": lambda m: table(m, "EmbeddingBag"),
    "bag sum": lambda m: table(m, "EmbeddingBag", mode="sum"),
    "bag padding": lambda m: table(m, "EmbeddingBag", mode="sum", padding_idx=3),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_torch_s(name):
    grads = []
    for m in LIBRARIES:
        layer = LAYERS[name](m)
        loss(m, layer).backward()
        loss(m, layer, WORDS[:1]).backward()  # adds to what is there
        grads.append(layer.weight.grad)
    same(*grads)
    assert type(grads[0]) is SparseTensor


def test_factors_of_a_bag_have_gradients():
    found = []
    for m in LIBRARIES:
        layer, scale = table(m, "EmbeddingBag", mode="sum"), m.ones(2, 3, requires_grad=True)
        layer(m.tensor(WORDS), per_sample_weights=scale).pow(2).sum().backward()
        found.append((layer.weight.grad, scale.grad))
    same(found[0][0], found[1][0])
    np.testing.assert_allclose(found[0][1].numpy(), found[1][1].numpy(), rtol=1e-5)


def test_sparse_and_dense_uses_meet():
    for first, second in ((0, 1), (1, 0)):
        found = []
        for m in LIBRARIES:
            layer = table(m)
            uses = [lambda layer=layer, m=m: loss(m, layer), lambda layer=layer: layer.weight.pow(3).sum()]
            (uses[first]() + uses[second]()).backward()
            uses[first]().backward()
            uses[second]().backward()
            found.append(layer.weight.grad.numpy())
        np.testing.assert_allclose(*found, rtol=1e-5)
    found = []
    for m in LIBRARIES:
        layer = table(m)
        (loss(m, layer) + loss(m, layer, WORDS[:1]) + layer.weight[2:4].sum()).backward()
        found.append(layer.weight.grad.numpy())
    np.testing.assert_allclose(*found, rtol=1e-5)


def test_hooks_and_autograd_grad():
    layer = table(fastdl)
    (grad,) = fastdl.autograd.grad(loss(fastdl, layer), layer.weight)
    assert grad.is_sparse
    handle = layer.weight.register_hook(lambda g: g * 2)
    loss(fastdl, layer).backward()
    np.testing.assert_allclose(layer.weight.grad.to_dense().numpy(), 2 * grad.to_dense().numpy(), rtol=1e-6)
    handle.remove()
    (dense,) = fastdl.autograd.grad(loss(fastdl, layer), layer.weight, create_graph=True)
    np.testing.assert_allclose(dense.detach().numpy(), grad.to_dense().numpy(), rtol=1e-6)


def test_what_cannot_have_a_sparse_gradient():
    with pytest.raises(ValueError, match="max mode does not support sparse weights"):
        loss(fastdl, table(fastdl, "EmbeddingBag", mode="max"))
    with pytest.raises(RuntimeError, match="scale_grad_by_freq not supported with sparse gradients"):
        loss(fastdl, table(fastdl, scale_grad_by_freq=True)).backward()
    weight = fastdl.tensor(TABLE, requires_grad=True)
    fastdl.nn.functional.embedding(fastdl.tensor(WORDS), weight * 2, sparse=True).sum().backward()
    assert weight.grad.layout is fastdl.strided
    assert "sparse=True" in repr(table(fastdl))
    assert repr(table(fastdl)) == repr(table(torch)).replace("torch", "fastdl")


OPTIMIZERS = {
    "SGD": lambda m, p: m.optim.SGD(p, lr=0.1),
    "SGD momentum": lambda m, p: m.optim.SGD(p, lr=0.1, momentum=0.9),
    "SGD nesterov": lambda m, p: m.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "SGD dampening": lambda m, p: m.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5, maximize=True),
    "Adagrad": lambda m, p: m.optim.Adagrad(p, lr=0.1, lr_decay=0.01, initial_accumulator_value=0.1),
    "Adagrad maximize": lambda m, p: m.optim.Adagrad(p, maximize=True),
    "SparseAdam": lambda m, p: m.optim.SparseAdam(p, lr=0.1),
    "SparseAdam maximize": lambda m, p: m.optim.SparseAdam(
        p, lr=0.1, betas=(0.8, 0.9), eps=1e-3, maximize=True
    ),
    "LBFGS": lambda m, p: m.optim.LBFGS(p, lr=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_torch_s(name):
    found, states = [], []
    for m in LIBRARIES:
        layer = table(m)
        optimizer = OPTIMIZERS[name](m, layer.parameters())
        for i in range(4):

            def closure(m=m, layer=layer, optimizer=optimizer, i=i):
                optimizer.zero_grad(set_to_none=i % 2 == 0)
                value = loss(m, layer, WORDS[: 1 + i % 2])
                value.backward()
                return value

            optimizer.step(closure)
            if i == 1 and name != "LBFGS":
                state = optimizer.state_dict()
                optimizer = OPTIMIZERS[name](m, layer.parameters())
                optimizer.load_state_dict(state)
        found.append(layer.weight.detach().numpy())
        states.append(optimizer.state_dict())
    np.testing.assert_allclose(*found, rtol=2e-5, atol=1e-6)
    if name != "LBFGS":
        assert [list(s) for s in states[0]["state"].values()] == [
            list(s) for s in states[1]["state"].values()
        ]
    if name.startswith("SparseAdam"):
        assert states[0]["param_groups"][0].keys() == states[1]["param_groups"][0].keys()
        assert states[0]["state"][0]["step"] == states[1]["state"][0]["step"] == 4
        for key in ("exp_avg", "exp_avg_sq"):
            np.testing.assert_allclose(*[s["state"][0][key].numpy() for s in states], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    "name",
    [
        "Adam",
        "AdamW",
        "RMSprop",
        "Adadelta",
        "Adamax",
        "NAdam",
        "RAdam",
        "ASGD",
        "Rprop",
        "Adafactor",
        "Muon",
    ],
)
def test_others_refuse_as_torch_s(name):
    messages = []
    for m in LIBRARIES:
        layer = table(m)
        loss(m, layer).backward()
        with pytest.raises(RuntimeError) as error:
            getattr(m.optim, name)(layer.parameters()).step()
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_options_are_refused_as_torch_s():
    for call in (
        lambda m: m.optim.SparseAdam(table(m).parameters(), lr=0.0),
        lambda m: m.optim.SparseAdam(table(m).parameters(), eps=0.0),
        lambda m: m.optim.SparseAdam(table(m).parameters(), betas=(1.0, 0.9)),
        lambda m: m.optim.SparseAdam([m.sparse_coo_tensor([[0]], [1.0], (2,), requires_grad=True)]),
    ):
        with pytest.raises(ValueError) as theirs:
            call(torch)
        with pytest.raises(ValueError) as ours:
            call(fastdl)
        assert str(ours.value) == str(theirs.value)
    for make in (
        lambda p: fastdl.optim.SGD(p, weight_decay=0.1),
        lambda p: fastdl.optim.Adagrad(p, weight_decay=0.1),
    ):
        layer = table(fastdl)
        loss(fastdl, layer).backward()
        with pytest.raises(RuntimeError, match="weight_decay"):
            make(layer.parameters()).step()
    p = fastdl.nn.Parameter(fastdl.ones(2))
    p.sum().backward()
    with pytest.raises(
        RuntimeError, match="SparseAdam does not support dense gradients, please consider Adam"
    ):
        fastdl.optim.SparseAdam([p]).step()


def test_clipping_and_scaling():
    layer = table(fastdl)
    loss(fastdl, layer).backward()
    whole = layer.weight.grad.to_dense().numpy()
    norm = fastdl.nn.utils.clip_grad_norm_(layer.parameters(), 0.5)
    np.testing.assert_allclose(norm.item(), np.linalg.norm(whole), rtol=1e-6)
    np.testing.assert_allclose(layer.weight.grad.to_dense().numpy(), whole * 0.5 / norm.item(), rtol=1e-4)
    scaler = fastdl.amp.GradScaler(init_scale=4.0)
    optimizer = fastdl.optim.SGD(layer.parameters(), lr=0.1)
    optimizer.zero_grad()
    scaler.scale(loss(fastdl, layer)).backward()
    scaler.unscale_(optimizer)
    np.testing.assert_allclose(layer.weight.grad.to_dense().numpy(), whole, rtol=1e-5)
    layer.zero_grad(set_to_none=False)
    assert layer.weight.grad._nnz() == 0


# -------------------------------------------------------------------------------------------- modules and files


class Net(fastdl.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer(
            "adjacency", fastdl.sparse_coo_tensor([[0, 1], [1, 0]], [2.0, 3.0], (2, 2)).coalesce()
        )
        self.layer = fastdl.nn.Linear(2, 2)

    def forward(self, x):
        return self.layer(self.adjacency @ x)


def test_sparse_buffers():
    net = Net()
    state = net.state_dict()
    assert state["adjacency"].is_sparse
    assert net.double().adjacency.dtype == np.float64
    assert net(fastdl.ones(2, 2).double()).shape == (2, 2)
    net.float()
    other = Net()
    with fastdl.no_grad():
        other.adjacency.mul_(0)
    other.load_state_dict(net.state_dict())
    np.testing.assert_array_equal(other.adjacency.to_dense().numpy(), [[0, 2], [3, 0]])
    with pytest.raises(RuntimeError, match="layout mismatch for adjacency"):
        other.load_state_dict({**net.state_dict(), "adjacency": fastdl.ones(2, 2)})


@pytest.mark.parametrize("layout", ["sparse_coo", "sparse_csr", "sparse_csc"])
@pytest.mark.parametrize("nested", [False, True])
def test_files(tmp_path, layout, nested):
    x = fastdl.tensor(TABLE).relu().to_sparse(layout=getattr(fastdl, layout))
    obj = {"x": x, "w": fastdl.ones(2)}
    fastdl.save({"deep": [obj]} if nested else obj, tmp_path / "file")
    back = fastdl.load(tmp_path / "file")
    back = back["deep"][0] if nested else back
    assert back["x"].layout is x.layout
    np.testing.assert_array_equal(back["x"].to_dense().numpy(), x.to_dense().numpy())
    if layout == "sparse_coo":
        assert back["x"].is_coalesced()


def test_torch_s_files(tmp_path):
    x = torch.tensor(TABLE).relu()
    wide = torch.sparse_coo_tensor([[0, 0]], torch.ones(2, 3), (4, 3))
    for zipped in (True, False):
        torch.save(
            {"coo": x.to_sparse(), "csr": x.to_sparse_csr(), "csc": x.to_sparse_csc(), "wide": wide},
            tmp_path / "file.pt",
            _use_new_zipfile_serialization=zipped,
        )
        found = fastdl.load(tmp_path / "file.pt")
        for name in ("coo", "csr", "csc"):
            assert found[name].layout is getattr(fastdl, f"sparse_{name}")
            np.testing.assert_array_equal(found[name].to_dense().numpy(), x.numpy())
        assert found["coo"].is_coalesced()
        assert not found["wide"].is_coalesced()
        np.testing.assert_array_equal(found["wide"].to_dense().numpy(), wide.to_dense().numpy())


def test_a_damaged_file_is_refused():
    file = io.BytesIO()
    fastdl.save({"x": fastdl.sparse_coo_tensor([[5]], [1.0], (6,))}, file)
    damaged = file.getvalue().replace(b'\\"shape\\":[6]', b'\\"shape\\":[5]')
    assert damaged != file.getvalue()
    with pytest.raises(ValueError, match="damaged"):
        fastdl.load(io.BytesIO(damaged))


# -------------------------------------------------------------------------------------------------- graph networks


def graph_network(m):
    """Two layers after Kipf and Welling on two communities of nodes, of which a few are labelled."""
    nn, F = m.nn, m.nn.functional

    class Convolution(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.weight = nn.Parameter(m.tensor(weights[inputs, outputs]))
            self.bias = nn.Parameter(m.zeros(outputs))

        def forward(self, x, adjacency):
            return m.spmm(adjacency, m.mm(x, self.weight)) + self.bias

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = Convolution(16, 8), Convolution(8, 2)

        def forward(self, x, adjacency):
            return F.log_softmax(self.second(F.relu(self.first(x, adjacency)), adjacency), dim=1)

    rng = np.random.default_rng(0)
    weights = {size: 0.4 * rng.standard_normal(size).astype(np.float32) for size in ((16, 8), (8, 2))}
    group = np.repeat([0, 1], 60)
    near = rng.random((120, 120)) < np.where(group[:, None] == group, 0.1, 0.005)
    near = near | near.T | np.eye(120, dtype=bool)
    edges = m.tensor(np.stack(np.nonzero(near)))
    adjacency = m.sparse_coo_tensor(edges, m.ones(edges.shape[1]), (120, 120)).coalesce()
    degree = m.sparse.sum(adjacency, 1).to_dense().pow(-0.5)
    adjacency = adjacency * degree.unsqueeze(1) * degree
    features = m.tensor(rng.standard_normal((120, 16)).astype(np.float32)).to_sparse()
    labels, known = m.tensor(group), m.tensor([0, 1, 2, 60, 61, 62])
    model, losses = Network(), []
    optimizer = m.optim.Adam(model.parameters(), lr=0.05, weight_decay=5e-4)
    for _ in range(60):
        optimizer.zero_grad()
        value = F.nll_loss(model(features, adjacency)[known], labels[known])
        value.backward()
        optimizer.step()
        losses.append(value.item())
    found = model(features, adjacency).argmax(1)
    return losses, (found == labels).float().mean().item()


def test_a_graph_network_learns_as_torch_s():
    (ours, hits), (theirs, _) = graph_network(fastdl), graph_network(torch)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    assert ours[-1] < 0.05
    assert hits > 0.9


def test_light_gcn_with_sparse_embeddings():
    """Embeddings that spread over a graph of users and items, and PyTorch's numbers after some steps."""
    rng = np.random.default_rng(0)
    pairs = np.stack([rng.integers(0, 20, 60), 20 + rng.integers(0, 30, 60)])
    edges = np.concatenate([pairs, pairs[::-1]], 1)
    start = rng.standard_normal((50, 8)).astype(np.float32)
    found = []
    for m in LIBRARIES:
        graph = m.sparse_coo_tensor(m.tensor(edges), m.ones(120), (50, 50)).coalesce()
        degree = m.sparse.sum(graph, 1).to_dense().clamp(min=1).pow(-0.5)
        graph = graph * degree * degree.unsqueeze(1)
        layer = m.nn.Embedding(50, 8)
        with m.no_grad():
            layer.weight.copy_(m.tensor(start))
        optimizer = m.optim.Adam(layer.parameters(), lr=0.01)
        for _ in range(5):
            x = layer.weight
            total = x
            for _ in range(3):
                x = m.sparse.mm(graph, x)
                total = total + x
            users, items = total[m.tensor(pairs[0])], total[m.tensor(pairs[1])]
            value = m.nn.functional.softplus(-(users * items).sum(1)).mean()
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        found.append(layer.weight.detach().numpy())
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-5)
