"""Graphs of CUDA on the stand-in for CuPy: capturing, replaying, random numbers in them."""

from __future__ import annotations

from typing import Any

import pytest

import fastdl
import fastdl.nn.functional as F
from fastdl import nn


def model_and_data() -> Any:
    fastdl.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).cuda()
    batches = [
        (fastdl.randn(5, 4, device="cuda"), fastdl.randint(0, 3, (5,), device="cuda")) for _ in range(5)
    ]
    return model, fastdl.optim.Adam(model.parameters(), lr=0.05, capturable=True), batches


def step(model: Any, optimizer: Any, x: Any, y: Any) -> Any:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss


def test_a_captured_training_step_trains_as_the_step_does(gpu: Any) -> None:
    model, optimizer, batches = model_and_data()
    expected = [step(model, optimizer, *batch).item() for batch in batches]
    model, optimizer, batches = model_and_data()
    x, y = batches[0][0].clone(), batches[0][1].clone()
    losses = [step(model, optimizer, x, y).item()]
    captured = fastdl.cuda.CUDAGraph()
    with fastdl.cuda.graph(captured):
        assert fastdl.cuda.is_current_stream_capturing()
        loss = step(model, optimizer, x, y)
    assert not fastdl.cuda.is_current_stream_capturing()
    for batch in batches[1:]:
        x.copy_(batch[0])
        y.copy_(batch[1])
        captured.replay()
        losses.append(loss.item())
    assert losses == expected


def test_graphed_callables_train_as_the_module_does(gpu: Any) -> None:
    model, optimizer, batches = model_and_data()
    expected = [step(model, optimizer, *batch).item() for batch in batches]
    model, optimizer, batches = model_and_data()
    model = fastdl.cuda.make_graphed_callables(model, (batches[0][0],))
    assert [step(model, optimizer, *batch).item() for batch in batches] == expected
    with pytest.raises(ValueError, match="a recording holds for one shape"):
        model(fastdl.ones(2, 4, device="cuda"))
    scale = fastdl.cuda.make_graphed_callables(lambda a, b: (a * b).tanh(), (batches[0][0], batches[1][0]))
    assert fastdl.equal(scale(batches[2][0], batches[3][0]), (batches[2][0] * batches[3][0]).tanh())


def test_what_cannot_be_captured_says_so(gpu: Any) -> None:
    for make, remedy in ((fastdl.optim.Adam, "capturable=True"), (fastdl.optim.Adagrad, "SGD")):
        model, _, (batch, *_) = model_and_data()
        optimizer = make(model.parameters())
        step(model, optimizer, *batch)
        with (
            pytest.raises(RuntimeError, match=f"every replay would be the same step.*{remedy}"),
            fastdl.cuda.graph(fastdl.cuda.CUDAGraph()),
        ):
            step(model, optimizer, *batch)
    x = fastdl.ones(4, device="cuda")
    captured = fastdl.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="nothing was recorded yet"):
        captured.replay()
    with pytest.raises(RuntimeError, match="the default stream cannot be recorded"):
        captured.capture_begin()
    with (
        pytest.raises(RuntimeError, match="would draw the same numbers in every replay"),
        fastdl.cuda.graph(captured),
    ):
        fastdl.randperm(4, device="cuda")  # drawn on the CPU

    def seeding() -> None:
        F.dropout(x)
        fastdl.manual_seed(3)
        F.dropout(x)

    with pytest.raises(RuntimeError, match="cannot seed the generator"), fastdl.cuda.graph(captured):
        seeding()
    for wait in (
        lambda: x.sum().item(),
        lambda: x[x > 0],
        lambda: fastdl.nonzero(x),
        fastdl.cuda.synchronize,
        lambda: fastdl.tensor([1.0, 2.0], device="cuda"),  # CuPy asks for a copy's event
    ):
        with pytest.raises(RuntimeError, match="stream is capturing"), fastdl.cuda.graph(captured):
            wait()
    assert not fastdl.cuda.is_current_stream_capturing()
    assert F.dropout(x).shape == (4,)
    with fastdl.cuda.graph(captured):
        y = x + 1
    with pytest.raises(TypeError), fastdl.cuda.graph(captured):
        y.add_(1).add_(object())
    with pytest.raises(RuntimeError, match="nothing was recorded yet"):  # not the half of it
        captured.replay()


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("padding", [None, 2])
def test_bags_that_are_rows_do_not_wait(gpu: Any, mode: str, padding: int | None) -> None:
    index = fastdl.tensor([[0, 2, 4], [2, 2, 2]], device="cuda")
    table = fastdl.randn(5, 4, device="cuda", requires_grad=True)
    seed = fastdl.randn(2, 4, device="cuda")

    def run() -> Any:
        y = F.embedding_bag(index, table, mode=mode, padding_idx=padding)
        return y, *fastdl.autograd.grad(y, table, seed)

    captured = fastdl.cuda.CUDAGraph()
    with fastdl.cuda.graph(captured):
        results = run()
    captured.replay()
    assert all(map(fastdl.equal, results, run()))


def test_repeats_and_spectral_norms_do_not_wait(gpu: Any) -> None:
    x = fastdl.randn(3, 4, device="cuda")
    layers = [
        wrap(nn.Linear(4, 2)).cuda().eval()
        for wrap in (nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm)
    ]
    for layer in layers:
        layer.train()
    state = [{k: v.clone() for k, v in layer.state_dict().items()} for layer in layers]
    captured = fastdl.cuda.CUDAGraph()
    with fastdl.cuda.graph(captured):
        results = [x.repeat_interleave(3, 1), x.T.repeat_interleave(2), *(layer(x) for layer in layers)]
    captured.replay()
    for layer, saved in zip(layers, state, strict=True):
        layer.load_state_dict(saved)
    expected = [x.cpu().repeat_interleave(3, 1).cuda(), x.T.cpu().repeat_interleave(2).cuda()]
    expected += [layer(x) for layer in layers]
    assert all(map(fastdl.equal, results, expected))


