"""What belongs into a report: ``python -m fastdl.utils.collect_env``; see ``torch.utils.collect_env``."""

import platform
import sys

from fastdl.runtime import config


def get_pretty_env_info() -> str:
    """:func:`fastdl.show_config`'s lines, and the system's and Python's versions.

    Example:
        >>> from fastdl.utils.collect_env import get_pretty_env_info
        >>> "Python" in get_pretty_env_info()
        True
    """
    return f"{config()}\nsystem   {platform.platform()}\nPython   {sys.version.split()[0]}"


def main() -> None:
    """Print :func:`get_pretty_env_info`."""
    print(get_pretty_env_info())


if __name__ == "__main__":
    main()
