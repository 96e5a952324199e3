"""``fastdl.signal.windows``; see ``torch.signal``."""

from fastdl.signal import windows as windows
