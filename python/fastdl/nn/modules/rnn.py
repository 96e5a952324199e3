"""Recurrent layers over whole sequences; one step at a time: ``rnn_cell.py``."""

from __future__ import annotations

import math
from typing import Any

from fastdl.autograd.mode import mode
from fastdl.errors import warn_caller
from fastdl.nn import init
from fastdl.nn.modules.module import Module
from fastdl.nn.parameter import Parameter, empty
from fastdl.nn.utils.rnn import PackedSequence
from fastdl.ops.rnn import recurrent
from fastdl.tensor import Tensor

__all__ = ["GRU", "LSTM", "RNN", "RNNBase"]

_GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}
_CELLS = {"LSTM": "lstm", "GRU": "gru", "RNN_TANH": "rnn_tanh", "RNN_RELU": "rnn_relu"}


def new_parameter(shape: tuple[int, ...], device: Any, dtype: Any) -> Parameter:
    return Parameter(empty(shape, device, dtype))


def init_uniform(module: Module, hidden_size: int) -> None:
    bound = 1 / math.sqrt(hidden_size)
    for weight in module.parameters():
        init.uniform_(weight, -bound, bound)


def check_size(name: str, what: str, value: Any) -> None:
    if not isinstance(value, int):
        raise TypeError(f"{name}: {what} must be an int, got {type(value).__name__}")
    if value <= 0:
        raise ValueError(f"{name}: {what} must be greater than zero, got {value}")


