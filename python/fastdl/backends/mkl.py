"""``torch.backends.mkl``: not used."""


def is_available() -> bool:
    """False: fastdl's products are its own."""
    return False
