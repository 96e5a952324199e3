"""``torch.__config__``: what this installation is, as text."""

from fastdl.runtime import config, get_num_threads


def show() -> str:
    """What :func:`fastdl.show_config` prints.

    Example:
        >>> import fastdl
        >>> fastdl.__config__.show().startswith("fastdl")
        True
    """
    return config()


def parallel_info() -> str:
    """How many threads compute, in a line."""
    return f"fastdl's thread pool: {get_num_threads()} threads"
