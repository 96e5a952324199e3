"""Under the name of ``torch.nn.parallel``: :class:`DataParallel`, here one device's."""

from typing import Any

from fastdl.nn.modules.parallel import DataParallel, DistributedDataParallel
from fastdl.ops.join import cat
from fastdl.paths import lead_to
from fastdl.tensor import Tensor

__all__ = ["DataParallel", "DistributedDataParallel", "gather", "scatter"]


def scatter(inputs: Any, target_gpus: Any, dim: int = 0) -> Any:
    """``inputs`` in as many pieces as there are devices, each on its own: a list or tuple of pieces.

    Tensors are cut along ``dim``, in tuples, lists and dictionaries, too; what else there is goes into every piece.
    """
    if isinstance(inputs, Tensor):
        pieces = inputs.chunk(len(target_gpus), dim)
        return tuple(piece.to(target) for piece, target in zip(pieces, target_gpus, strict=False))
    if isinstance(inputs, (list, tuple)) and inputs:
        rows = zip(*(scatter(value, target_gpus, dim) for value in inputs), strict=False)
        if hasattr(inputs, "_fields"):
            return [type(inputs)(*row) for row in rows]
        return list(rows) if isinstance(inputs, tuple) else [list(row) for row in rows]
    if isinstance(inputs, dict) and inputs:
        columns = [scatter(value, target_gpus, dim) for value in inputs.values()]
        return [type(inputs)(zip(inputs, row, strict=True)) for row in zip(*columns, strict=False)]
    return [inputs for _ in target_gpus]


def gather(outputs: Any, target_device: Any, dim: int = 0) -> Any:
    """Pieces, one per device, as one on ``target_device``: tensors are joined along ``dim``."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return cat([output.to(target_device) for output in outputs], dim)
    if first is None:
        return None
    if isinstance(first, dict):
        return type(first)((key, gather([o[key] for o in outputs], target_device, dim)) for key in first)
    parts = [gather(list(column), target_device, dim) for column in zip(*outputs, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)


lead_to(__name__, "data_parallel distributed scatter_gather")
