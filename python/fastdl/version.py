"""What programs print of their environment; see ``torch.version``. ``cuda``: fastdl is built for no certain one."""

from fastdl import __version__ as __version__

cuda: str | None = None
hip: str | None = None
git_version: str | None = None
debug = False
