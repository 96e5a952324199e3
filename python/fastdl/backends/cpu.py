"""``torch.backends.cpu``: which instructions the kernels use."""

from fastdl.kernels import cpu


def get_cpu_capability() -> str:
    """``"AVX512"``, ``"AVX2"`` or ``"DEFAULT"``: the level of the kernels in use, see :func:`fastdl.show_config`.

    Example:
        >>> import fastdl
        >>> fastdl.backends.cpu.get_cpu_capability() in ("AVX512", "AVX2", "DEFAULT")
        True
    """
    return {"avx512": "AVX512", "avx2": "AVX2"}.get(str(cpu.level), "DEFAULT")
