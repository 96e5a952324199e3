"""Every module and optimizer of PyTorch's own test databases, with their arguments, beside PyTorch.

Of modules: results, gradients, state_dict keys, buffers afterwards, repr, and the errors of wrong arguments. Of
optimizers: the parameters of a small network and the state_dict after some steps, and the errors.
"""

import copy
import os

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest")  # what PyTorch's databases themselves import
if not torch.__version__.startswith("2.13."):
    pytest.skip("the lists here are those of PyTorch 2.13's databases", allow_module_level=True)

from torch.testing._internal.common_modules import ModuleErrorEnum, module_db  # noqa: E402
from torch.testing._internal.common_optimizers import optim_db  # noqa: E402

import fastdl  # noqa: E402
import opinfo  # noqa: E402
from fastdl.errors import DtypeError  # noqa: E402

MODULES = {info.module_cls.__name__: info for info in module_db}
OPTIMIZERS = {info.optim_cls.__name__: info for info in optim_db}
MOST = int(os.environ.get("MODULE_SAMPLES", "40"))  # of a module, of up to 648
# Drawn by another generator: dtypes and shapes are compared.
RANDOM = {"FractionalMaxPool2d", "FractionalMaxPool3d"}
# Whose samples are built of layers, of their own dropout; tests/test_transformer.py has them.
BUILT_OF_LAYERS = {"TransformerEncoder"}

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", sorted(set(MODULES) - BUILT_OF_LAYERS))
def test_module(name, training):
    info = MODULES[name]
    torch.manual_seed(5)
    samples = info.module_inputs_func(info, "cpu", torch.float32, True, training)
    samples = samples[:: -(-len(samples) // MOST)]
    found = [d for sample in samples for d in _differences_of_module(info, name, sample, training)]
    assert not found, f"{len(found)} of {len(samples)} samples differ:\n" + "\n".join(found[:5])


def _differences_of_module(info, name, sample, training):
    if sample.forward_input is None:
        return []
    made = {}
    built, called = sample.constructor_input, sample.forward_input
    theirs = info.module_cls(*built.args, **built.kwargs).float().train(training)
    ours = getattr(fastdl.nn, name)(*opinfo.twin(built.args, made), **opinfo.twin(built.kwargs, made))
    ours.float().train(training)
    args, kwargs = opinfo.twin(called.args, made), opinfo.twin(called.kwargs, made)
    if info.is_lazy:
        theirs(*called.args, **called.kwargs)
        ours(*args, **kwargs)
    state = theirs.state_dict()
    ours.load_state_dict({key: fastdl.from_numpy(value.numpy().copy()) for key, value in state.items()})
    want, got = theirs(*called.args, **called.kwargs), ours(*args, **kwargs)
    drawn = name in RANDOM or (training and getattr(theirs, "dropout", 0) and name.startswith("Transformer"))
    found = opinfo.differences(want, got, values=not drawn)
    if list(state) != list(ours.state_dict()):
        found.append(f"state_dict has {list(ours.state_dict())} instead of {list(state)}")
    if repr(ours) != repr(theirs):
        found.append(f"is {ours!r} instead of {theirs!r}")
    if not found and not drawn:
        pairs = [pair for pair in made.values() if pair[0].requires_grad]
        expected = opinfo.gradients(torch, want, [t for t, _ in pairs] + [*theirs.parameters()])
        if expected is not None:
            mine = opinfo.gradients(fastdl, got, [x for _, x in pairs] + [*ours.parameters()])
            found += [f"gradient: {d}" for d in opinfo.differences(expected, mine)]
        found += [f"state: {d}" for d in opinfo.differences(theirs.state_dict(), ours.state_dict())]
    return [f"{sample.desc} {built.args} {built.kwargs}: {d}" for d in found]


@pytest.mark.parametrize("name", sorted(name for name in MODULES if MODULES[name].module_error_inputs_func))
def test_errors_of_module(name):
    info = MODULES[name]
    for error in info.module_error_inputs_func(info, "cpu", torch.float32, True, True):
        with pytest.raises(
            (error.error_type, DtypeError)
        ):  # where two things are wrong, the dtype comes first
            _wrongly_used(name, error)


def _wrongly_used(name, error):
    made, sample = {}, error.module_error_input
    built, called = sample.constructor_input, sample.forward_input
    module = getattr(fastdl.nn, name)(*opinfo.twin(built.args, made), **opinfo.twin(built.kwargs, made))
    if error.error_on != ModuleErrorEnum.CONSTRUCTION_ERROR:
        module(*opinfo.twin(called.args, made), **opinfo.twin(called.kwargs, made))


def _network(library, name):
    draw = np.random.default_rng(1)
    shapes = [(4, 6), (3, 4)] if name == "Muon" else [(4, 6), (3, 4), (4,), (3,)]  # which is for matrices
    return [library.nn.Parameter(library.tensor(draw.normal(0, 0.3, shape))) for shape in shapes]


def _trained(library, name, options):
    parameters = _network(library, name)
    draw = np.random.default_rng(2)
    x, target = library.tensor(draw.normal(size=(8, 6))), library.tensor(draw.normal(size=(8, 3)))
    optimizer = getattr(library.optim, name)(parameters, **options)

    def closure():
        optimizer.zero_grad()
        first, second, *biases = parameters
        hidden = x @ first.T + (biases[0] if biases else 0)
        loss = ((hidden.tanh() @ second.T + (biases[1] if biases else 0) - target) ** 2).mean()
        loss.backward()
        if name == "SparseAdam":
            for p in parameters:
                p.grad = p.grad.to_sparse()
        return loss

    for _ in range(2):  # after more of them L-BFGS takes what the last bit decides for another curvature
        optimizer.step(closure)
    return parameters, optimizer.state_dict()


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_optimizer(name):
    rounded = name == "Muon"  # its products are in bfloat16
    for sample in OPTIMIZERS[name].optim_inputs_func("cpu"):
        theirs, their_state = _trained(torch, name, copy.deepcopy(sample.kwargs))
        ours, our_state = _trained(fastdl, name, opinfo.twin(copy.deepcopy(sample.kwargs), {}))
        for want, got in zip(theirs, ours, strict=True):
            np.testing.assert_allclose(
                got.detach().numpy(),
                want.detach().numpy(),
                rtol=1e-3 if rounded else 1e-7,
                atol=2e-4 if rounded else 1e-9,
                err_msg=sample.desc,
            )
        assert list(our_state["param_groups"][0]) == list(their_state["param_groups"][0])
        theirs, ours = [
            {
                index: set(values) - {"al"} for index, values in state["state"].items()
            }  # L-BFGS: room for numbers
            for state in (their_state, our_state)
        ]
        assert ours == theirs


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_errors_of_optimizer(name):
    for error in OPTIMIZERS[name].optim_error_inputs_func("cpu", torch.float32):
        sample = error.optimizer_error_input
        if "foreach" in sample.kwargs:  # chooses among PyTorch's implementations; there is one here
            continue
        if name == "SparseAdam" and "complex" in error.error_regex:  # works here
            continue
        try:
            parameters = _network(fastdl, name) if sample.params is None else opinfo.twin(sample.params, {})
        except opinfo.Untranslatable:
            continue
        options = opinfo.twin(sample.kwargs, {})
        if issubclass(error.error_type, Warning):
            with pytest.warns(error.error_type, match=error.error_regex):
                getattr(fastdl.optim, name)(parameters, **options)
        else:
            with pytest.raises(error.error_type):
                getattr(fastdl.optim, name)(parameters, **options)
