"""The build backend: scikit-build-core's, and a wheel's files deflated again, as small as deflate can.

It writes wheels at zlib's level 6, without a setting for it. Zopfli takes 128 kB off 5 MB, in 8 seconds on two
cores; where a build without isolation has no Zopfli, zlib's level 9 takes 17 kB.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from scikit_build_core import build as _build
from scikit_build_core.build import *  # noqa: F403 - the other hooks

try:
    import zopfli.zlib as zopfli
except ImportError:
    zopfli = None

# Zopfli needs 1.5 seconds a megabyte of machine code. The hundreds of smaller files take as long again for a quarter of
# the gain, and larger modules hold CUDA's machine code, which is compressed already.
_ZOPFLI_BYTES = range(1_000_000, 8_000_000)


def _deflated(contents: bytes) -> bytes:
    if zopfli is not None and len(contents) in _ZOPFLI_BYTES:
        return zopfli.compress(contents, numiterations=1)[2:-4]  # without zlib's header and checksum
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(contents) + packer.flush()


class _Deflated:
    """Stands for zipfile's compressor of one file, whose deflated bytes are there already."""

    def __init__(self, deflated: bytes) -> None:
        self.deflated = deflated

    def compress(self, contents: bytes) -> bytes:
        return b""

    def flush(self) -> bytes:
        return self.deflated


def _deflate_again(wheel: Path) -> None:
    """Keeps names, dates, modes and contents, and so the hashes in RECORD."""
    smaller = wheel.with_suffix(".smaller")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(smaller, "w") as new:
        files = old.infolist()
        contents = [old.read(file) for file in files]
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # neither library holds the interpreter's lock
            largest_first = sorted(range(len(files)), key=lambda i: -len(contents[i]))
            packing = {i: pool.submit(_deflated, contents[i]) for i in largest_first}
            for i, (file, data) in enumerate(zip(files, contents, strict=True)):
                deflated = packing[i].result()
                if file.is_dir() or len(deflated) >= len(data):
                    new.writestr(file, data, zipfile.ZIP_STORED)
                    continue
                with new.open(file, "w") as packed:
                    packed._compressor = _Deflated(deflated)  # zipfile takes none but its own
                    packed.write(data)
    smaller.replace(wheel)


def build_wheel(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    name = _build.build_wheel(wheel_directory, config_settings, metadata_directory)
    _deflate_again(Path(wheel_directory, name))
    return name
