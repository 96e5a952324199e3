"""``GradScaler``: the loss times a large number, so that small gradients survive float16's range; see ``torch.amp``."""

from __future__ import annotations

import math
from typing import Any

from fastdl.devices import device_of, missing
from fastdl.kernels import select
from fastdl.kernels.sparse import SparseArray
from fastdl.tensor import Tensor

_READY, _UNSCALED, _STEPPED = range(3)


class GradScaler:
    """Scales losses up and gradients down again, skips steps whose gradients overflowed, and adapts the scale.

    Args:
        device: ``"cuda"`` or ``"cpu"``; without a GPU a scaler for ``"cuda"`` does nothing.
        init_scale: the first scale (2^16).
        growth_factor: what the scale is multiplied with after ``growth_interval`` steps without overflow (2).
        backoff_factor: what it is multiplied with after a step with one (0.5).
        growth_interval: 2000.
        enabled: False: :meth:`scale` returns what it gets, :meth:`step` only steps.

    Example:
        >>> import fastdl
        >>> w = fastdl.nn.Parameter(fastdl.ones(2))
        >>> optimizer = fastdl.optim.SGD([w], lr=0.5)
        >>> scaler = fastdl.amp.GradScaler("cpu", init_scale=1024.0)
        >>> scaler.scale(w.sum()).backward()
        >>> w.grad
        tensor([1024., 1024.])
        >>> scaler.step(optimizer)  # unscales, looks for infinities, steps
        >>> scaler.update()
        >>> w.detach()
        tensor([0.5000, 0.5000])
    """

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 65536.0,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        self._enabled = bool(enabled) and (device != "cuda" or missing() is None)
        if growth_factor <= 1.0:
            raise ValueError(f"GradScaler: growth_factor must be above 1, got {growth_factor}")
        if not 0.0 < backoff_factor < 1.0:
            raise ValueError(f"GradScaler: backoff_factor must lie between 0 and 1, got {backoff_factor}")
        self._scale = float(init_scale)
        self._used = False  # has scale() been called?
        self._growth_factor = growth_factor
        self._backoff_factor = backoff_factor
        self._growth_interval = growth_interval
        self._growth_tracker = 0  # steps without overflow since the scale changed
        self._stages: dict[
            int, tuple[int, bool]
        ] = {}  # id of an optimizer -> how far it is, whether it overflowed

    def scale(self, outputs: Any) -> Any:
        """A tensor, or tensors in lists and tuples, multiplied with the scale."""
        if not self._enabled:
            return outputs
        self._used = True
        if isinstance(outputs, Tensor):
            return outputs * self._scale
        if isinstance(outputs, (list, tuple)):
            return type(outputs)([self.scale(o) for o in outputs])
        raise ValueError("scale: outputs must be a Tensor or an iterable of Tensors")

    def unscale_(self, optimizer: Any) -> None:
        """Divide the gradients of the optimizer's parameters by the scale, in place: before clipping them."""
        if not self._enabled:
            return
        stage, _ = self._stages.get(id(optimizer), (_READY, False))
        if not self._used:
            raise RuntimeError(
                "step() and unscale_() divide gradients by the scale, but nothing was scaled: "
                "scaler.scale(loss).backward() comes first"
            )
        if stage == _UNSCALED:
            raise RuntimeError(
                "unscale_() has already been called on this optimizer since the last update()."
            )
        if stage == _STEPPED:
            raise RuntimeError("unscale_() is being called after step().")
        self._stages[id(optimizer)] = _UNSCALED, self._unscaled(optimizer)

    def _unscaled(self, optimizer: Any) -> bool:
        """Unscale, and say whether there was an infinity or NaN; a GPU is waited for only once."""
        by_place: dict[Any, list[Any]] = {}
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p._grad is None:
                    continue
                array = p._grad._data
                if array.__class__ is SparseArray:
                    array = array.values._data
                if array.dtype.itemsize == 2:
                    raise ValueError(
                        f"unscale_: Attempting to unscale FP16 gradients. Gradients of {array.dtype} parameters "
                        "overflow when they are scaled; keep parameters in float32 and use autocast"
                    )
                by_place.setdefault(device_of(array), []).append(array)
                p._grad._bump_version()
        norms = []
        for arrays in by_place.values():
            kernels = select(arrays[0])
            norms.append(kernels.total_norm(arrays, math.inf))  # NaN wins over infinity
            kernels.scale_arrays(arrays, 1.0 / self._scale)
        return not all([math.isfinite(norm) for norm in norms])

    def step(self, optimizer: Any, *args: Any, **options: Any) -> Any:
        """``optimizer.step()`` on unscaled gradients, or nothing if one of them is infinite or NaN."""
        if not self._enabled:
            return optimizer.step(*args, **options)
        if "closure" in options or any(map(callable, args)):
            raise RuntimeError("Closure use is not currently supported if GradScaler is enabled.")
        stage, _ = self._stages.get(id(optimizer), (_READY, False))
        if stage == _STEPPED:
            raise RuntimeError("step() has already been called since the last update().")
        if stage == _READY:
            self.unscale_(optimizer)
        overflowed = self._stages[id(optimizer)][1]
        self._stages[id(optimizer)] = _STEPPED, overflowed
        return None if overflowed else optimizer.step(*args, **options)

    def update(self, new_scale: Any = None) -> None:
        """Adapt the scale, once per iteration; or set it."""
        if not self._enabled:
            return
        if new_scale is not None:
            self._scale = float(new_scale)
        else:
            if not self._stages:
                raise RuntimeError("No inf checks were recorded prior to update.")
            if any(overflowed for _, overflowed in self._stages.values()):
                self._scale *= self._backoff_factor
                self._growth_tracker = 0
            else:
                self._growth_tracker += 1
                if self._growth_tracker == self._growth_interval:
                    self._scale *= self._growth_factor
                    self._growth_tracker = 0
        self._stages.clear()

    def get_scale(self) -> float:
        """The scale; 1 if disabled."""
        return self._scale if self._enabled else 1.0

    def get_growth_factor(self) -> float:
        """What the scale grows by."""
        return self._growth_factor

    def set_growth_factor(self, new_factor: float) -> None:
        """Set what the scale grows by."""
        self._growth_factor = new_factor

    def get_backoff_factor(self) -> float:
        """What the scale shrinks by."""
        return self._backoff_factor

    def set_backoff_factor(self, new_factor: float) -> None:
        """Set what the scale shrinks by."""
        self._backoff_factor = new_factor

    def get_growth_interval(self) -> int:
        """After how many steps without overflow the scale grows."""
        return self._growth_interval

    def set_growth_interval(self, new_interval: int) -> None:
        """Set after how many steps without overflow the scale grows."""
        self._growth_interval = new_interval

    def is_enabled(self) -> bool:
        """Does this scaler do anything?"""
        return self._enabled

    def state_dict(self) -> dict[str, Any]:
        """Scale, factors, interval and count of steps; empty if disabled."""
        if not self._enabled:
            return {}
        return {
            "scale": self._scale,
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": self._growth_tracker,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        if not self._enabled:
            return
        if not state_dict:
            raise RuntimeError(
                "The source state dict is empty, possibly because it was saved from a disabled instance of GradScaler."
            )
        self._scale = float(state_dict["scale"])
        self._growth_factor = state_dict["growth_factor"]
        self._backoff_factor = state_dict["backoff_factor"]
        self._growth_interval = state_dict["growth_interval"]
        self._growth_tracker = state_dict["_growth_tracker"]
