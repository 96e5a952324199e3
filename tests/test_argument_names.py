"""Functions take their arguments by PyTorch's names: those of its schemas, and of its documentation."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest

import fastdl
from fastdl import published

torch = pytest.importorskip("torch")
NAMESPACES = {
    "": "",
    "linalg": "linalg_",
    "special": "special_",
    "fft": "fft_",
}  # by the prefix of their schemas
NORMS = {"cudnn_enable": "a remark to cuDNN", "cudnn_enabled": "a remark to cuDNN"}
PRODUCTS = {"out_dtype": "on GPUs only in PyTorch, too"}
SPARSE = {"layout": "the function's name says it", "pin_memory": "not of sparse tensors"}
# Names of PyTorch's that are not taken here, and why.
LEFT_OUT = {
    "addmm": PRODUCTS,
    "baddbmm": PRODUCTS,
    "bmm": PRODUCTS,
    "einsum": {"equation": "by position, as PyTorch wants it"},
    "expand_copy": {"implicit": "of PyTorch's own derivatives"},
    "from_dlpack": {"device": "from_dlpack(x).to(device)", "copy": "from_dlpack(x).clone()"},
    "group_norm": NORMS,
    "histogramdd": {"out": "documented, and refused by PyTorch"},
    "hspmm": {"out": "not of sparse results: docs/differences.md"},
    "layer_norm": NORMS,
    "mm": PRODUCTS,
    "normal": {"input": "PyTorch's own functional form of normal_"},
    "result_type": {"scalar": "a number before a tensor: by position"},
    "set_num_threads": {"int": "a type, the documentation of which gives no name"},
    "sort": {"reverse": "of TorchScript's sort of lists"},
    "sparse_coo_tensor": SPARSE,
    "sparse_csc_tensor": SPARSE,
    "sparse_csr_tensor": SPARSE,
    "sspaddmm": {"out": "not of sparse results: docs/differences.md"},
    "stft": {"align_to_window": "undocumented: pads only what is not centred"},
}


def _schemas(prefix, name, function):
    """The names of the parameters in each form that PyTorch takes."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        for schema in torch._C._jit_get_schemas_for_operator(f"aten::{prefix}{name}"):
            if any("Tensor" in str(a.type) for a in schema.arguments) and schema.arguments[0].name != "a":
                names = [a.name for a in schema.arguments if not a.is_out]
                yield ["input" if n == "self" else n for n in names]
    else:
        yield [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _documented(name, text):
    """The names of the parameters in the first line of a documentation, if it has such a line."""
    found = re.match(rf"\s*(?:torch\.)?(?:\w+\.)*{name}\(([^()]*(?:\([^()]*\)[^()]*)*)\)", text or "")
    plain = re.sub(r"\[[^\]]*\]|\([^()]*\)", "", found[1]) if found else ""
    return [part.split("=")[0].split(":")[0].split()[-1] for part in plain.split(",") if part.strip()]


def _calls():
    for area, prefix in NAMESPACES.items():
        ours, theirs = [getattr(library, area) if area else library for library in (fastdl, torch)]
        for name in sorted(set(dir(ours)) & set(dir(theirs))):
            function = getattr(theirs, name)
            if name[0] == "_" or isinstance(function, type) or not callable(function):
                continue
            forms = [*_schemas(prefix, name, function)]
            known = {n for names in forms for n in names}
            documented = _documented(name, function.__doc__)
            if (
                area != "linalg" and known
            ):  # what no schema has PyTorch refuses: true_divide(dividend, divisor)
                documented = [n for n in documented if n in known | {"out"}]
            path = f"{area}.{name}".strip(".")
            forms = {tuple(n for n in names if n.isidentifier()) for names in (*forms, documented)}
            for names in sorted(forms):
                yield (
                    path,
                    getattr(ours, name),
                    [n for n in names if n[0] != "_" and n not in LEFT_OUT.get(path, ())],
                )


CALLS = list(_calls())


def test_there_are_many():
    assert len(CALLS) > 800


@pytest.mark.filterwarnings("ignore")
def test_functions_take_torchs_names(monkeypatch):
    monkeypatch.setattr(published, "explain", lambda *_: None)  # which blames the values first
    refused = []
    for path, function, names in CALLS:
        values = {n: None if n in ("layout", "pin_memory", "out") else object() for n in names}
        try:
            function(**values)
        except Exception as error:
            found = re.search(r"unexpected (?:keyword )?argument '(\w+)'", str(error))
            if found:
                refused.append((path, found[1], names))
    assert refused == []


def _matrix(library):
    return library.tensor([[2.0, 1.0], [1.0, 3.0]])


@pytest.mark.parametrize(
    "call",
    [
        lambda lib: lib.det(input=_matrix(lib)),
        lambda lib: lib.slogdet(input=_matrix(lib))[1],
        lambda lib: lib.inverse(input=_matrix(lib)),
        lambda lib: lib.cholesky(_matrix(lib), True),
        lambda lib: _matrix(lib).cholesky(upper=True),
        lambda lib: lib.matrix_power(input=_matrix(lib), n=3),
        lambda lib: lib.matrix_exp(input=_matrix(lib)),
        lambda lib: lib.cholesky_solve(input=_matrix(lib), input2=_matrix(lib)),
        lambda lib: lib.orgqr(input=_matrix(lib), input2=_matrix(lib)[0]),
        lambda lib: _matrix(lib).orgqr(input2=_matrix(lib)[0]),
        lambda lib: lib.linalg.norm(input=_matrix(lib), ord=1),
        lambda lib: lib.linalg.lstsq(input=_matrix(lib), b=_matrix(lib)).solution,
        lambda lib: lib.linalg.tensorsolve(input=_matrix(lib), other=_matrix(lib)[0]),
        lambda lib: lib.linalg.svdvals(_matrix(lib), driver=None),
        lambda lib: lib.linalg.svd(_matrix(lib), driver=None).S,
        lambda lib: lib.fft.fftfreq(3, out=lib.empty(3, dtype=lib.float64)),
        lambda lib: lib.hann_window(4, layout=lib.strided, pin_memory=False),
        lambda lib: lib.ones_like(_matrix(lib), layout=lib.strided),
        lambda lib: _matrix(lib).type(lib.float64, non_blocking=True),
        lambda lib: _matrix(lib).uniform_(**{"from": 2.0, "to": 3.0}).floor(),
        lambda lib: _matrix(lib).random_(**{"from": 2, "to": 3}),
        lambda lib: lib.tensor_split(_matrix(lib), tensor_indices_or_sections=lib.tensor(2))[1],
        lambda lib: lib.isin(element=1, test_elements=_matrix(lib)),
        lambda lib: lib.batch_norm(
            _matrix(lib), _matrix(lib)[0], None, lib.zeros(2), lib.ones(2), False, 0.1, 1e-5, True
        ),
        lambda lib: lib.instance_norm(
            _matrix(lib)[None], None, _matrix(lib)[0], None, None, True, 0.1, 1e-5, True
        ),
        lambda lib: lib.nn.LazyInstanceNorm2d(bias=False)(lib.ones(1, 2, 2, 2)).detach(),
    ],
)
@pytest.mark.filterwarnings("ignore:.*deprecated:UserWarning")
def test_values_by_name_are_torchs(call):
    got, want = call(fastdl), call(torch)
    assert str(got.dtype) == str(want.dtype).removeprefix("torch.")
    np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-5, atol=1e-6)


