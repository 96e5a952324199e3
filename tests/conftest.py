"""Shared fixtures."""

from __future__ import annotations

import os

# torch and NumPy threads beside ours would measure the machine, not the code; set before either is imported.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
