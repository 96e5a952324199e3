"""``torch.backends.openmp``: not used."""


def is_available() -> bool:
    """False: fastdl's threads are its own."""
    return False
