"""Helpers around modules and gradients; see ``torch.nn.utils``."""

from fastdl.nn.utils import parametrizations as parametrizations
from fastdl.nn.utils import parametrize as parametrize
from fastdl.nn.utils import prune as prune
from fastdl.nn.utils import rnn as rnn
from fastdl.nn.utils.clip_grad import *
from fastdl.nn.utils.convert_parameters import *
from fastdl.nn.utils.fusion import *
from fastdl.nn.utils.spectral_norm import *
from fastdl.nn.utils.weight_norm import *
