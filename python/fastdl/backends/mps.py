"""``torch.backends.mps``: not there."""


def is_available() -> bool:
    """False: tensors live on CPUs and NVIDIA GPUs."""
    return False


def is_built() -> bool:
    """False, see :func:`is_available`."""
    return False
