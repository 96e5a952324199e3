"""Automatic differentiation: recording modes, backward, gradients of chosen tensors."""

from typing import Any

from fastdl.autograd import functional
from fastdl.autograd.anomaly import detect_anomaly, is_anomaly_enabled, set_detect_anomaly
from fastdl.autograd.function import Function, FunctionCtx
from fastdl.autograd.gradcheck import GradcheckError, gradcheck, gradgradcheck
from fastdl.autograd.gradients import backward, grad
from fastdl.autograd.mode import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    no_grad,
    set_grad_enabled,
    set_multithreading_enabled,
)
from fastdl.autograd.variable import Variable
from fastdl.paths import lead_to

__all__ = [
    "Function",
    "FunctionCtx",
    "GradcheckError",
    "Variable",
    "backward",
    "detect_anomaly",
    "enable_grad",
    "functional",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "inference_mode",
    "is_anomaly_enabled",
    "is_grad_enabled",
    "no_grad",
    "set_detect_anomaly",
    "set_grad_enabled",
    "set_multithreading_enabled",
]

lead_to(__name__, "grad_mode")


def __getattr__(name: str) -> Any:
    """``autograd.profiler`` knows all operations and comes when it is asked for; few ask for ``forward_ad``."""
    if name in ("forward_ad", "profiler"):
        from importlib import import_module

        return import_module(f"fastdl.autograd.{name}")
    raise AttributeError(f"module 'fastdl.autograd' has no attribute {name!r}")