def test_what_makes_dense_tensors_takes_no_other_layout():
    with pytest.raises(TypeError, match="zeros_like: makes dense tensors"):
        fastdl.zeros_like(fastdl.ones(2), layout=fastdl.sparse_coo)
    for call in (
        lambda: fastdl.matmul(fastdl.eye(2), fastdl.eye(2), layout=None),
        lambda: fastdl.eye(input=3),
    ):
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            call()


def test_pinverse_keeps_what_linalg_pinv_leaves_out():
    values = np.diag([1.0, 1e-9]).astype(np.float32)
    for call in (
        lambda lib, x: lib.pinverse(x),
        lambda lib, x: x.pinverse(),
        lambda lib, x: x.pinverse(1e-7),
    ):
        got, want = [call(lib, lib.from_numpy(values)).numpy() for lib in (fastdl, torch)]
        np.testing.assert_allclose(got, want, rtol=1e-5)
    assert fastdl.linalg.pinv(fastdl.from_numpy(values))[1, 1] == 0


@pytest.mark.parametrize("name", ["inverse", "cholesky", "pinverse", "orgqr"])
def test_errors_name_the_function_that_was_called(name):
    x = fastdl.ones(2 - (name == "pinverse"), 3)
    x, rest = (x[0], ()) if name == "pinverse" else (x, (x[0],) if name == "orgqr" else ())
    for call in (lambda: getattr(fastdl, name)(x, *rest), lambda: getattr(x, name)(*rest)):
        with pytest.raises(RuntimeError, match=f"^{name}: "):
            call()


def test_errors_name_the_argument_that_was_written():
    x = fastdl.ones(2, 2)
    for call, name in (
        (lambda: fastdl.matmul(x, b=x), "b"),
        (lambda: fastdl.mm(x, other=x), "other"),
        (lambda: fastdl.relu(x, element=x), "element"),
    ):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            call()