class RNNBase(Module):
    """What :class:`RNN`, :class:`LSTM` and :class:`GRU` share: parameters, checks, packed and unbatched input.

    Args:
        mode: ``"RNN_TANH"``, ``"RNN_RELU"``, ``"LSTM"`` or ``"GRU"``.
        input_size, hidden_size: I and H.
        num_layers: each layer but the first reads the outputs of the one before (default 1).
        bias: whether biases are learned (default True).
        batch_first: dense input and output are (B, T, *) instead of (T, B, *) (default False).
        dropout: probability of an element between two layers to be dropped in training (default 0).
        bidirectional: a second direction reads each sequence from its end; outputs stand side by side
            (default False).
        proj_size: LSTM only: length of the output, a linear map of the hidden state; 0 (default) for none.
        device: where the parameters are; the CPU by default.
        dtype: of the parameters, float32 by default.
    """

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if not isinstance(dropout, (int, float)) or isinstance(dropout, bool) or not 0 <= dropout <= 1:
            raise ValueError(
                f"{name}: dropout, the probability of being dropped, must be between 0 and 1, got {dropout!r}"
            )
        if dropout > 0 and num_layers == 1:
            warn_caller(
                f"{name}: dropout={dropout} acts between layers, and there is only one (num_layers=1)"
            )
        for what, flag in (("bias", bias), ("batch_first", batch_first)):
            if not isinstance(flag, bool):
                raise TypeError(f"{name}: {what} must be a bool, got {type(flag).__name__}: {flag!r}")
        check_size(name, "input_size", input_size)
        check_size(name, "hidden_size", hidden_size)
        check_size(name, "num_layers", num_layers)
        if not 0 <= proj_size < hidden_size:
            raise ValueError(
                f"{name}: proj_size must be at least 0 (no projection) and smaller than hidden_size={hidden_size}, "
                f"got {proj_size}"
            )
        if proj_size and mode != "LSTM":
            raise ValueError(f"{name}: proj_size is for LSTM only, got proj_size={proj_size}")
        if mode not in _GATES:
            raise ValueError(f"{name}: mode must be one of {', '.join(_GATES)}, got {mode!r}")
        self.mode = mode
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self.recurrent_dropout = 0.0
        self._cell = _CELLS[mode]

        rows, output = _GATES[mode] * hidden_size, proj_size or hidden_size
        directions = 2 if bidirectional else 1
        self._all_weights: list[
            list[str | None]
        ] = []  # five names per layer and direction, as the kernels want
        for layer in range(num_layers):
            width = input_size if layer == 0 else output * directions
            for suffix in ("", "_reverse")[:directions]:
                names: list[str | None] = []
                for kind, shape, there in (
                    ("weight_ih", (rows, width), True),
                    ("weight_hh", (rows, output), True),
                    ("bias_ih", (rows,), bias),
                    ("bias_hh", (rows,), bias),
                    ("weight_hr", (output, hidden_size), proj_size > 0),
                ):
                    if there:
                        setattr(self, f"{kind}_l{layer}{suffix}", new_parameter(shape, device, dtype))
                    names.append(f"{kind}_l{layer}{suffix}" if there else None)
                self._all_weights.append(names)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters from U(-s, s), s = 1 / sqrt(hidden_size)."""
        init_uniform(self, self.hidden_size)

    def flatten_parameters(self) -> None:
        """Does nothing: the kernels pack weights themselves. There for code that calls it."""

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The parameters of each layer and direction."""
        return [[getattr(self, name) for name in names if name] for names in self._all_weights]

    # ---- checks; each raises what torch raises ----

    def check_input(self, input: Tensor, batch_sizes: Tensor | None) -> None:
        name, shape, dtype = type(self).__name__, input._data.shape, input._data.dtype
        weight = getattr(self, str(self._all_weights[0][0]))._data
        if dtype != weight.dtype and mode.autocast is None:
            raise ValueError(
                f"{name}: input is {dtype}, the weights are {weight.dtype}; convert one of them: "
                f"input.to(fastdl.{weight.dtype}) or module.to(fastdl.{dtype})"
            )
        expected = 3 if batch_sizes is None else 2
        if len(shape) != expected:
            raise RuntimeError(f"{name}: input must have {expected} dimensions, got {len(shape)}")
        if shape[-1] != self.input_size:
            hint = ""
            if self.input_size in shape[:-1]:
                hint = "; is the time or batch axis last?"
            raise RuntimeError(
                f"{name}: the last axis of input must be input_size={self.input_size}, got shape {shape}{hint}"
            )

    def get_expected_hidden_size(self, input: Tensor, batch_sizes: Tensor | None) -> tuple[int, int, int]:
        if batch_sizes is not None:
            batch = int(batch_sizes._data[0])
        else:
            batch = input._data.shape[0 if self.batch_first else 1]
        return (
            self.num_layers * (2 if self.bidirectional else 1),
            batch,
            self.proj_size or self.hidden_size,
        )

    def check_hidden_size(self, hx: Tensor, expected_hidden_size: tuple[int, ...], what: str = "hx") -> None:
        if hx._data.shape != expected_hidden_size:
            raise RuntimeError(
                f"{type(self).__name__}: {what} must be (num_layers * directions, batch, size) = "
                f"{expected_hidden_size}, got {hx._data.shape}"
                + ("; it is not batch-first" if self.batch_first else "")
            )

    def permute_hidden(self, hx: Any, permutation: Tensor | None) -> Any:
        """A state, or pair of states, with its batch reordered."""
        if permutation is None or hx is None:
            return hx
        if isinstance(hx, Tensor):
            return hx.index_select(1, permutation)
        return tuple([h.index_select(1, permutation) for h in hx])

    # ---- forward ----

    def _states(self, hx: Any) -> tuple[Tensor | None, Tensor | None]:
        """h0 and c0 as given."""
        if hx is not None and not isinstance(hx, Tensor):
            raise TypeError(f"{type(self).__name__}: hx must be a tensor, got {type(hx).__name__}")
        return hx, None

    def _check_states(self, h0: Tensor | None, c0: Tensor | None, input: Tensor, sizes: Any) -> None:
        expected = self.get_expected_hidden_size(input, sizes)
        for what, state, wanted in (
            ("hx", h0, expected),
            ("cx", c0, (*expected[:2], self.hidden_size)),
        ):
            if state is not None:
                self.check_hidden_size(state, wanted, what)
                if state._data.dtype != input._data.dtype and mode.autocast is None:
                    raise ValueError(
                        f"{type(self).__name__}: {what} is {state._data.dtype}, input is {input._data.dtype}"
                    )

    def forward(self, input: Any, hx: Any = None) -> Any:
        h0, c0 = self._states(hx)
        name = type(self).__name__
        packed = isinstance(input, PackedSequence)
        batched = True
        sizes: Tensor | None = None
        if packed:
            data, sizes, sorted_indices, unsorted_indices = input
        else:
            if not isinstance(input, Tensor):
                raise TypeError(
                    f"{name}: input must be a tensor or PackedSequence, got {type(input).__name__}"
                )
            data = input
            ndim = data._data.ndim
            if ndim not in (2, 3):
                raise ValueError(f"{name}: expected input to be 2D or 3D, got {ndim}D instead")
            batched = ndim == 3
            for what, state in (("hx", h0), ("cx", c0)):
                if state is not None and state._data.ndim != ndim:
                    raise RuntimeError(
                        f"{name}: for {'batched 3-D' if batched else 'unbatched 2-D'} input, {what} must be {ndim}-D, "
                        f"got {state._data.ndim}-D"
                    )
            if not batched:
                data = data.unsqueeze(0 if self.batch_first else 1)
                h0, c0 = (s if s is None else s.unsqueeze(1) for s in (h0, c0))
        self.check_input(data, sizes)
        self._check_states(h0, c0, data, sizes)
        if packed:
            h0, c0 = (self.permute_hidden(s, sorted_indices) for s in (h0, c0))
        time = 1 if self.batch_first else 0
        if not packed and data._data.shape[time] == 0:
            raise RuntimeError(f"{name}: input has no steps: shape {data._data.shape}")
        transposed = self.batch_first and not packed
        if transposed:
            data = data.transpose(0, 1)
        weights = [None if n is None else getattr(self, n) for names in self._all_weights for n in names]
        training = self.training
        y: Any
        y, *last = recurrent(
            self._cell,
            data,
            h0,
            c0,
            weights,
            self.num_layers,
            None if sizes is None else sizes._data,
            self.dropout if training else 0.0,
            self.recurrent_dropout if training else 0.0,
        )
        if packed:
            y = PackedSequence(y, sizes, sorted_indices, unsorted_indices)
            last = [self.permute_hidden(s, unsorted_indices) for s in last]
        else:
            if transposed:
                y = y.transpose(0, 1)
            if not batched:
                y, last = y.squeeze(time ^ 1), [s.squeeze(1) for s in last]
        return y, (tuple(last) if len(last) > 1 else last[0])

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        for name, default in (
            ("proj_size", 0),
            ("num_layers", 1),
            ("bias", True),
            ("batch_first", False),
            ("dropout", 0),
            ("bidirectional", False),
            ("recurrent_dropout", 0),
        ):
            value = getattr(self, name)
            if value != default:
                parts.append(f"{name}={value}")
        return ", ".join(parts)


