"""``cuda.FloatTensor`` and its kin, by which older programs choose where tensors are made."""

from typing import Any

from fastdl import typed


def _on_gpu(kind: Any) -> Any:
    """As the type of the same name at the top level, for tensors on a GPU."""
    text = f"As ``fastdl.{kind.__name__}``, on the current GPU."
    body = {"dtype": kind.dtype, "on_gpu": True, "__doc__": text, "__module__": "fastdl.cuda"}
    return type(kind)(kind.__name__, (), body)


BoolTensor, ByteTensor = _on_gpu(typed.BoolTensor), _on_gpu(typed.ByteTensor)
CharTensor, ShortTensor = _on_gpu(typed.CharTensor), _on_gpu(typed.ShortTensor)
IntTensor, LongTensor = _on_gpu(typed.IntTensor), _on_gpu(typed.LongTensor)
HalfTensor, FloatTensor = _on_gpu(typed.HalfTensor), _on_gpu(typed.FloatTensor)
DoubleTensor = _on_gpu(typed.DoubleTensor)

__all__ = [
    "BoolTensor",
    "ByteTensor",
    "CharTensor",
    "DoubleTensor",
    "FloatTensor",
    "HalfTensor",
    "IntTensor",
    "LongTensor",
    "ShortTensor",
]