def noisy(x: Any) -> Any:
    """Several random operations, one after the other."""
    y = F.dropout(x, 0.3) + fastdl.rand(x.shape, device="cuda")
    rows = y.reshape(1, 1, 5, 4)
    y = y + F.scaled_dot_product_attention(rows, rows, rows, dropout_p=0.4).reshape(5, 4)
    y = y * fastdl.bernoulli(fastdl.full((5, 4), 0.5, device="cuda"))
    y = y * fastdl.normal(y, y * 0 + 1)
    y = y + fastdl.randint(0, 100, (5, 4), device="cuda")
    return F.rrelu(F.dropout2d(y.reshape(1, 5, 2, 2), 0.5), training=True) + fastdl.randn(
        1, 5, 2, 2, device="cuda"
    )


def test_a_replay_draws_what_the_operations_would_draw(gpu: Any) -> None:
    x = fastdl.randn(5, 4, device="cuda")
    noisy(x)  # what is called for the first time is loaded
    captured = fastdl.cuda.CUDAGraph()
    state = fastdl.get_rng_state()
    with fastdl.cuda.graph(captured):
        y = noisy(x)
    assert fastdl.equal(fastdl.get_rng_state(), state)  # recording draws nothing
    fastdl.manual_seed(7)
    results = []
    for _ in range(3):
        captured.replay()
        results.append(y.clone())
        fastdl.rand(1)  # what is drawn between replays moves them on
    fastdl.manual_seed(7)
    for result in results:
        assert fastdl.equal(result, noisy(x))
        fastdl.rand(1)
    assert not fastdl.equal(results[0], results[1])
    fastdl.manual_seed(7)
    captured.replay()
    assert fastdl.equal(y, results[0])


def test_dropout_in_attention_is_the_same_forward_and_backward_of_a_replay(gpu: Any) -> None:
    rows = fastdl.randn(1, 2, 6, 4, device="cuda").requires_grad_()

    def slopes() -> Any:
        y = F.scaled_dot_product_attention(rows, rows, rows, is_causal=True, dropout_p=0.5)
        return fastdl.autograd.grad((y * y).sum(), rows)[0]

    slopes()
    captured = fastdl.cuda.CUDAGraph()
    with fastdl.cuda.graph(captured):
        grad = slopes()
    fastdl.manual_seed(3)
    replays = []
    for _ in range(2):
        captured.replay()
        replays.append(grad.clone())
    fastdl.manual_seed(3)
    for replayed in replays:
        assert fastdl.equal(replayed, slopes())
    assert not fastdl.equal(*replays)


def test_generators_of_a_graph_are_their_own(gpu: Any) -> None:
    fastdl.rand(4, device="cuda")
    generator = fastdl.Generator("cuda").manual_seed(5)
    captured = fastdl.cuda.CUDAGraph()
    with fastdl.cuda.graph(captured):
        y = fastdl.rand(4, device="cuda", generator=generator) + fastdl.rand(4, device="cuda")
    for seed in (1, 2):
        fastdl.manual_seed(seed)
        captured.replay()
        fastdl.manual_seed(seed)
        other = fastdl.Generator().manual_seed(5)
        for _ in range(seed):
            first = fastdl.rand(4, device="cuda", generator=other)
        assert fastdl.equal(y, first + fastdl.rand(4, device="cuda"))


def dropping_model() -> Any:
    fastdl.manual_seed(1)
    layers = nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
    model = nn.Sequential(*layers).to("cuda")
    return model, fastdl.optim.Adam(model.parameters(), lr=0.05, capturable=True)


def test_captured_steps_with_dropout_train_as_steps_do(gpu: Any) -> None:
    _, _, batches = model_and_data()
    x, y = batches[0]

    def losses(graphed: str) -> list[float]:
        model, optimizer = dropping_model()
        found = [step(model, optimizer, x, y).item()]
        fastdl.manual_seed(4)
        if graphed == "callable":
            model = fastdl.cuda.make_graphed_callables(model, (x,), num_warmup_iters=0)
        captured = fastdl.cuda.CUDAGraph()
        if graphed == "step":
            with fastdl.cuda.graph(captured):
                loss = step(model, optimizer, x, y)
        for _ in range(4):
            if graphed == "step":
                captured.replay()
            else:
                loss = step(model, optimizer, x, y)
            found.append(loss.item())
        return found

    assert losses("step") == losses("") == losses("callable")
    assert len(set(losses(""))) == 5


def test_a_checkpoint_in_a_graph_drops_the_same_again(gpu: Any) -> None:
    x = fastdl.ones(64, device="cuda", requires_grad=True)

    def run() -> Any:
        x.grad = None
        y = fastdl.utils.checkpoint.checkpoint(lambda t: F.dropout(t, 0.5), x)
        y.sum().backward()
        return y, x.grad

    run()
    captured = fastdl.cuda.CUDAGraph()
    with fastdl.cuda.graph(captured):
        y, gradient = run()
    for _ in range(2):
        captured.replay()
        assert fastdl.equal(y.detach(), gradient)
        assert 0 < (gradient == 0).sum().item() < 64
