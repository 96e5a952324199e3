"""The same as _cpu_baseline, another level. Written by tools/make_stubs.py."""

from fastdl._cpu_baseline import *
