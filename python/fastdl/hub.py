"""Files of parameters from the web; see ``torch.hub.load_state_dict_from_url``. Code is never fetched."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlparse
from urllib.request import Request, urlopen

from fastdl.errors import ArgumentError

__all__ = ["download_url_to_file", "get_dir", "load", "load_state_dict_from_url", "set_dir"]

# A file's name ends with the beginning of its SHA-256: resnet18-bfd8deac.pth.
HASH_REGEX = re.compile(r"-([a-f0-9]{8,})\.")
_directory: str | None = None


def get_dir() -> str:
    """Where files are kept: what :func:`set_dir` set, else ``$FASTDL_HOME/hub`` or ``~/.cache/fastdl/hub``."""
    if _directory is not None:
        return _directory
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("FASTDL_HOME", os.path.join(cache, "fastdl"))
    return os.path.join(os.path.expanduser(home), "hub")


def _get_torch_home() -> str:
    """The directory in which that of :func:`get_dir` is."""
    return os.path.dirname(get_dir())


def set_dir(d: str | os.PathLike[str]) -> None:
    """Keep files in the directory ``d``."""
    global _directory
    _directory = os.path.expanduser(os.fspath(d))


def download_url_to_file(url: str, dst: str, hash_prefix: str | None = None, progress: bool = True) -> None:
    """Fetch ``url`` into the file ``dst``, which appears when it is complete.

    Args:
        url: ``https://``, ``http://`` or ``file://``.
        dst: path of the file, in a directory that exists.
        hash_prefix: how the SHA-256 of the content begins, in hexadecimal digits. A RuntimeError if it does not.
        progress: print one line to standard error.
    """
    if progress:
        print(f"Downloading: {url} to {dst}", file=sys.stderr)
    sha256 = hashlib.sha256()
    number, part = tempfile.mkstemp(suffix=".part", dir=os.path.dirname(os.path.abspath(dst)))
    try:
        with (
            open(number, "wb") as file,
            urlopen(Request(url, headers={"User-Agent": "fastdl.hub"})) as source,
        ):
            while block := source.read(1 << 17):
                sha256.update(block)
                file.write(block)
        digest = sha256.hexdigest()
        if hash_prefix is not None and not digest.startswith(hash_prefix):
            raise RuntimeError(
                f'download_url_to_file: invalid hash value (expected "{hash_prefix}", got "{digest}") of {url}'
            )
        os.replace(part, dst)
    finally:
        Path(part).unlink(missing_ok=True)


def load_state_dict_from_url(
    url: str,
    model_dir: str | None = None,
    map_location: Any = None,
    progress: bool = True,
    check_hash: bool = False,
    file_name: str | None = None,
    weights_only: bool = False,
) -> Any:
    """:func:`fastdl.load` of the file at ``url``, which is fetched once and kept.

    Args:
        url: of a file that :func:`fastdl.load` reads, PyTorch's too.
        model_dir: where it is kept, by default ``checkpoints`` in :func:`get_dir`.
        map_location: as for ``load``.
        progress: print one line to standard error when the file is fetched.
        check_hash: the name ends with a dash and the first digits of the content's SHA-256, as in
            ``resnet18-f37072fd.pth``: compare them.
        file_name: under which it is kept, by default the last part of the URL's path.
        weights_only: only values are ever read, whatever this says.

    Example:
        >>> import fastdl, pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as d:
        ...     path = pathlib.Path(d, "w.pt")
        ...     fastdl.save({"weight": fastdl.ones(2)}, path)
        ...     fastdl.hub.load_state_dict_from_url(path.as_uri(), model_dir=d, progress=False)
        {'weight': tensor([1., 1.])}
    """
    from fastdl.serialization import load

    directory = os.path.join(get_dir(), "checkpoints") if model_dir is None else model_dir
    os.makedirs(directory, exist_ok=True)
    name = file_name or os.path.basename(urlparse(url).path)
    if not name:
        raise ArgumentError(f"load_state_dict_from_url: {url!r} names no file; pass file_name=")
    path = os.path.join(directory, name)
    if not os.path.exists(path):
        found = HASH_REGEX.search(name) if check_hash else None
        download_url_to_file(url, path, found and found.group(1), progress)
    return load(path, map_location=map_location)


def load(*args: Any, **options: Any) -> NoReturn:
    """A RuntimeError: code is not fetched."""
    raise RuntimeError(
        "hub.load: programs are not fetched and run; install the package that has the model, and load its parameters "
        "with load_state_dict_from_url"
    )
