"""Switches of libraries that PyTorch builds on, for scripts that set them; see ``torch.backends``.

Only TF32 on a GPU has something behind it. The rest is accepted: there is nothing to benchmark or to choose.
"""

from fastdl.backends import cpu as cpu
from fastdl.backends import cuda as cuda
from fastdl.backends import cudnn as cudnn
from fastdl.backends import mkl as mkl
from fastdl.backends import mkldnn as mkldnn
from fastdl.backends import mps as mps
from fastdl.backends import openmp as openmp
