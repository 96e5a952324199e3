"""Recurrent cells: one step of the layers in ``rnn.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastdl.autograd.mode import mode
from fastdl.nn.modules.module import Module
from fastdl.nn.modules.rnn import check_size, init_uniform, new_parameter
from fastdl.ops.rnn import recurrent
from fastdl.tensor import Tensor

__all__ = ["GRUCell", "LSTMCell", "RNNCell", "RNNCellBase"]


class RNNCellBase(Module):
    """What the cells share: one step of a recurrent layer."""

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
        num_chunks: int,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        check_size(type(self).__name__, "input_size", input_size)
        check_size(type(self).__name__, "hidden_size", hidden_size)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        rows = num_chunks * hidden_size
        self.weight_ih = new_parameter((rows, input_size), device, dtype)
        self.weight_hh = new_parameter((rows, hidden_size), device, dtype)
        self.register_parameter("bias_ih", new_parameter((rows,), device, dtype) if bias else None)
        self.register_parameter("bias_hh", new_parameter((rows,), device, dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters from U(-s, s), s = 1 / sqrt(hidden_size)."""
        init_uniform(self, self.hidden_size)

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        if not self.bias:
            text += f", bias={self.bias}"
        nonlinearity = getattr(self, "nonlinearity", "tanh")
        if nonlinearity != "tanh":
            text += f", nonlinearity={nonlinearity}"
        return text

    def _step(self, cell: str, input: Tensor, states: Sequence[Tensor | None]) -> list[Tensor]:
        """The new states, after a look at what came."""
        name = type(self).__name__
        ndim = input._data.ndim
        if ndim not in (1, 2):
            raise ValueError(f"{name}: expected input to be 1D or 2D, got {ndim}D instead")
        for what, state in zip(("hx", "cx"), states, strict=False):
            if state is not None and state._data.ndim not in (1, 2):
                raise ValueError(f"{name}: expected {what} to be 1D or 2D, got {state._data.ndim}D instead")
        if input._data.shape[-1] != self.input_size:
            raise RuntimeError(
                f"{name}: the last axis of input must be input_size={self.input_size}, got shape {input._data.shape}"
            )
        expected = (*input._data.shape[:-1], self.hidden_size)
        for what, state in zip(("hx", "cx"), states, strict=False):
            if state is not None and state._data.shape != expected:
                raise RuntimeError(f"{name}: {what} must have shape {expected}, got {state._data.shape}")
        tensors = [self.weight_ih, *[s for s in states if s is not None]]
        if any([t._data.dtype != input._data.dtype for t in tensors]) and mode.autocast is None:
            raise ValueError(
                f"{name}: input is {input._data.dtype}, weights and states are "
                f"{', '.join(str(t._data.dtype) for t in tensors)}"
            )
        shape = (1, *expected) if ndim == 2 else (1, 1, *expected)
        h0, c0 = [None if s is None else s.reshape(shape) for s in (*states, None)][:2]
        weights = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh, None)
        result = recurrent(cell, input.reshape((*shape[:-1], self.input_size)), h0, c0, weights)
        return [s.reshape(expected) for s in result[1:]]


_CELL_DOC = """One step of :class:`{layer}`. See ``torch.nn.{layer}Cell``.

    Args:
        input_size, hidden_size: I and H.
        bias: whether biases are learned (default True).{more}
        device: where the parameters are; the CPU by default.
        dtype: of the parameters, float32 by default.

    Shape: input (B, I) or (I,), {states} (B, H) or (H,), zeros if not given; the same for {result}.

    Parameters: ``weight_ih`` ({rows}, I), ``weight_hh`` ({rows}, H), ``bias_ih``, ``bias_hh`` ({rows},), drawn from
    U(-s, s) with s = 1 / sqrt(hidden_size).

    Raises:
        RuntimeError: for an input or state whose shape does not fit.
        ValueError: for more than 2 dimensions or mixed dtypes.

    Example:
        >>> import fastdl
        >>> cell = fastdl.nn.{layer}Cell(3, 5)
        >>> {example}
        >>> tuple(h.shape)
        (2, 5)
    """


class RNNCell(RNNCellBase):
    __doc__ = _CELL_DOC.format(
        layer="RNN",
        more='\n        nonlinearity: ``"tanh"`` (default) or ``"relu"``.',
        states="h",
        result="the new h",
        rows="H",
        example="h = cell(fastdl.zeros(2, 3))",
    )

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"RNNCell: nonlinearity must be 'tanh' or 'relu', got {self.nonlinearity!r}")
        return self._step(f"rnn_{self.nonlinearity}", input, (hx,))[0]


class LSTMCell(RNNCellBase):
    __doc__ = _CELL_DOC.format(
        layer="LSTM",
        more="",
        states="the pair (h, c), each",
        result="the new pair",
        rows="4H",
        example="h, c = cell(fastdl.zeros(2, 3))",
    )

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        if hx is not None and (isinstance(hx, Tensor) or len(hx) != 2):
            raise RuntimeError(f"LSTMCell: hx must be a pair (h, c), got {type(hx).__name__}")
        h, c = self._step("lstm", input, (None, None) if hx is None else hx)
        return h, c


class GRUCell(RNNCellBase):
    __doc__ = _CELL_DOC.format(
        layer="GRU",
        more="",
        states="h",
        result="the new h",
        rows="3H",
        example="h = cell(fastdl.zeros(2, 3))",
    )

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._step("gru", input, (hx,))[0]
