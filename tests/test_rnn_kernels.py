"""Kernels of recurrent layers against their definitions on every level and on CUDA."""

from __future__ import annotations

import numpy as np
import pytest

import parity
from fastdl.kernels import reference
from parity import DTYPES, THREADS, assert_close, thread_counts
from rnn_cases import (
    CELLS,
    GATES,
    PROBLEMS,
    as_the_problem_chooses,
    backends,
    compute,
    exact,
    flat,
    load,
    narrow,
    problem,
)


@pytest.fixture(autouse=True)
def unchosen():
    yield
    as_the_problem_chooses()


def expected(arguments, grads, got):
    """What the definition says in float64; its backward starts from what was kept, so that no h is on the other
    side of relu's kink."""
    forward = reference.rnn_forward(*exact(arguments), True)
    kept = exact([got[0], got[3], got[4]])
    backward = reference.rnn_backward(
        arguments[0], *exact(grads), *exact(arguments[1:]), *kept, True, True, True
    )
    return flat([forward, backward])


def check(level, name, cell, dtype, threads=THREADS, **options):
    module = load(level)
    arguments, grads = problem(name, cell, dtype, **options)
    sizes, inputs, hidden = PROBLEMS[name]
    for _ in thread_counts(module, threads):
        got = compute(module, arguments, grads)
        for a, b in zip(compute(module, arguments, grads), got, strict=True):
            assert a is None or np.array_equal(a, b, equal_nan=True), "another run, other bits"
        for a, b in zip(got, expected(arguments, grads, got), strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                # One step sums over inputs and hidden units, weights' gradients over rows; steps add up.
                assert_close(a, b, reduction=(inputs + hidden) * len(sizes) + sum(sizes))


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_kernels(name, cell, dtype, level):
    check(level, name, cell, dtype)
    check(level, name, cell, dtype, directions=2, bias=False, states=False)
    check(level, name, cell, dtype, threads=(2,), directions=2)


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [n for n in PROBLEMS if n != "one"])
def test_lstm_kernels_with_projection_and_mask(name, dtype, level):
    hidden = PROBLEMS[name][2]
    for proj in {1, hidden // 2, hidden - 1}:
        check(level, name, "lstm", dtype, threads=(1, 5), proj=proj, directions=2)
    check(level, name, "lstm", dtype, mask=True, directions=2)
    check(level, name, "lstm", dtype, mask=True, states=False)
    check(level, name, "lstm", dtype, threads=(2,), mask=True, proj=(hidden + 1) // 2, bias=False)


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    ("batch", "inputs", "hidden", "steps"), [(64, 32, 256, 9), (33, 20, 520, 3), (1, 8, 128, 25)]
)
def test_kernels_with_many_threads(batch, inputs, hidden, steps, cell, level):
    """Sizes that are shared out: by hidden units, by rows, by both, with more threads than parts."""
    PROBLEMS["shared"] = ([batch] * steps, inputs, hidden)
    try:
        check(level, "shared", cell, np.float32, threads=(2, 3, 16))
        check(level, "shared", cell, np.float32, threads=(2, 7), directions=2, states=False)
    finally:
        del PROBLEMS["shared"]


@pytest.mark.parametrize("level", backends())
@pytest.mark.parametrize("cell", CELLS)
def test_pieces_of_a_long_sequence(cell, level):
    """Gates beyond the pieces that are held in cache (8 MB backward, less forward); sequences that end in each."""
    # Thousands of units beside relu's corner: float32 may step over it, and a gradient is there or not.
    dtype = np.float64 if cell == "rnn_relu" else np.float32
    hidden = {"rnn_tanh": 440, "rnn_relu": 220, "lstm": 110}.get(cell, 150)
    PROBLEMS["pieces"] = ([100] * 40 + [37] * 30 + [3] * 6, 5, hidden)
    rows = sum(PROBLEMS["pieces"][0])
    assert rows * GATES.get(cell, 1) * hidden * np.dtype(dtype).itemsize > 8 << 20
    try:
        for directions in (1, 2):
            check(level, "pieces", cell, dtype, threads=(2,), directions=directions)
    finally:
        del PROBLEMS["pieces"]


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("cell", CELLS)
def test_five_hundred_steps(cell, level):
    PROBLEMS["500"] = ([3] * 500, 4, 24)
    try:
        check(level, "500", cell, np.float64, threads=(1, 2), directions=2)
    finally:
        del PROBLEMS["500"]


@pytest.mark.parametrize("level", backends(cuda=True))
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("scale", [1e4, 1e-30])
def test_saturated_and_denormal_gates(scale, cell, level):
    """Gates at their ends, and products too small for a normal number: finite, and what the definition says."""
    module = load(level)
    arguments, grads = problem("lengths", cell, np.float32, scale=1.0)
    arguments[5] = [None if w is None else w * np.float32(scale) for w in arguments[5]]
    if cell == "rnn_relu" and scale > 1:  # nothing saturates: it would overflow
        return
    got = compute(module, arguments, grads)
    want = expected(arguments, grads, got)
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        if a is None:
            continue
        assert np.isfinite(a).all()
        if i < 5:
            # a sum of 1e4-sized terms near zero is off by 1e4 eps, and so is the gate
            assert_close(a, b, reduction=24, scale=max(1.0, scale, np.abs(b).max()) if scale > 1 else None)


@pytest.mark.parametrize("level", backends(cuda=True))
def test_nothing_is_kept_without_need(level):
    module = load(level)
    for cell in CELLS:
        arguments, _ = problem("lengths, tall", cell, np.float32, directions=2)
        with_all, without = module.rnn_forward(*arguments, True), module.rnn_forward(*arguments, False)
        assert without[3] is None
        assert without[4] is None
        for a, b in zip(with_all[:3], without[:3], strict=True):
            assert a is None or np.array_equal(a, b)


@pytest.mark.parametrize("level", backends(cuda=True))
def test_needs(level):
    module = load(level)
    for cell in CELLS:
        arguments, grads = problem("lengths", cell, np.float64)
        everything = compute(module, arguments, grads)
        for needs in ((True, False, False), (False, True, False), (False, False, True)):
            y, _, _, gates, cells = module.rnn_forward(*arguments, True)
            gx, gh, gc, gw = module.rnn_backward(cell, *grads, *arguments[1:], y, gates, cells, *needs)
            assert (gx is not None, gh is not None, gw is not None) == needs
            assert (gc is not None) == (needs[1] and cell == "lstm")
            for a, b in zip(flat([gx, gh, gc, gw if gw else [None] * 5]), everything[5:], strict=True):
                assert a is None or np.array_equal(a, b)
        # No gradient at all from some outputs: the same as zeros.
        y, _, _, gates, cells = module.rnn_forward(*arguments, True)
        zeros = [None if g is None else np.zeros_like(g) for g in grads]
        a = module.rnn_backward(cell, None, grads[1], None, *arguments[1:], y, gates, cells, True, True, True)
        b = module.rnn_backward(
            cell, zeros[0], grads[1], zeros[2], *arguments[1:], y, gates, cells, True, True, True
        )
        for p, q in zip(flat(a), flat(b), strict=True):
            assert p is None or np.array_equal(p, q)


@pytest.mark.parametrize("level", backends(cuda=True))
def test_binding_refuses(level):
    module = load(level)
    arguments, grads = problem("lengths", "lstm", np.float32)
    y, _, _, gates, cells = module.rnn_forward(*arguments, True)

    def replaced(at, value):
        return [*arguments[:at], value, *arguments[at + 1 :]]

    sizes = arguments[2]
    bad = [
        replaced(0, "elman"),
        replaced(1, arguments[1][:-1]),
        replaced(1, arguments[1][0]),
        replaced(2, sizes[::-1].copy()),
        replaced(2, np.append(sizes, 0)),
        replaced(2, np.zeros(0, np.int64)),
        replaced(3, arguments[3][:, :-1]),
        replaced(4, arguments[4][:, :, :-1]),
        replaced(5, arguments[5][:4]),
        replaced(5, [None, *arguments[5][1:]]),
        replaced(5, [*arguments[5][:2], None, *arguments[5][3:]]),
        replaced(5, [arguments[5][0], arguments[5][1][:, :-1], *arguments[5][2:]]),
        replaced(6, np.ones((1, 2, 3), np.float32)),
    ]
    for wrong in bad:
        with pytest.raises(ValueError, match="rnn: "):
            module.rnn_forward(*wrong, True)
    for wrong in (replaced(2, sizes.astype(np.int32)), replaced(3, arguments[3].astype(np.float64))):
        with pytest.raises(TypeError):
            module.rnn_forward(*wrong, True)
    for given in ((y[:-1], gates, cells), (y, None, cells), (y, gates, None), (y, gates[:, :-1], cells)):
        with pytest.raises(ValueError, match="rnn"):
            module.rnn_backward("lstm", *grads, *arguments[1:], *given, True, True, True)
    gru, _ = problem("lengths", "gru", np.float32)
    with pytest.raises(ValueError, match="LSTM's"):
        module.rnn_forward(*gru[:6], np.ones_like(gru[3]), True)


def check_bfloat16(module, name, cell, threads, **options):
    """Rounded are operands, results and each step's state: errors of some units in the last place."""
    dtype = pytest.importorskip("ml_dtypes").bfloat16
    # Weights that forget: errors of a simple cell would grow from step to step for others.
    arguments, grads = problem(name, cell, np.float64, scale=0.5, **options)
    arguments = [narrow(a, dtype) if i in (1, 3, 4, 5) else a for i, a in enumerate(arguments)]
    arguments[6] = narrow(arguments[6], np.float32)
    grads = narrow(grads, dtype)
    for _ in thread_counts(module, threads):
        results = []
        for _ in range(2):
            y, h_n, c_n, gates, cells = module.rnn_forward(*arguments, True)
            backward = module.rnn_backward(cell, *grads, *arguments[1:], y, gates, cells, True, True, True)
            results.append(flat([y, h_n, c_n, backward]))
        for a, b in zip(*results, strict=True):
            assert a is None or np.array_equal(a, b), "another run, other bits"
        for a, b in zip(module.rnn_forward(*arguments, False), (y, h_n, c_n, None, None), strict=True):
            assert a is b is None or np.array_equal(a, b), "keeping changes results"
        forward = reference.rnn_forward(*exact(arguments), True)
        # The same side of relu's kink as the rounded state.
        kept = [exact(y) if cell == "rnn_relu" else forward[0], *forward[3:]]
        backward = reference.rnn_backward(cell, *exact(grads), *exact(arguments[1:]), *kept, True, True, True)
        for a, b in zip(results[0], flat([*forward[:3], backward]), strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                assert a.dtype == dtype
                bound = 4 * 2.0**-8 * max(1.0, np.abs(b).max())
                assert np.abs(exact(a) - b).max() <= bound


@pytest.fixture(params=[level for level in backends() if parity.load(level).has_pair_products()])
def pairs(request):
    """Levels with kernels for bfloat16: where the processor multiplies pairs, whether that is quicker or not."""
    module = parity.load(request.param)
    module.use_pair_products(True)
    yield module
    module.use_pair_products(None)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_bfloat16(name, cell, pairs):
    check_bfloat16(pairs, name, cell, THREADS)
    check_bfloat16(pairs, name, cell, (2,), directions=2)
    check_bfloat16(pairs, name, cell, (1,), directions=2, bias=False, states=False)
    if cell == "lstm":
        check_bfloat16(pairs, name, cell, (2,), mask=True, directions=2)
        hidden = PROBLEMS[name][2]
        for proj in {hidden // 2, hidden - 1} - {0}:
            check_bfloat16(pairs, name, cell, (2,), proj=proj, directions=2)
            check_bfloat16(pairs, name, cell, (1,), proj=proj, mask=True, states=False)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    ("batch", "inputs", "hidden", "steps"), [(64, 32, 256, 9), (33, 20, 520, 3), (1, 8, 128, 25)]
)
def test_bfloat16_with_many_threads(monkeypatch, batch, inputs, hidden, steps, cell, pairs):
    monkeypatch.setitem(PROBLEMS, "shared", ([batch] * steps, inputs, hidden))
    check_bfloat16(pairs, "shared", cell, (2, 3, 16))
    check_bfloat16(pairs, "shared", cell, (7,), directions=2, states=False)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", ["three rows", "more than a block", "lengths", "lengths, tall"])
def test_bfloat16_nan_stays_in_its_sequence(name, cell, pairs):
    """Partners and lanes that pad an operand meet nothing: others' results have the same bits."""
    dtype = pytest.importorskip("ml_dtypes").bfloat16
    arguments, grads = problem(name, cell, np.float64, directions=2)
    arguments = [narrow(a, dtype) if i in (1, 3, 4, 5) else a for i, a in enumerate(arguments)]
    grads = narrow(grads, dtype)
    sizes = arguments[2]
    sequence = np.concatenate([np.arange(n) for n in sizes])  # of each row
    results = []
    for value in (0.5, np.nan, np.inf):
        arguments[1][1] = value  # of sequence 1, step 0
        y, h_n, _, gates, cells = pairs.rnn_forward(*arguments, True)
        back = pairs.rnn_backward(cell, *grads, *arguments[1:], y, gates, cells, True, True, False)
        results.append(
            [y[sequence != 1], back[0][sequence != 1], np.delete(h_n, 1, 1), np.delete(back[1], 1, 1)]
        )
        assert np.isfinite(exact(y[1])).all() or value != 0.5
        assert np.isnan(exact(y[1])).any() or value == 0.5 or np.isinf(value)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert np.isfinite(exact(a)).all()
            assert np.array_equal(a, b)


def test_bfloat16_needs_and_refusals(pairs):
    """What is not asked for changes nothing; arrays of several dtypes are refused; without pairs the layer is."""
    dtype = pytest.importorskip("ml_dtypes").bfloat16
    for cell in CELLS:
        for name in ("lengths", "one step"):
            arguments, grads = problem(name, cell, np.float64)
            arguments = [narrow(a, dtype) if i in (1, 3, 4, 5) else a for i, a in enumerate(arguments)]
            grads = narrow(grads, dtype)
            y, _, _, gates, cells = pairs.rnn_forward(*arguments, True)

            def backward(*needs, own=(cell, grads, arguments, y, gates, cells)):
                cell, grads, arguments, *kept = own
                return pairs.rnn_backward(cell, *grads, *arguments[1:], *kept, *needs)

            everything = backward(True, True, True)
            for needs in ((True, False, False), (False, True, False), (False, False, True)):
                gx, gh, gc, gw = backward(*needs)
                assert (gx is not None, gh is not None, gw is not None) == needs
                for a, b in zip(flat([gx, gh, gc, gw or [None] * 5]), flat(everything), strict=True):
                    assert a is None or np.array_equal(a, b)
            for at in (3, 5):
                mixed = list(arguments)
                mixed[at] = narrow(exact(mixed[at]), np.float32)
                with pytest.raises(TypeError, match="bfloat16"):
                    pairs.rnn_forward(*mixed, True)
            pairs.use_pair_products(False)
            with pytest.raises(TypeError, match="float32 or float64"):
                pairs.rnn_forward(*arguments, True)
            pairs.use_pair_products(True)
