"""Every operation of PyTorch's test database, with something changed in place between forward and backward.

A gradient is that of the values at the time of the call, or an error. A result that PyTorch lets a program change may
be changed here, too, but for those in ``KEPT``.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest")
if not torch.__version__.startswith("2.13."):
    pytest.skip("the lists here are those of PyTorch 2.13's database", allow_module_level=True)

import fastdl  # noqa: E402
import opinfo  # noqa: E402

RANDOM = (
    "dropout",
    "rrelu",
    "lowrank",
    "fractional",
    "multi_head",
    "gumbel",
    "normal",
    "bernoulli",
    "uniform",
)

# Results that PyTorch lets a program change before backward, and we keep.
KEPT = {
    "linalg.cond": "a quotient of singular values",
    "linalg.eig": "eigenvectors are scaled by their lengths",
    "linalg.inv_ex": "the second result says what failed",
    "linalg.lu_factor_ex": "the same",
    "linalg.solve_ex": "the same",
    "lu": "the same",
    "nn.functional.scaled_dot_product_attention": "PyTorch's fast kernels keep it as well",
}


def _operations():
    for name, op in opinfo.operations().items():
        if opinfo.has_gradient(op, torch.float32) and not any(word in name for word in RANDOM):
            yield name


def _changed(library, tensor):
    with library.no_grad():
        tensor = tensor.detach()
        if tensor.dtype == library.bool:
            tensor.logical_not_()
        else:
            tensor.add_(1)


def _run(library, call, tensors, change, index):
    """("result", gradients), or "refused", or None where there is nothing to say."""
    result = call()
    results = [t for t in opinfo.leaves(result) if isinstance(t, library.Tensor)]
    outputs = [t for t in results if t.requires_grad]
    inputs = [t for t in tensors if t.requires_grad]
    if not outputs or not inputs:
        return None
    changeable = {"inputs": tensors, "results": results, "nothing": []}[change]
    if index >= len(changeable) and change != "nothing":
        return None
    try:
        if change != "nothing":
            _changed(library, changeable[index])
    except RuntimeError:  # an expansion, say
        return None
    try:
        found = library.autograd.grad(
            outputs, inputs, [library.ones_like(o) for o in outputs], allow_unused=True
        )
    except RuntimeError as error:
        return "refused", str(error)
    return "gradients", [None if g is None else np.array(g.resolve_conj().numpy()) for g in found]


def _same(first, second):
    return all(
        (a is None) == (b is None) and (a is None or np.allclose(a, b, 1e-4, 1e-5, equal_nan=True))
        for a, b in zip(first, second, strict=True)
    )


def _both(op, ours, sample, change, index):
    """What PyTorch and fastdl make of it, and how many tensors came in."""
    process = sample.output_process_fn_grad or (lambda result: result)
    x, args, options = _copied((sample.input, sample.args, sample.kwargs))
    made = {}
    our_x, our_args, our_options = [opinfo.twin(part, made) for part in (x, args, options)]
    theirs = _run(
        torch, lambda: process(op.op(x, *args, **options)), [t for t, _ in made.values()], change, index
    )
    mine = _run(
        fastdl,
        lambda: process(ours(our_x, *our_args, **our_options)),
        [t for _, t in made.values()],
        change,
        index,
    )
    return theirs, mine, len(made)


@pytest.mark.parametrize("name", list(_operations()))
@pytest.mark.filterwarnings("ignore")
def test_no_gradient_of_other_values(name):
    op = opinfo.operations()[name]
    try:
        ours = opinfo.function(op)
    except opinfo.Absent:
        pytest.skip("not in fastdl")
    wrong = []
    for sample in opinfo.samples(op, torch.float32, 1):
        try:
            theirs, unchanged, count = _both(op, ours, sample, "nothing", 0)
        except (
            opinfo.Untranslatable,
            RuntimeError,
            AttributeError,
        ):  # test_opinfo compares what can be computed
            continue
        if theirs is None or unchanged is None or unchanged[0] == "refused":
            continue
        for change, index in [*[("inputs", i) for i in range(count)], *[("results", i) for i in range(3)]]:
            theirs, mine, _ = _both(op, ours, sample, change, index)
            if theirs is None or mine is None:
                continue
            if mine[0] == "refused":
                if theirs[0] != "refused" and change == "results" and name not in KEPT:
                    wrong.append(f"{change} {index}: {mine[1]}")
            elif not _same(mine[1], unchanged[1]) and (
                theirs[0] == "refused" or not _same(mine[1], theirs[1])
            ):
                wrong.append(f"{change} {index}: other gradients")
    assert not wrong


def _copied(parts):
    """The same arguments with copies of their tensors."""
    made = {}

    def copy(value):
        if isinstance(value, torch.Tensor):
            if id(value) not in made:
                made[id(value)] = value.detach().clone().requires_grad_(value.requires_grad)
            return made[id(value)]
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(copy, value))
        if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
            return type(value)(map(copy, value))
        if isinstance(value, dict):
            return {key: copy(v) for key, v in value.items()}
        return value

    return [copy(part) for part in parts]
