"""CUDA kernels under emulation: 16-bit types, thread orders, reports of bad indices, wrong arguments.

The families' own test files drive the same kernels in float32 and float64 beside the CPU's levels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import emulation
import fastdl
from fastdl.kernels import reference

pytestmark = pytest.mark.skipif(
    not emulation.available(), reason="needs the CUDA toolkit's headers, cmake and pybind11"
)

try:
    from ml_dtypes import bfloat16
except ImportError:
    bfloat16 = None
HALVES = [
    pytest.param(np.float16, id="float16"),
    pytest.param(
        bfloat16, id="bfloat16", marks=pytest.mark.skipif(bfloat16 is None, reason="needs ml_dtypes")
    ),
]
EPS = {"float16": 2.0**-11, "bfloat16": 2.0**-8}  # half an ulp of 1


def numbers(shape: Any, dtype: Any, seed: int = 0, scale: float = 1.0) -> Any:
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def wide(x: Any) -> Any:
    if isinstance(x, list):
        return [wide(v) for v in x]
    return x.astype(np.float64) if hasattr(x, "dtype") and x.dtype.itemsize == 2 else x


def check(got: Any, want: Any, factor: float = 1.0) -> None:
    """A 16-bit result is the exact one rounded once, but for the float32 arithmetic before."""
    if isinstance(got, tuple | list):
        for g, w in zip(got, want, strict=True):
            check(g, w, factor)
        return
    if got is None:
        return
    assert got.shape == np.shape(want)
    eps = EPS.get(got.dtype.name, 2.0**-20) * factor
    want = np.asarray(want, np.float64)
    scale = np.maximum(np.abs(want), 0.02 * np.max(np.abs(want), initial=0.0))
    assert np.all(np.abs(got.astype(np.float64) - want) <= eps * scale + 1e-7)


def against_reference(cuda: Any, name: str, *arguments: Any, factor: float = 1.0) -> Any:
    got = getattr(cuda, name)(*arguments)
    check(got, getattr(reference, name)(*(wide(a) for a in arguments)), factor)
    return got


SPECIAL = """lgamma digamma trigamma erfc erfcx erfinv ndtr log_ndtr ndtri i0 i0e i1 i1e logit entr
    sinc""".split()


# Calls of every family: small shapes that reach lanes, blocks, long rows, columns, packs and single elements.
def calls(dtype: Any) -> list[tuple[Any, ...]]:
    rows, odd, column = numbers((6, 64), dtype), numbers((5, 37), dtype, 1), numbers((3, 20, 10), dtype, 2)
    long = numbers((2, 1800), dtype, 3)
    target = np.random.default_rng(0).integers(0, 37, 5)
    planes, labels = odd[:, :, None].repeat(2, 2), target[:, None].repeat(2, 1)
    weight, bias = numbers(64, dtype, 4) + np.asarray(1, dtype), numbers(64, dtype, 5)
    image, scale = numbers((2, 4, 6, 8), dtype, 6), numbers(4, dtype, 7)
    # More than a block's registers hold of a channel.
    batch, tall = numbers((70, 2, 15, 17), dtype, 26), numbers((4200, 3), dtype, 27)

    def moments(x: Any) -> Any:
        return reference.batch_norm_forward(wide(x), None, None, 1e-5)[1:]

    index = np.array([3, 0, 3, 3, 5, 1])
    spots = reference.adaptive_max_pool_forward(wide(image), (2, 3))[1]
    twice = np.random.default_rng(2).integers(0, 90, (2, 4, 6, 8))
    filters, filters8 = numbers((6, 4, 3, 3), dtype, 12, 0.3), numbers((8, 1, 3, 3), dtype, 13)
    wide_image, wide_filters = numbers((1, 80, 5, 5), dtype, 14), numbers((80, 80, 3, 3), dtype, 15, 0.1)
    columns = numbers((2, 18, 48), dtype, 16)
    places, sampled = numbers((2, 5, 7, 2), dtype, 28, 0.7), numbers((2, 4, 5, 7), dtype, 29)
    scores, owners, several = numbers((6, 33), dtype, 30), np.arange(6) * 5, np.full((6, 33), -1)
    pair_grad, apart = (
        numbers((4, 6, 6), dtype, 31),
        reference.cdist_forward(wide(image[0]), wide(image[1]), 1.0),
    )
    by_planes = numbers((1, 2, 8300), dtype, 32), scale[:2]
    several[:, :2] = [[3, 20], [32, 0], [7, 7], [1, 2], [-1, 4], [9, -1]]
    sound, beats = numbers((2, 3, 620), dtype, 24), numbers((3, 1, 31), dtype, 25, 0.3)
    same, strided = ((1, 1), (1, 1), (1, 1)), ((2, 3), (0, 0), (1, 1))
    halved = ((2, 2), (1, 1), (1, 1))
    odd_index, wide_index = np.arange(185).reshape(5, 37) % 5, np.arange(600).reshape(3, 4, 50) % 3
    many = numbers(4100, dtype, 8, 0.01)
    some = np.linspace(0.02, 0.97, 77).astype(dtype)
    gamma_operands = (some * 40).astype(dtype), (some[::-1] * 50).astype(dtype)
    query, key, value = (numbers(s, dtype, 8) for s in ((1, 4, 20, 24), (1, 2, 70, 24), (1, 2, 70, 16)))
    windows = [numbers((2, 3, 49, 32), dtype, k) for k in (18, 19, 20)]
    ragged = [numbers((1, 2, 150, 64), dtype, k) for k in (21, 22, 23)]
    of_windows, of_ragged = (
        [
            a.astype(t)
            for a, t in zip(
                reference.attention_forward(*map(wide, arrays), None, *options),
                (dtype, np.float32),
                strict=True,
            )
        ]
        for arrays, options in ((windows, (False, 0.2, 0.1, 5, 7)), (ragged, (True, 0.1, 0.0, 5, 7)))
    )
    bias_of_scores, one = (
        numbers((1, 1, 20, 70), dtype, 9),
        (query[:, :, :1], *(numbers((1, 2, 600, 16), dtype, 8),) * 2),
    )
    forward = reference.attention_forward(
        *(wide(a) for a in (query, key, value, bias_of_scores)), True, 0.3, 0.2, 5, 7
    )
    y, lse = forward[0].astype(dtype), forward[1].astype(np.float32)
    steps, gates = (
        np.array([5, 5, 3, 1]),
        (
            *(numbers((24, 8), dtype, k, 0.3) for k in (10, 11)),
            *(numbers(24, dtype, k) for k in (12, 13)),
            None,
        ),
    )
    return [
        ("exp_forward", rows),
        ("add_forward", rows, rows[:1]),
        ("mul_forward", column, column[:, :1]),
        ("div_forward", odd, 3.0),
        ("gelu_forward", odd),
        ("silu_backward", odd, odd),
        ("softmax_forward", rows, 1),
        ("softmax_forward", odd, 1),
        ("softmax_forward", long, 1),
        ("softmax_forward", column, 1),
        ("log_softmax_forward", long, 1),
        ("softmax_backward", long, long, 1),
        ("softmax_backward", column, column, 1),
        ("cross_entropy_forward", odd, target, None, 1, -100, 0.1, "mean"),
        ("cross_entropy_forward", planes, labels, None, 1, -100, 0.0, "sum"),
        ("sum_forward", rows, (1,)),
        ("sum_forward", column, (0, 2)),
        ("mean_forward", long, None),
        ("var_forward", column, 1, (1,)),
        ("amax_forward", odd, (0,)),
        ("logsumexp_forward", odd, (1,)),
        ("layer_norm_forward", rows, weight, bias, 64, 1e-5),
        ("rms_norm_forward", long, None, 1800, 1e-5),
        ("group_norm_forward", image, scale, None, 2, 1e-5),
        ("group_norm_forward", *by_planes, None, 1, 1e-5),
        (
            "group_norm_backward",
            by_planes[0][:, ::-1].copy(),
            *by_planes,
            *reference.group_norm_forward(*wide(list(by_planes)), None, 1, 1e-5)[1:],
            *(1, 1e-5, True, True, True),
        ),
        ("batch_norm_forward", image, scale, scale, 1e-5),
        ("batch_norm_forward", batch, scale[:2], None, 1e-5),
        ("batch_norm_forward", tall, None, None, 1e-5),
        *(
            ("batch_norm_backward", a[::-1].copy(), a, None, *moments(a), 1e-5, True, True, True, True)
            for a in (image, batch, tall)
        ),
        ("dropout_forward", odd, 0.3, 1 / 0.7, 7, 3),
        ("gather_forward", odd, 1, odd_index),
        ("gather_backward", odd, 1, odd_index, 5),
        ("gather_backward", column.reshape(3, 4, 50), 1, wide_index, 3),
        ("gather_backward", many, 0, np.arange(4100) % 7, 7),
        ("running_sum", odd, 1, True),
        ("running_sum", column, 1),
        ("running_product", column, 1),
        ("running_logsumexp", long, 1, True),
        ("running_logsumexp", column, 1),
        ("running_max", odd, 1),
        ("running_min", column, 1),
        ("running_max", many.reshape(1, 4100).repeat(5, 1), 1),
        ("nansum_forward", odd, (1,)),
        ("logaddexp_forward", odd, odd[:1]),
        ("logaddexp_backward", odd, odd, odd[::-1]),
        ("copysign_forward", 2.0, odd),
        ("exp2_forward", odd),
        *[(f"{name}_forward", some) for name in SPECIAL],
        *[(f"i{name}_forward", *gamma_operands) for name in ("gamma", "gammac")],
        ("zeta_forward", (some * 2 + 1).astype(dtype), (some * 9).astype(dtype)),
        ("running_sum", numbers((1, 16500), dtype, 8, 0.01), 1),
        ("row_products_forward", odd, odd[::-1]),
        ("row_products_forward", long, long[::-1]),
        ("row_products_backward", numbers((3, 5), dtype, 9), odd, odd[::-1], (True, True)),
        ("pairwise_distance_forward", long, long[::-1], 2.0, 1e-6),
        ("pairwise_distance_forward", odd, odd[::-1], np.inf, 0.0),
        ("embedding_forward", rows, index),
        ("embedding_backward", rows, index, None, None, 7, -1, False),
        ("embedding_backward", many.reshape(4100, 1), np.arange(4100) % 7, None, None, 7, -1, True),
        ("max_pool_forward", image, (3, 3), (2, 2), (1, 1), (1, 1), (3, 4), True),
        ("avg_pool_forward", image, (2, 2), (2, 2), (0, 0), (3, 4), True, None),
        ("max_pool_forward", image, (6, 8), (6, 8), (0, 0), (1, 1), (1, 1), True),  # whole planes
        ("avg_pool_forward", image, (6, 8), (6, 8), (0, 0), (1, 1), True, None),
        ("avg_pool_backward", image[:, :, :1, :1], (6, 8), (6, 8), (6, 8), (0, 0), True, None),
        ("adaptive_avg_pool_forward", image, (4, 3)),
        ("adaptive_max_pool_forward", image, (4, 3)),
        ("adaptive_max_pool_backward", image[:, :, :2, :3], spots, (6, 8)),
        ("max_unpool_forward", image, twice, (9, 10)),
        ("max_unpool_backward", image, spots, 2),
        ("conv_forward", image, filters, bias[:6], (1, 1), (1, 0), (1, 2), 1),
        ("conv_forward", wide_image, wide_filters, None, (1, 1), (1, 1), (1, 1), 1),
        ("conv_forward", image, filters[:4, :2], bias[:4], (2, 1), (2, 1), (1, 1), 2),
        ("conv_forward", image, filters[:4, :1], bias[:4], (1, 1), (1, 1), (1, 1), 4),
        ("conv_forward", image, filters[:, :, :1, :1], None, (1, 1), (0, 0), (1, 1), 1),
        ("conv_backward", numbers((2, 6, 6, 6), dtype, 9), image, filters, (1, 1), (1, 0), (1, 1), 1),
        ("conv_backward", wide_image, wide_image[:, :70], wide_filters[:, :70], *same, 1),
        ("conv_backward", numbers((2, 8, 3, 8), dtype, 10), image, filters8, (2, 1), (1, 1), (1, 1), 4),
        ("conv_forward", wide_image[:, :8], wide_filters[:12, :4], bias[:12], *same, 2),
        ("conv_backward", wide_image[:, :12], wide_image[:, :8], wide_filters[:12, :4], *same, 2),
        ("conv_backward", wide_image[:, :12, :3, :3], wide_image[:, :12], wide_filters[:12, :1], *halved, 12),
        ("conv_forward", sound, beats, bias[:3], (1,), (15,), (1,), 3),
        ("conv_forward", sound[:, :, :601], beats[:, :, :6], None, (1,), (2,), (1,), 3),
        ("conv_backward", sound[:, :, :590], sound, beats, (1,), (0,), (1,), 3),
        ("conv_transpose_forward", image, filters[:4], bias[:4], (2, 3), (1, 0), (1, 2), (1, 1), 1),
        ("conv_transpose_backward", numbers((2, 4, 13, 24), dtype, 11), image, filters[:4], *strided, 1),
        ("interpolate_forward", image, (9, 5), (0.0, 0.0), "linear", False, False),
        ("interpolate_forward", image, (4, 11), (0.0, 0.0), "cubic", False, True),
        ("interpolate_backward", image, (4, 11), (0.0, 0.0), "cubic", True, False),
        ("interpolate_backward", image, (13, 4), (0.0, 0.0), "linear", False, True),
        ("grid_sample_forward", image, places, "bilinear", "border", False),
        ("grid_sample_forward", image, places, "bicubic", "reflection", True),
        ("grid_sample_backward", sampled, image, places, "bilinear", "zeros", True, True, True),
        ("grid_sample_backward", sampled, image, places, "bicubic", "border", False, True, True),
        ("cdist_forward", planes, planes[:, ::-1], 1.5),
        ("cdist_backward", pair_grad, image[0], image[1], apart.astype(dtype), 1.0),
        ("multi_margin_loss_forward", scores, owners, None, 2, 0.5),
        ("multi_margin_loss_backward", scores[:, 0], scores, owners, scores[0], 1, 0.5),
        ("multilabel_margin_loss_forward", scores, several),
        ("multilabel_margin_loss_backward", scores[:, 0], scores, several),
        ("pad_forward", image, [(0, 0), (0, 0), (2, 1), (3, 0)], "reflect", 0.0),
        ("pad_backward", image, (2, 4, 4, 6), [(0, 0), (0, 0), (1, 1), (-1, 3)], "circular"),
        ("unfold_forward", image, (3, 2), (1, 2), (1, 0), (2, 1)),
        ("fold_forward", columns, (6, 8), (3, 3), (1, 1), (1, 1), (1, 1)),
        ("pixel_shuffle_forward", image, 2),
        ("attention_forward", query, key, value, bias_of_scores, False, 0.3, 0.2, 5, 7),
        ("attention_forward", one[0][..., :16], *one[1:], None, False, 0.3, 0.0, 0, 0),
        ("attention_backward", y, query, key, value, bias_of_scores, y, lse, True, 0.3, 0.2, 5, 7, True),
        ("attention_forward", *windows, None, False, 0.2, 0.1, 5, 7),
        ("attention_forward", *ragged, None, True, 0.1, 0.0, 5, 7),
        ("attention_backward", windows[0], *windows, None, *of_windows, False, 0.2, 0.1, 5, 7, False),
        ("attention_backward", ragged[0], *ragged, None, *of_ragged, True, 0.1, 0.0, 5, 7, False),
        ("rnn_forward", "gru", numbers((14, 8), dtype, 14), steps, None, None, list(gates), None, False),
        *recurrent(dtype)[:2],
    ]  # fmt: skip


def recurrent(dtype: Any) -> list[tuple[Any, ...]]:
    """A layer whose blocks meet in each step, and one of a single step."""
    x, sizes, units = numbers((14, 8), dtype, 14), np.array([5, 5, 3, 1]), 20
    shapes = ((3 * units, 8), (3 * units, units), 3 * units, 3 * units)
    weights = [*(numbers(s, dtype, 20 + k, 0.3) for k, s in enumerate(shapes)), None]
    layer = ["gru_before", x, sizes, None, None, weights, None]
    y, _, _, gates, _ = reference.rnn_forward(*(wide(a) for a in layer), True)
    planes = np.moveaxis(gates.reshape(1, 1, 14, 3, units), 3, 2).astype(dtype)
    grads = (None, numbers((1, 5, units), dtype), None)
    return [
        ("rnn_forward", *layer, False),
        ("rnn_forward", "gru_before", x[:5], sizes[:1], *layer[3:], False),
        ("rnn_forward", *layer, True),
        ("rnn_backward", "gru_before", *grads, *layer[1:], y.astype(dtype), planes, None, True, True, True),
    ]


def recurrent_of(cell: str, dtype: Any, units: int) -> list[Any]:
    """Arguments of a layer of five sequences."""
    gates = 4 if cell == "lstm" else 3
    shapes = ((gates * units, 8), (gates * units, units), gates * units, gates * units)
    weights = [*(numbers(s, dtype, 20 + k, 0.3) for k, s in enumerate(shapes)), None]
    return [cell, numbers((14, 8), dtype, 14), np.array([5, 5, 3, 1]), None, None, weights, None]


def further(dtype: type) -> list[tuple[Any, ...]]:
    """Calls with infinities, integers, saved values, or cut into parts: in all orders and under the sanitizers."""
    from test_cuda_divided import calls as divided

    x, y = numbers((5, 37), dtype), numbers((5, 37), dtype, 1)
    logits = reference.log_softmax_forward(numbers((9, 3, 6), np.float64), 2)
    labels = np.array([[1, 1, 2], [5, 3, 0], [4, 0, 0]])
    lengths = np.array([9, 7, 9]), np.array([3, 2, 0])
    loss, alpha = reference.ctc_loss_forward(logits, labels, *lengths, 0)
    wide_type = np.float64 if dtype == np.float64 else np.float32
    saved = loss.astype(wide_type), alpha.astype(wide_type)
    distance = reference.pairwise_distance_forward(x, y, np.inf, 0.0)
    matrix, tall = numbers((2, 40, 40), wide_type), numbers((40, 400), wide_type)
    return [
        ("ctc_loss_forward", logits.astype(dtype), labels, *lengths, 0),
        ("ctc_loss_backward", numbers(3, dtype), logits.astype(dtype), labels, *lengths, *saved, 0, True),
        ("pairwise_distance_backward", numbers(5, dtype), x, y, distance, np.inf, 0.0),
        ("pairwise_distance_backward", numbers(5, dtype), x, y, distance, 1.5, 0.0),
        *recurrent(dtype)[2:],
        ("random_integers", (77,), -3, 9, 5, 6),
        ("philox_words", 77, 5, 6),
        ("total_norm", [x, y, numbers((3, 3000), dtype, 2)], 3.0),
        *(("lu_factor", a, True) for a in (matrix, tall, tall.T)),
        ("lu_solve", *reference.lu_factor(matrix, True)[:2], tall, True),
        ("triangular_solve", matrix.swapaxes(1, 2), tall[:, :2], True, False),
        ("scale_arrays", [x.copy(), numbers((3, 3000), dtype, 2)], 0.5),
        *divided(dtype),
    ]


# Weights and states are rounded before they go into the next product, and elements of a result are held against a
# fiftieth of the largest.
ROUNDED_BETWEEN = {"attention_forward": 64.0, "attention_backward": 128.0, "rnn_forward": 128.0}


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    "number", range(len(calls(np.float16))), ids=lambda i: f"{i}-{calls(np.float16)[i][0]}"
)
def test_sixteen_bits(cuda, dtype, number):
    name, *arguments = calls(dtype)[number]
    against_reference(cuda, name, *arguments, factor=ROUNDED_BETWEEN.get(name, 2.0))


def flat(results: Any) -> list[Any]:
    if isinstance(results, tuple | list):
        return [array for r in results for array in flat(r)]
    return [results]


emulated_only = pytest.mark.skipif(emulation.on_gpu(), reason="about the emulation")


@emulated_only
def test_every_order_of_threads_gives_the_same_bits(cuda, order):
    for dtype in (np.float32, np.float16):
        for name, *arguments in calls(dtype) + further(dtype):
            got = getattr(cuda, name)(*arguments)
            emulation.extension().set_order("ascending", 0)
            want = getattr(cuda, name)(*arguments)
            emulation.extension().set_order(*order)
            for g, w in zip(flat(got), flat(want), strict=True):
                np.testing.assert_array_equal(g, w, err_msg=name)


@pytest.fixture(params=[(80, 163), (86, 99), (120, 99)], ids=lambda d: f"{d[0]}")
def smaller_device(request):
    """Compute capabilities, and KiB of shared memory that a block may have there."""
    emulation.extension().set_device(request.param[0], request.param[1] << 10)
    yield
    emulation.extension().set_device(90, 227 << 10)


@emulated_only
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_devices_with_less_shared_memory(cuda, dtype, smaller_device):
    wide = (
        ("conv_forward", *(numbers(s, dtype) for s in ((1, 32, 50, 50), (5, 32, 7, 7))), None),
        ("conv_forward", *(numbers(s, dtype) for s in ((1, 256, 20, 20), (160, 256, 3, 3))), None),
    )
    layers = [(name, *arrays, (1, 1), (1, 1), (1, 1), 1) for name, *arrays in wide]
    heads = [numbers((1, 2, 140, 256), dtype, k) for k in range(3)]
    more = [
        ("attention_forward", *heads, None, True, 0.1, 0.0, 0, 0),
        *[("rnn_forward", *recurrent_of(cell, dtype, 300), False) for cell in ("lstm", "gru")],
    ]
    small = calls(dtype) + further(dtype) if dtype != np.float64 else []
    for name, *arguments in small + layers + more:
        getattr(cuda, name)(*arguments)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("length", "taps", "padding"), [(520, 1, 0), (515, 4, 3), (1300, 31, 15), (130, 2, 5)]
)
def test_depthwise_rows(cuda, dtype, length, taps, padding):
    x, weight, bias = (numbers(s, dtype, k) for k, s in enumerate(((2, 3, length), (3, 1, taps), (3,))))
    options = (1,), (padding,), (1,), 3
    y = against_reference(cuda, "conv_forward", x, weight, bias, *options, factor=64.0)
    for got, want in zip(
        cuda.conv_backward(y, x, weight, *options),
        reference.conv_backward(y, x, weight, *options),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("dtype", [*HALVES, np.float32, np.float64])
def test_gradients_of_special_functions(cuda, dtype):
    """One pass each, against the formulas that the CPU takes."""
    g = numbers((3, 40), dtype)
    x = np.linspace(0.02, 0.97, 120).astype(dtype).reshape(3, 40)
    far = np.linspace(-9, 60, 120).astype(dtype).reshape(3, 40)
    for name in (n for n in SPECIAL if n != "trigamma"):
        for at in (x, -x, far) if name not in ("erfinv", "ndtri") else (x,):
            leaf = fastdl.tensor(at.astype(np.float64), requires_grad=True)
            getattr(fastdl if hasattr(fastdl, name) else fastdl.special, name)(leaf).backward(
                fastdl.tensor(g.astype(np.float64))
            )
            want = leaf.grad.numpy()
            with np.errstate(over="ignore"):
                kept = np.isfinite(want.astype(dtype).astype(np.float64))
            got = cuda.special_backward(name, g, at)
            rtol = {2: 2 * EPS.get(got.dtype.name, 0), 4: 1e-5, 8: 1e-12}[np.dtype(dtype).itemsize]
            np.testing.assert_allclose(
                got.astype(np.float64)[kept], want[kept], rtol=rtol, atol=rtol * 0.1, err_msg=name
            )


@pytest.mark.parametrize("dtype", HALVES)
def test_norm_gradients_in_sixteen_bits(cuda, dtype):
    x, g = numbers((6, 64), dtype), numbers((6, 64), dtype, 1)
    weight = numbers(64, dtype, 2)
    _, mean, var = cuda.layer_norm_forward(x, weight, None, 64, 1e-5)
    against_reference(
        cuda, "layer_norm_backward", g, x, weight, mean, var, 64, 1e-5, True, True, True, factor=4.0
    )
    image, grad, scale = numbers((2, 4, 6, 8), dtype), numbers((2, 4, 6, 8), dtype, 1), numbers(4, dtype, 2)
    _, mean, var = cuda.batch_norm_forward(image, scale, None, 1e-5)
    options = (1e-5, True, True, True, True)
    against_reference(cuda, "batch_norm_backward", grad, image, scale, mean, var, *options, factor=4.0)


def test_the_largest_difference_is_found_by_its_rounded_distance(cuda):
    a, b, grad = (numbers(s, np.float16, i) for i, s in enumerate([(2, 5, 7), (2, 6, 7), (2, 5, 6)]))
    got = cuda.cdist_backward(grad, a, b, cuda.cdist_forward(a, b, np.inf), np.inf)
    exact = reference.cdist_forward(wide(a), wide(b), np.inf)
    check(got, reference.cdist_backward(wide(grad), wide(a), wide(b), exact, np.inf), 2.0)


@pytest.mark.parametrize("dtype", HALVES)
def test_cross_entropy_gradient_in_sixteen_bits(cuda, dtype):
    x, target = numbers((5, 37), dtype, scale=3), np.array([1, 36, -100, 0, 7])
    options = (1, -100, 0.1, "mean")
    _, statistics, normaliser = cuda.cross_entropy_forward(x, target, None, *options)
    assert statistics.dtype == np.float32, "16-bit statistics would spoil the gradient"
    got = cuda.cross_entropy_backward(np.asarray(1, dtype), x, target, None, statistics, normaliser, *options)
    _, exact, divisor = reference.cross_entropy_forward(wide(x), target, None, *options)
    want = reference.cross_entropy_backward(np.asarray(1.0), wide(x), target, None, exact, divisor, *options)
    check(got, want, 2.0)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_masks_are_the_cpus(cuda, dtype, p):
    for n in (1, 7, 64, 1001):
        kept = reference.dropout_forward(np.ones(n), p, 1.0, 11, 2)
        np.testing.assert_array_equal(
            cuda.dropout_forward(np.ones(n, dtype), p, 1.0, 11, 2).astype(float), kept
        )


@pytest.mark.parametrize("dtype", HALVES)
def test_lists_of_arrays_in_sixteen_bits(cuda, dtype):
    """Norms are float32; the factor may lie on the device."""
    arrays = [numbers(s, dtype, i, 30) for i, s in enumerate([(3, 5), (4100,), (1,)])]
    norm = cuda.total_norm(arrays, 2.0)
    assert norm.dtype == np.float32
    assert norm == pytest.approx(reference.total_norm(wide(arrays), 2.0), rel=1e-6)
    for change, changed in (
        (lambda: cuda.scale_arrays(arrays, np.asarray(0.3, np.float32)), lambda a: a * np.float32(0.3)),
        (lambda: cuda.clamp_arrays(arrays, 2.0), lambda a: np.clip(a, -2, 2)),
        (lambda: cuda.zero_arrays(arrays), np.zeros_like),
    ):
        want = [changed(a.astype(np.float32)).astype(dtype) for a in arrays]
        change()
        for a, w in zip(arrays, want, strict=True):
            np.testing.assert_array_equal(a, w)


@pytest.mark.parametrize("dtype", HALVES)
def test_adam_in_sixteen_bits(cuda, dtype):
    arrays = [[numbers(s, dtype, 10 * k + i) for i, s in enumerate([(3, 5), (64,), (1,)])] for k in range(2)]
    state = [[np.zeros_like(p) for p in arrays[0]] for _ in range(2)]
    steps = [np.zeros((), np.float32) for _ in arrays[0]]
    want = [[wide(p) for p in group] for group in (*arrays, *state)]
    options = (0.1, 0.9, 0.999, 1e-4, 0.01, False, True)
    cuda.adam_step(*arrays, *state, None, steps, *options)
    reference.adam_step(*want, None, [np.zeros(()) for _ in steps], *options)
    assert [float(s) for s in steps] == [1, 1, 1]
    for group, exact in zip((arrays[0], *state), (want[0], *want[2:]), strict=True):
        check(group, exact, 2.0)


def test_bad_labels_and_indices_are_raised_when_the_device_is_waited_for(cuda):
    from fastdl.kernels.cuda import device

    device.raise_reports()  # nothing to report
    x = numbers((3, 5), np.float32)
    loss, *_ = cuda.cross_entropy_forward(x, np.array([1, 5, -100]), None, 1, -100, 0.0, "none")
    assert loss[1] == 0
    with pytest.raises(
        IndexError, match=r"cross_entropy: target\[1\] \(flattened\) = 5 is out of range \[0, 5\)"
    ):
        device.raise_reports()
    device.raise_reports()  # once
    y = cuda.embedding_forward(x, np.array([2, -1]))
    np.testing.assert_array_equal(y, [x[2], np.zeros(5)])
    with pytest.raises(
        IndexError, match=r"embedding: index\[1\] \(flattened\) = -1 is out of range \[0, 3\)"
    ):
        device.raise_reports()
    grad = cuda.embedding_backward(x, np.array([2, 7, 0]), None, None, 4, -1, False)
    np.testing.assert_array_equal(grad, [x[2], np.zeros(5), x[0], np.zeros(5)])
    with pytest.raises(IndexError, match=r"embedding_backward: index\[1\] .* = 7 is out of range \[0, 4\)"):
        device.raise_reports()


def test_bad_places_are_raised_when_the_device_is_waited_for(cuda):
    from fastdl.kernels.cuda import device

    device.raise_reports()
    x = numbers((2, 3), np.float32)
    at = np.array([[0, 16, 4], [2, 1, 1]])
    y = cuda.max_unpool_forward(x, at, (16,))
    np.testing.assert_array_equal(y[:, :5], [[x[0, 0], 0, 0, 0, x[0, 2]], [0, x[1, 2], x[1, 0], 0, 0]])
    with pytest.raises(IndexError, match=r"max_unpool: indices\[1\] .* = 16 is out of range \[0, 16\)"):
        device.raise_reports()
    grad = cuda.max_unpool_backward(numbers((2, 16), np.float32), at, 1)
    assert grad[0, 1] == 0
    with pytest.raises(IndexError, match="max_unpool_backward: indices"):
        device.raise_reports()
    cuda.adaptive_max_pool_backward(x, at, (16,))
    with pytest.raises(IndexError, match="adaptive_max_pool_backward: indices"):
        device.raise_reports()


@emulated_only
def test_arrays_on_the_wrong_side_are_refused(cuda):
    from fastdl.kernels.cuda import device

    extension = emulation.extension()
    device.emulate(None)
    try:
        with pytest.raises(
            ValueError, match=r"received an array in the CPU's memory; move it with \.to\('cuda'\)"
        ):
            cuda.exp_forward(np.ones(3, np.float32))
    finally:
        device.emulate(extension)


def test_wrong_arguments(cuda):
    x = np.ones((2, 3), np.float32)
    with pytest.raises(
        TypeError, match="exp: input must be float32, float16, bfloat16 or float64, got int64"
    ):
        cuda.exp_forward(np.ones(3, np.int64))
    with pytest.raises(TypeError, match="add: arrays must have one dtype, got float32 and float64"):
        cuda.add_forward(x, x.astype(np.float64))
    with pytest.raises(ValueError, match=r"add: shapes \(2, 3\) and \(2,\) do not broadcast"):
        cuda.add_forward(x, x[:, 0])
    with pytest.raises(ValueError, match=r"mul: out has shape \(3,\), the result \(2, 3\)"):
        cuda.mul_forward(x, x, out=x[0])
    with pytest.raises(IndexError, match="softmax: dim 2 is out of range for 2 dimensions"):
        cuda.softmax_forward(x, 2)
    with pytest.raises(ValueError, match=r"cross_entropy: target must have shape \(2,\), got \(3,\)"):
        cuda.cross_entropy_forward(x, np.zeros(3, np.int64), None, 1, -100, 0.0, "mean")
    with pytest.raises(ValueError, match="rows of 4 elements do not divide 6"):
        cuda.layer_norm_forward(x, None, None, 4, 1e-5)
    with pytest.raises(ValueError, match="at most 6 are supported on CUDA; make the arrays contiguous"):
        cuda.exp_forward(np.ones((4,) * 7, np.float32)[(slice(None, None, 2),) * 7])
