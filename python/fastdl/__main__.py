"""``python -m fastdl``: the ``fastdl`` command."""

import sys

from fastdl.cli import main

sys.exit(main())
