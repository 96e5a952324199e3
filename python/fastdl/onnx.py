"""``torch.onnx``: programs ask whether a model is being exported, which it never is.

Example:
    >>> import fastdl
    >>> fastdl.onnx.is_in_onnx_export()
    False
"""

from __future__ import annotations

from typing import Any, NoReturn

__all__ = ["ONNXProgram", "OnnxExporterError", "export", "is_in_onnx_export"]


class ONNXProgram:
    """What an export would give: there is none."""


class OnnxExporterError(RuntimeError):
    """An export that failed."""


def is_in_onnx_export() -> bool:
    """False."""
    return False


def export(*args: Any, **options: Any) -> NoReturn:
    """An error: save the ``state_dict``, and load it where the export is to be made."""
    raise OnnxExporterError(
        "onnx.export: models are not traced here; save the state_dict (safetensors) and load it where the export is to "
        "be made (docs/differences.md)"
    )
