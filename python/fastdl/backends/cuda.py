"""``torch.backends.cuda``: how products are computed on a GPU."""

from fastdl.devices import is_built as is_built
from fastdl.kernels import precisions


class _Matmul:
    """The older name of :func:`fastdl.set_float32_matmul_precision`."""

    @property
    def allow_tf32(self) -> bool:
        """May float32 products on a GPU be computed in TF32?"""
        return precisions.matmul != "highest"

    @allow_tf32.setter
    def allow_tf32(self, allow: bool) -> None:
        precisions.matmul = "high" if allow else "highest"


matmul = _Matmul()
