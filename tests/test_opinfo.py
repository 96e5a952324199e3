"""Every operation of PyTorch's own test database, on its own sample inputs, beside PyTorch: values and gradients.

``OPINFO_SAMPLES=1000 pytest tests/test_opinfo.py`` takes all samples (27,000, minutes); a test run takes the first.
"""

import os

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest")  # what PyTorch's database itself imports
if not torch.__version__.startswith("2.13."):
    pytest.skip("the lists here are those of PyTorch 2.13's database", allow_module_level=True)

import opinfo  # noqa: E402

MOST = int(os.environ.get("OPINFO_SAMPLES", "8"))
OPERATIONS = opinfo.operations()
DTYPES = ("float32", "complex64", "int64", "bool")

# Values drawn from another generator: dtypes and shapes are compared.
RANDOM = set(
    """bernoulli cauchy empty empty_like empty_permuted empty_strided exponential geometric log_normal multinomial
    new_empty new_empty_strided nn.functional.alpha_dropout nn.functional.dropout nn.functional.dropout2d
    nn.functional.dropout3d nn.functional.feature_alpha_dropout.with_train nn.functional.fractional_max_pool2d
    nn.functional.fractional_max_pool3d nn.functional.multi_head_attention_forward nn.functional.rrelu
    nn.functional.scaled_dot_product_attention normal normal.in_place normal.number_mean pca_lowrank rand_like
    randint randint_like randn randn_like svd_lowrank uniform""".split()
)

# Not in fastdl (docs/differences.md says what to use): the whole list, so that nothing goes missing unnoticed.
ABSENT = set(
    """__rdiv__ _batch_norm_with_update _chunk_cat _native_batch_norm_legit _softmax_backward_data _unsafe_masked_index
    _unsafe_masked_index_put_accumulate _upsample_bilinear2d_aa alias_copy constant_pad_nd geqrf grid_sampler_2d
    grid_sampler_3d hash_tensor jiterator_2inputs_2outputs jiterator_4inputs_with_extra_args jiterator_binary
    jiterator_binary_return_by_ref jiterator_unary linalg.ldl_factor linalg.ldl_factor_ex linalg.ldl_solve
    native_batch_norm native_dropout_backward native_group_norm native_layer_norm ormqr slice special.airy_ai
    special.bessel_j0 special.bessel_j1 special.bessel_y0 special.bessel_y1 special.modified_bessel_k0
    special.modified_bessel_k1 special.scaled_modified_bessel_k0 special.scaled_modified_bessel_k1 torch._scaled_mm
    torch._scaled_mm_v2 torch.ops.aten._efficient_attention_forward torch.ops.aten._flash_attention_forward
    torch.ops.aten._safe_softmax.default""".split()
) | {name for name in OPERATIONS if name.startswith("masked.") or "_polynomial_" in name}

# Whose samples may differ, in these dtypes (none named: in all), and why.
DIFFERENT = {
    "addmv int64": "PyTorch truncates beta and alpha; here the result is float32",
    "addr bool": "beta 3 and alpha 2 make integers of bools here",
    "argsort bool": "the order of equal elements is stable here",
    "as_strided_scatter float32 complex64": "PyTorch's gradient of the input is that of what was replaced",
    "as_strided.partial_views": "sees the memory of an unrelated base",
    "chalf": "no complex numbers of half precision",
    "cholesky_inverse": "the factor's gradient is triangular here",
    "cholesky_solve": "the factor's gradient is triangular here",
    "histogramdd": "edges that fall",
    "kthvalue int64": "which of equal elements",
    "linalg.eig": "eigenvectors' phases",
    "linalg.eigh": "eigenvectors' signs, with UPLO='U'",
    "linalg.householder_product": "an empty tau has no graph here",
    "logcumsumexp complex64": "imaginary parts are in (-pi, pi] here",
    "max_pool2d_with_indices_backward": "calls PyTorch's dispatcher",
    "mode int64 bool": "which of equal elements",
    "nn.functional.batch_norm float32": "an input of 0 elements without channels",
    "nn.functional.layer_norm float32": "rows of one element: a gradient of 1e-4 of its terms instead of 0",
    "nn.functional.local_response_norm int64": "not for integers",
    "pca_lowrank complex64": "not for complex numbers",
    "renorm complex64": "the gradient of the maximum norm is NaN in PyTorch",
    "sort bool": "the order of equal elements is stable here",
    "sum_to_size bool": "the sum of one bool stays a bool here",
    "svd_lowrank complex64": "not for complex numbers",
    "topk int64": "which of equal elements",
    "zero_": "a method only",
}
DIFFERENT = {(name, dtype) for name, *dtypes in map(str.split, DIFFERENT) for dtype in dtypes or DTYPES}


def _cases():
    for name, op in OPERATIONS.items():
        for dtype in DTYPES:
            if getattr(torch, dtype) in op.dtypes:
                yield name, dtype


@pytest.fixture(autouse=True, scope="module")
def not_owned():
    with opinfo.owners_watched() as found:
        yield found


@pytest.mark.parametrize(("name", "dtype"), list(_cases()))
@pytest.mark.filterwarnings("ignore")
def test_samples(name, dtype, not_owned):
    if name in ABSENT:
        with pytest.raises(opinfo.Absent):
            opinfo.function(OPERATIONS[name])
        return
    count, found = opinfo.check(OPERATIONS[name], getattr(torch, dtype), MOST, name in RANDOM)
    shared = set(not_owned)
    not_owned.clear()
    assert not shared
    if (name, dtype) not in DIFFERENT:
        assert not found, f"{len(found)} of {count} samples differ:\n" + "\n".join(found[:5])
