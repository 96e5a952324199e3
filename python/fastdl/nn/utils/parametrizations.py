"""Weight, spectral and orthogonal parametrizations; see ``torch.nn.utils.parametrizations``."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from fastdl import linalg
from fastdl.arrays import pooled_copy
from fastdl.devices import to_host
from fastdl.nn.modules.conv import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from fastdl.nn.modules.module import Module
from fastdl.nn.utils.parametrize import register_parametrization
from fastdl.nn.utils.spectral_norm import DivideBySigma, as_matrix, unit_vector
from fastdl.nn.utils.weight_norm import ScaledDirection, norm_along
from fastdl.ops.arrays import eye
from fastdl.ops.diagonals import tril
from fastdl.ops.join import cat
from fastdl.ops.reduce import sum
from fastdl.ops.sampling import randn
from fastdl.tensor import Tensor

__all__ = ["orthogonal", "spectral_norm", "weight_norm"]

M = TypeVar("M", bound=Module)


class _WeightNorm(Module):
    """w = g v / |v|, norms over all axes but ``dim``."""

    def __init__(self, dim: int | None) -> None:
        super().__init__()
        self.dim = dim

    def _axes(self, ndim: int) -> tuple[int, ...]:
        kept = None if self.dim in (None, -1) else self.dim
        return tuple([i for i in range(ndim) if kept is None or i != kept % ndim])

    def forward(self, magnitude: Tensor, direction: Tensor) -> Tensor:
        axes = self._axes(direction._data.ndim)
        return ScaledDirection.apply(direction, magnitude, axes=axes)  # type: ignore[no-any-return]

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return Tensor._wrap(norm_along(weight._data, self._axes(weight._data.ndim))), weight.detach()


def _old_keys(name: str) -> Any:
    """Checkpoints of the older ``weight_norm`` load: its ``name_g`` and ``name_v`` are the two originals."""

    def rename(module: Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        old = f"{prefix}{name}_g", f"{prefix}{name}_v"
        if all([key in state for key in old]):
            for i, key in enumerate(old):
                state[f"{prefix}parametrizations.{name}.original{i}"] = state.pop(key)

    return rename


def weight_norm(module: M, name: str = "weight", dim: int | None = 0) -> M:
    """Train magnitude (``original0``) and direction (``original1``) of a weight: w = g v / |v|.

    Args:
        module: the layer.
        name: which of its parameters.
        dim: the dimension that keeps a magnitude per slice (default 0: per output); None: one for all.

    See ``torch.nn.utils.parametrizations.weight_norm``.

    Example:
        >>> from fastdl import nn
        >>> layer = weight_norm(nn.Linear(4, 3))
        >>> layer.parametrizations.weight.original0.shape
        (3, 1)
    """
    register_parametrization(module, name, _WeightNorm(dim), unsafe=True)
    module.register_load_state_dict_pre_hook(_old_keys(name))
    return module


class _SpectralNorm(Module):
    """w / s with s = u^T W v, the largest singular value by power iteration, u and v without gradient."""

    _u: Tensor
    _v: Tensor

    def __init__(self, weight: Tensor, iterations: int, dim: int, eps: float) -> None:
        super().__init__()
        ndim = weight._data.ndim
        if not -ndim <= dim < ndim:
            raise IndexError(f"spectral_norm: dim must lie in [{-ndim}, {ndim - 1}], got {dim}")
        if iterations < 1:
            raise ValueError(
                f"Expected n_power_iterations to be positive, but got n_power_iterations={iterations}"
            )
        self.dim, self.iterations, self.eps = dim % ndim, iterations, eps
        if ndim > 1:
            rows, columns = as_matrix(weight._data, self.dim).shape
            for name, n in (("_u", rows), ("_v", columns)):
                start = randn(n, dtype=weight.dtype, device=weight.device)
                self.register_buffer(name, Tensor._wrap(unit_vector(start._data, eps)))
            self._iterate(weight, 15)

    def _iterate(self, weight: Tensor, times: int) -> None:
        w, u, v = as_matrix(weight._data, self.dim), self._u._data, self._v._data
        for _ in range(times):
            u[...] = unit_vector(w @ v, self.eps)
            v[...] = unit_vector(u @ w, self.eps)

    def forward(self, weight: Tensor) -> Tensor:
        if weight._data.ndim == 1:
            length = linalg.vector_norm(weight)
            return weight / length.clamp(min=self.eps)
        if self.training:
            self._iterate(weight, self.iterations)
        return DivideBySigma.apply(weight, u=self._u._data, v=self._v._data, dim=self.dim)  # type: ignore[no-any-return]

    def right_inverse(self, value: Tensor) -> Tensor:
        return value


def spectral_norm(
    module: M, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> M:
    """Divide a weight by its largest singular value, estimated by power iteration. Miyato et al. (2018).

    Args:
        module: the layer.
        name: which of its parameters.
        n_power_iterations: how many each time the weight is computed in training mode.
        eps: the least norm that is divided by.
        dim: the dimension of outputs; default 0, 1 for transposed convolutions.

    See ``torch.nn.utils.parametrizations.spectral_norm``.
    """
    if dim is None:
        dim = int(isinstance(module, (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)))
    made = _SpectralNorm(getattr(module, name), n_power_iterations, dim, eps)
    return register_parametrization(module, name, made)


def _orthogonalized(a: Any) -> Any:
    """The orthogonal factor nearest in signs: Q of a = Q R with a positive diagonal of R."""
    q, r = np.linalg.qr(a)
    return q * np.sign(np.diagonal(r, axis1=-2, axis2=-1))[..., None, :]


class _Orthogonal(Module):
    """Orthonormal columns (or rows, if there are fewer) from a matrix without constraints; three maps."""

    base: Tensor | None

    def __init__(self, weight: Tensor, orthogonal_map: str, use_trivialization: bool) -> None:
        super().__init__()
        self.shape = tuple(weight.shape)
        self.orthogonal_map = orthogonal_map
        self.use_trivialization = use_trivialization
        if use_trivialization:
            self.register_buffer("base", None)

    def forward(self, x: Tensor) -> Tensor:
        wide = x.shape[-2] < x.shape[-1]
        if wide:
            x = x.mT
        n, k = x.shape[-2:]
        if self.orthogonal_map == "householder":
            a = tril(x, -1)
            q = linalg.householder_product(a, 2.0 / (1.0 + sum(a * a, -2)))
            signs = np.trunc(np.diagonal(x._data, axis1=-2, axis2=-1)).astype(x.dtype)
            q = q * Tensor._wrap(pooled_copy(signs[..., None, :]))
        else:
            x = tril(x)
            if n != k:
                x = cat([x, Tensor._wrap(np.zeros((*x.shape[:-1], n - k), x.dtype, like=x._data))], -1)
            a = x - x.mT
            if self.orthogonal_map == "matrix_exp":
                q = linalg.matrix_exp(a)
            else:
                one = Tensor._wrap(eye(n, x._data.dtype, x._data))
                q = linalg.solve((one - 0.5 * a).contiguous(), (one + 0.5 * a).contiguous())
            q = q[..., :k] if n != k else q
        if self.use_trivialization:
            assert self.base is not None
            q = self.base @ q
        return q.mT if wide else q

    def right_inverse(self, weight: Tensor) -> Tensor:
        if tuple(weight.shape) != self.shape:
            raise ValueError(
                f"Expected a matrix or batch of matrices of shape {self.shape}. Got {weight.shape}."
            )
        a = to_host(weight._data)
        wide = a.shape[-2] < a.shape[-1]
        a = np.swapaxes(a, -1, -2) if wide else a
        n, k = a.shape[-2:]
        if not self.use_trivialization:
            if self.orthogonal_map != "householder":
                raise NotImplementedError(
                    "It is not possible to assign to the matrix exponential or the Cayley parametrizations when "
                    "use_trivialization=False."
                )
            raw = _reflectors(a)
            return Tensor._wrap(np.ascontiguousarray(np.swapaxes(raw, -1, -2) if wide else raw)).to(
                weight.device
            )
        if n == k:
            eye = np.eye(n, dtype=a.dtype)
            near = np.allclose(np.swapaxes(a, -1, -2) @ a, eye, atol=10 * n * np.finfo(a.dtype).eps)
            base = a if near else _orthogonalized(a)
        else:
            rest = randn((*a.shape[:-1], n - k), dtype=a.dtype, device="cpu")._data
            base = _orthogonalized(np.concatenate([a, rest], -1))
        self.base = Tensor._wrap(np.ascontiguousarray(base, a.dtype)).to(weight.device)
        start = np.zeros(self.shape, a.dtype)
        index = np.arange(min(self.shape[-2:]))
        start[..., index, index] = -1
        return Tensor._wrap(start).to(weight.device)


def _reflectors(a: Any) -> Any:
    """Householder vectors below a diagonal of signs, from which ``forward`` makes the Q of a = Q R."""
    stack = a.reshape(-1, *a.shape[-2:])
    made = np.empty_like(stack)
    for i, matrix in enumerate(stack):
        h, tau = np.linalg.qr(matrix, "raw")
        made[i] = h.T
        index = np.arange(len(tau))
        signs = np.sign(made[i][index, index])
        made[i][index, index] = np.where(tau == 0, -signs, signs)
    return made.reshape(a.shape)


def orthogonal(
    module: M, name: str = "weight", orthogonal_map: str | None = None, *, use_trivialization: bool = True
) -> M:
    """Keep a matrix (or a batch of them) orthogonal while it is trained.

    Args:
        module: the layer.
        name: which of its parameters.
        orthogonal_map: ``"matrix_exp"`` (default for square matrices), ``"cayley"`` or ``"householder"`` (default
            otherwise).
        use_trivialization: start from the present matrix, made orthogonal, kept as the buffer ``base``.

    See ``torch.nn.utils.parametrizations.orthogonal``.

    Example:
        >>> import fastdl
        >>> from fastdl import nn
        >>> w = orthogonal(nn.Linear(5, 3)).weight
        >>> bool(fastdl.allclose(w @ w.mT, fastdl.eye(3), atol=1e-5))
        True
    """
    weight = getattr(module, name)
    if not isinstance(weight, Tensor):
        raise ValueError(f"Module '{type(module).__name__}' has no parameter or buffer with name '{name}'")
    if weight.ndim < 2:
        raise ValueError(f"Expected a matrix or batch of matrices. Got a tensor of {weight.ndim} dimensions.")
    if orthogonal_map is None:
        orthogonal_map = "matrix_exp" if weight.shape[-2] == weight.shape[-1] else "householder"
    if orthogonal_map not in ("matrix_exp", "cayley", "householder"):
        raise ValueError(
            f'orthogonal_map has to be one of "matrix_exp", "cayley", "householder". Got: {orthogonal_map}'
        )
    made = _Orthogonal(weight, orthogonal_map, use_trivialization)
    return register_parametrization(module, name, made, unsafe=True)