_SHAPES = """Shape, with D = 2 if bidirectional, else 1:
        input (T, B, I), or (B, T, I) with ``batch_first``, or (T, I) without a batch, or a
        :class:`~fastdl.nn.utils.rnn.PackedSequence`; output likewise with {output}; {states}
        (num_layers * D, B, {size}), without B for input without a batch, zeros if not given.

    The returned states belong to the graph. To train on pieces of a long sequence (truncated back-propagation
    through time), detach them before the next piece: {detach}.

    Parameters, for layer k and with ``_reverse`` for the second direction: {parameters}, drawn from
    U(-s, s) with s = 1 / sqrt(hidden_size)."""


class RNN(RNNBase):
    __doc__ = f"""h' = tanh(W_ih x + b_ih + W_hh h + b_hh) along a sequence. See ``torch.nn.RNN``.

    Args:
        input_size, hidden_size: I and H.
        num_layers: layers on top of each other (default 1).
        nonlinearity: ``"tanh"`` (default) or ``"relu"``.
        bias: whether biases are learned (default True).
        batch_first: the batch is the first axis of input and output (default False).
        dropout: probability of an element between two layers to be dropped in training (default 0).
        bidirectional: also read from the end (default False).
        device: where the parameters are; the CPU by default.
        dtype: of the parameters, float32 by default.

    {
        _SHAPES.format(
            output="D * H",
            states="h_0 and h_n",
            size="H",
            detach="``h = h.detach()``",
            parameters="``weight_ih_l{k}`` (H, I), ``weight_hh_l{k}`` (H, H), ``bias_ih_l{k}``, ``bias_hh_l{k}`` (H,)",
        )
    }

    Raises:
        RuntimeError: for an input or state whose shape does not fit.
        ValueError: for input of another dtype than the weights or of 1 or more than 3 dimensions.

    Example:
        >>> import fastdl
        >>> rnn = fastdl.nn.RNN(3, 5)
        >>> y, h = rnn(fastdl.zeros(7, 2, 3))
        >>> tuple(y.shape), tuple(h.shape)
        ((7, 2, 5), (1, 2, 5))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"RNN: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
        super().__init__(
            f"RNN_{nonlinearity.upper()}",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            device,
            dtype,
        )
        self.nonlinearity = nonlinearity


class LSTM(RNNBase):
    __doc__ = f"""Long short-term memory along a sequence. See ``torch.nn.LSTM``.

        i, f, o = sigmoid(W_i x + b_i + U_i h + c_i), likewise f, o;    g = tanh(W_g x + b_g + U_g h + c_g)
        c' = f * c + i * g;    h' = o * tanh(c'), or W_hr (o * tanh(c')) with proj_size

    Args:
        input_size, hidden_size: I and H.
        num_layers: layers on top of each other (default 1).
        bias: whether biases are learned (default True).
        batch_first: the batch is the first axis of input and output (default False).
        dropout: probability of an element between two layers to be dropped in training (default 0).
        bidirectional: also read from the end (default False).
        proj_size: length P of the output if it is a linear map of h (default 0: none, P = H).
        device: where the parameters are; the CPU by default.
        dtype: of the parameters, float32 by default.
        recurrent_dropout: probability of an element of h to be dropped, in training, where it enters the next
            step; one mask for all steps of a sequence (Gal and Ghahramani 2016). Not in torch; default 0.

    {
        _SHAPES.format(
            output="D * P",
            states="h_0 and h_n",
            size="P), c_0 and c_n (num_layers * D, B, H",
            detach="``h, c = h.detach(), c.detach()``",
            parameters="``weight_ih_l{k}`` (4H, I), ``weight_hh_l{k}`` (4H, P), ``bias_ih_l{k}``, ``bias_hh_l{k}`` "
            "(4H,) in the order i, f, g, o, and ``weight_hr_l{k}`` (P, H) with proj_size",
        )
    }

    Raises:
        RuntimeError: for an input or state whose shape does not fit.
        ValueError: for input of another dtype than the weights or of 1 or more than 3 dimensions.

    Example:
        >>> import fastdl
        >>> lstm = fastdl.nn.LSTM(3, 5, batch_first=True)
        >>> y, (h, c) = lstm(fastdl.zeros(2, 7, 3))
        >>> tuple(y.shape), tuple(c.shape)
        ((2, 7, 5), (1, 2, 5))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        *,
        recurrent_dropout: float = 0.0,
    ) -> None:
        if not 0 <= recurrent_dropout <= 1:
            raise ValueError(
                "LSTM: recurrent_dropout, the probability of being dropped, must be between 0 and 1, got "
                f"{recurrent_dropout}"
            )
        super().__init__(
            "LSTM",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            device,
            dtype,
        )
        self.recurrent_dropout = float(recurrent_dropout)

    def _states(self, hx: Any) -> tuple[Tensor | None, Tensor | None]:
        if hx is None:
            return None, None
        if isinstance(hx, Tensor) or len(hx) != 2:
            raise RuntimeError(
                f"LSTM: hx must be a pair (h_0, c_0), got {type(hx).__name__}; a single state is for RNN and GRU"
            )
        return hx[0], hx[1]


