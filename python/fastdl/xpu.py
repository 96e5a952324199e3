"""``torch.xpu``: Intel's GPUs, of which fastdl knows nothing. Programs ask whether there is one."""

from fastdl.mps import device_count as device_count
from fastdl.mps import empty_cache as empty_cache
from fastdl.mps import is_available as is_available
from fastdl.mps import manual_seed as manual_seed

manual_seed_all = manual_seed
