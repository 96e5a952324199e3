"""Layers, losses and containers under PyTorch's names."""

from fastdl.nn import functional as functional
from fastdl.nn import grad as grad
from fastdl.nn import init as init
from fastdl.nn.modules import *
from fastdl.nn.parameter import *

import fastdl.nn.attention  # isort: skip - after the star, which brings modules of these names
import fastdl.nn.parallel  # isort: skip
from fastdl.nn import utils as utils  # isort: skip - builds on the modules
