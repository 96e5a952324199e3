"""``autograd.Function``: the same user code must run here and in torch."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import fastdl

torch = pytest.importorskip("torch")
LIBRARIES = [fastdl, torch]


@pytest.fixture(params=LIBRARIES, ids=["fastdl", "torch"])
def lib(request):
    return request.param


def leaf(lib, values):
    return lib.tensor(values, requires_grad=True)


def test_two_inputs_and_outputs(lib):
    class SumAndProduct(lib.autograd.Function):
        @staticmethod
        def forward(ctx, a, scale, b):
            assert not lib.is_grad_enabled()
            ctx.save_for_backward(a, b)
            ctx.scale = scale
            return (a + b) * scale, a * b

        @staticmethod
        def backward(ctx, grad_sum, grad_product):
            assert not lib.is_grad_enabled()
            a, b = ctx.saved_tensors
            assert ctx.needs_input_grad == (True, False, True)
            return grad_sum * ctx.scale + grad_product * b, None, grad_sum * ctx.scale + grad_product * a

    a, b = leaf(lib, [1.0, 2.0]), leaf(lib, [3.0, 5.0])
    total, product = SumAndProduct.apply(a, 10.0, b)
    (total.sum() + 2 * product.sum()).backward()
    assert a.grad.tolist() == [16, 20]
    assert b.grad.tolist() == [12, 14]
    a.grad = None
    total, product = SumAndProduct.apply(a, 10.0, b)
    product.sum().backward()  # grad_sum arrives as zeros
    assert a.grad.tolist() == [3, 5]


@pytest.mark.parametrize("materialize", [False, True])
@pytest.mark.parametrize("create_graph", [False, True])
def test_outputs_that_are_no_tensors_have_none_for_a_gradient(lib, materialize, create_graph):
    class Parts(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.set_materialize_grads(materialize)
            return 3, x * 2, {"rate": 0.5}, x * 5, None

        @staticmethod
        def backward(ctx, number, twice, options, fivefold, nothing):
            assert number is options is nothing is None
            assert (fivefold is None) == (not materialize)
            return twice * 2 if fivefold is None else twice * 2 + fivefold * 5

    x = leaf(lib, [1.0])
    number, twice, options, _, nothing = Parts.apply(x)
    assert (number, options, nothing) == (3, {"rate": 0.5}, None)
    (grad,) = lib.autograd.grad(twice.sum(), x, create_graph=create_graph)
    assert grad.tolist() == [2.0]


def test_setup_context(lib):
    class Cube(lib.autograd.Function):
        @staticmethod
        def forward(x):
            return x**3

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(inputs[0], output)

        @staticmethod
        def backward(ctx, grad):
            x, y = ctx.saved_tensors
            assert y.tolist() == (x**3).tolist()
            return 3 * x * x * grad

    x = leaf(lib, [2.0])
    Cube.apply(x).backward()
    assert x.grad.tolist() == [12.0]


def test_none_gradients_and_materialize(lib):
    seen = []

    class Pair(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.set_materialize_grads(False)
            return x * 1, x * 2

        @staticmethod
        def backward(ctx, a, b):
            seen.append((a is None, b is None))
            return b * 2

    x = leaf(lib, [1.0])
    _, second = Pair.apply(x)
    second.backward()
    assert seen == [(True, False)]
    assert x.grad.tolist() == [2.0]


def test_non_differentiable(lib):
    class Split(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            mask = (x > 0).to(x.dtype)
            ctx.mark_non_differentiable(mask)
            return x * 2, mask

        @staticmethod
        def backward(ctx, grad, grad_mask):
            return grad * 2

    x = leaf(lib, [1.0, -1.0])
    y, mask = Split.apply(x)
    assert y.requires_grad
    assert not mask.requires_grad
    (y * mask).sum().backward()
    assert x.grad.tolist() == [2, 0]


def test_mark_dirty(lib):
    class Double(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            x.mul_(2)
            ctx.mark_dirty(x)
            return x

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    x = leaf(lib, [1.0, 3.0])
    y = x * 1
    z = Double.apply(y)
    assert z is y
    (y * y).sum().backward()
    assert x.grad.tolist() == [8, 24]


def test_changed_saved_tensor(lib):
    class Square(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return 2 * x * grad

    x = leaf(lib, [1.0])
    y = x * 1
    z = Square.apply(y)
    y.add_(1)
    with pytest.raises(RuntimeError, match=r"in place|inplace"):
        z.backward()
    y = Square.apply(x)
    y.backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()
    z = Square.apply(lib.ones(1))
    assert not z.requires_grad
    with lib.no_grad():
        assert not Square.apply(x).requires_grad


def test_an_input_returned_as_it_is_and_saved_is_the_input(lib):
    """A second derivative by way of the saved tensor goes to the input, not through the operation once more."""

    class Reversed(lib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return -grad * x

    x = leaf(lib, [2.0, 3.0])
    (first,) = lib.autograd.grad((Reversed.apply(x) ** 2).sum(), x, create_graph=True)
    (second,) = lib.autograd.grad(first.sum(), x)
    assert first.tolist() == [-8.0, -18.0]
    # first = -2 y x with y = x and dy/dx = -x
    assert second.tolist() == [4.0, 12.0]


@pytest.mark.parametrize("create_graph", [False, True])
def test_backward_to_some_inputs_knows_which(create_graph):
    """ctx.needs_input_grad as in a C++ function of PyTorch; its Python functions are asked for all that forward saw."""
    asked = []

    class Product(fastdl.autograd.Function):
        @staticmethod
        def forward(ctx, x, factor, y):
            ctx.save_for_backward(x, y)
            ctx.factor = factor
            return x * y * factor

        @staticmethod
        def backward(ctx, grad):
            x, y = ctx.saved_tensors
            need_x, need_factor, need_y = ctx.needs_input_grad
            asked.append((need_x, need_factor, need_y))
            of_x = grad * y * ctx.factor if need_x else None
            return of_x, None, grad * x * ctx.factor if need_y else None

    x = fastdl.tensor([2.0], requires_grad=True)
    y = fastdl.tensor([3.0], requires_grad=True)
    z = Product.apply(x, 10.0, y)
    for wanted, expected in ((x, [30.0]), (y, [20.0]), ((x, y), [30.0, 20.0])):
        found = fastdl.autograd.grad(z, wanted, retain_graph=True, create_graph=create_graph)
        assert [g.item() for g in found] == expected
    z.backward()
    assert asked == [(True, False, False), (False, False, True), (True, False, True), (True, False, True)]
    assert (x.grad.item(), y.grad.item()) == (30.0, 20.0)


def test_wrong_results_are_explained():
    def function(result):
        class F(fastdl.autograd.Function):
            @staticmethod
            def forward(ctx, a, b):
                return a * b

            @staticmethod
            def backward(ctx, grad):
                return result

        return F

    x = leaf(fastdl, [1.0, 2.0])
    for result, error, match in (
        (x, RuntimeError, "one gradient for each of the 2 arguments.*returned 1"),
        ((fastdl.ones(3), None), RuntimeError, r"gradient 0 has shape \(3,\), argument 0 has \(2,\)"),
        ((1.0, None), TypeError, "gradient 0 must be a Tensor or None, got float"),
    ):
        with pytest.raises(error, match=match):
            function(result).apply(x, x).sum().backward()
    with pytest.raises(RuntimeError, match="gradient 1 must be None, as argument 1 of forward is no tensor"):
        function((x, x)).apply(x, 2.0).sum().backward()
    with pytest.raises(RuntimeError, match="not instantiated"):
        function(None)()
    with pytest.raises(NotImplementedError, match="define a static method forward"):
        fastdl.autograd.Function.apply(x)


def test_no_cycles():
    class Exp(fastdl.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            y = x.exp()
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.saved_tensors[0]

    gc.collect()
    gc.disable()
    try:
        x = leaf(fastdl, [0.0])
        y = Exp.apply(x)
        node = weakref.ref(y.grad_fn)
        y.backward()
        assert x.grad.tolist() == [1.0]
        y = Exp.apply(x)
        node = weakref.ref(y.grad_fn)
        del y
        assert node() is None
    finally:
        gc.enable()


def test_gradcheck_of_a_function():
    class Polar(fastdl.autograd.Function):
        @staticmethod
        def forward(ctx, r, angle):
            ctx.save_for_backward(r, angle)
            return r * angle.cos(), r * angle.sin()

        @staticmethod
        def backward(ctx, gx, gy):
            r, angle = ctx.saved_tensors
            c, s = angle.cos(), angle.sin()
            return gx * c + gy * s, r * (gy * c - gx * s)

    r = fastdl.tensor(np.array([1.0, 2.0]), requires_grad=True)
    angle = fastdl.tensor(np.array([0.5, -1.0]), requires_grad=True)
    assert fastdl.autograd.gradcheck(Polar.apply, (r, angle))
