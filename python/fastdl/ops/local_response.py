"""Local response normalisation: every number by the squares of its neighbouring channels."""

from __future__ import annotations

from typing import Any

from fastdl.autograd.graph import replay
from fastdl.autograd.op import Op
from fastdl.errors import ArgumentError
from fastdl.kernels import select
from fastdl.ops.resample import pad
from fastdl.tensor import Tensor


class LocalResponseNorm(Op):
    floats_only = True
    saves = (0,)

    def forward(self, x: Any, size: int, alpha: float, beta: float, k: float) -> Any:
        self.x, self.options = x, (size, alpha, beta, k)
        return select(x).local_response_norm_forward(x, size, alpha, beta, k)

    def backward(self, grad_y: Any) -> Any:
        return select(grad_y).local_response_norm_backward(grad_y, self.x, *self.options)

    def backward_graph(self, grad_y: Tensor) -> Any:
        size, alpha, beta, k = self.options
        channels = self.x.shape[1]

        def composed(x: Any) -> Any:
            # A channel sees size // 2 before it and (size - 1) // 2 behind.
            squares = pad(x * x, [0, 0] * (x.ndim - 2) + [size // 2, (size - 1) // 2])
            total = squares.narrow(1, 0, channels)
            for i in range(1, size):
                total = total + squares.narrow(1, i, channels)
            return x * (total * (alpha / size) + k) ** -beta

        return replay(self, grad_y, composed, self.x)


def local_response_norm(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """x * (k + alpha / size * sum of x^2 over ``size`` neighbouring channels) ** -beta.

    See ``torch.nn.functional.local_response_norm``.

    Args:
        input: (N, C, ...), at least three dimensions.
        size: how many channels; those beyond the first and last count as 0.
        alpha, beta, k: as in the formula.
    """
    if input.ndim < 3:
        raise ArgumentError(
            f"local_response_norm: input must be (N, C, ...) with 3 or more dimensions, got {input.ndim}"
        )
    if size < 1:
        raise ArgumentError(f"local_response_norm: size must be positive, got {size}")
    return LocalResponseNorm.apply(input, size=size, alpha=alpha, beta=beta, k=k)  # type: ignore[no-any-return]