class GRU(RNNBase):
    __doc__ = f"""Gated recurrent unit along a sequence. See ``torch.nn.GRU``.

        r, z = sigmoid(W_r x + b_r + U_r h + c_r), likewise z
        n = tanh(W_n x + b_n + r * (U_n h + c_n));    h' = (1 - z) * n + z * h

    Here z near 1 keeps the old state. With ``reset_after=False`` the gates are those of the first papers, where the
    reset gate acts before the product and z near 1 takes the new value (Chung et al. 2014):

        n = tanh(W_n x + b_n + U_n (r * h) + c_n);    h' = (1 - z) * h + z * n

    so a checkpoint of one form does not fit the other, though names and shapes are the same.

    Args:
        input_size, hidden_size: I and H.
        num_layers: layers on top of each other (default 1).
        bias: whether biases are learned (default True).
        batch_first: the batch is the first axis of input and output (default False).
        dropout: probability of an element between two layers to be dropped in training (default 0).
        bidirectional: also read from the end (default False).
        device: where the parameters are; the CPU by default.
        dtype: of the parameters, float32 by default.
        reset_after: False for the form above. Not in torch; default True.

    {
        _SHAPES.format(
            output="D * H",
            states="h_0 and h_n",
            size="H",
            detach="``h = h.detach()``",
            parameters="``weight_ih_l{k}`` (3H, I), ``weight_hh_l{k}`` (3H, H), ``bias_ih_l{k}``, ``bias_hh_l{k}`` "
            "(3H,) in the order r, z, n",
        )
    }

    Raises:
        RuntimeError: for an input or state whose shape does not fit.
        ValueError: for input of another dtype than the weights or of 1 or more than 3 dimensions.

    Example:
        >>> import fastdl
        >>> gru = fastdl.nn.GRU(3, 5, num_layers=2, bidirectional=True)
        >>> y, h = gru(fastdl.zeros(7, 2, 3))
        >>> tuple(y.shape), tuple(h.shape)
        ((7, 2, 10), (4, 2, 5))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        *,
        reset_after: bool = True,
    ) -> None:
        super().__init__(
            "GRU",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            device,
            dtype,
        )
        self.reset_after = reset_after
        if not reset_after:
            self._cell = "gru_before"

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.reset_after else ", reset_after=False")
