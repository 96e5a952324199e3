"""``torch.backends.mkldnn``: oneDNN is not used; fastdl's convolutions are its own."""

from collections.abc import Iterator
from contextlib import contextmanager

enabled = deterministic = allow_tf32 = False


def is_available() -> bool:
    """False: nothing goes by oneDNN."""
    return False


@contextmanager
def flags(enabled: bool = False, deterministic: bool = False, allow_tf32: bool = True) -> Iterator[None]:
    """Accepted and without effect."""
    yield
