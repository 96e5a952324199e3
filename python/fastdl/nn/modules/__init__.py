"""Layers, by family."""

from typing import Any as _Any

from fastdl.nn.modules.activation import *
from fastdl.nn.modules.adaptive_softmax import *
from fastdl.nn.modules.attention import *
from fastdl.nn.modules.container import *
from fastdl.nn.modules.conv import *

# What programs ask isinstance of.
from fastdl.nn.modules.conv import _ConvNd as _ConvNd
from fastdl.nn.modules.conv_lstm import *
from fastdl.nn.modules.distance import *
from fastdl.nn.modules.dropout import *
from fastdl.nn.modules.dropout import _Dropout as _DropoutNd
from fastdl.nn.modules.embedding import *
from fastdl.nn.modules.flatten import *
from fastdl.nn.modules.fractional_pool import *
from fastdl.nn.modules.lazy import *
from fastdl.nn.modules.linear import *
from fastdl.nn.modules.linear_cross_entropy import *
from fastdl.nn.modules.loss import *
from fastdl.nn.modules.module import *
from fastdl.nn.modules.norm import *
from fastdl.nn.modules.norm import _BatchNorm as _BatchNorm
from fastdl.nn.modules.norm import _ChannelNorm as _NormBase
from fastdl.nn.modules.norm import _InstanceNorm as _InstanceNorm
from fastdl.nn.modules.parallel import *
from fastdl.nn.modules.pool import *
from fastdl.nn.modules.position import *
from fastdl.nn.modules.resample import *
from fastdl.nn.modules.rnn import *
from fastdl.nn.modules.rnn_cell import *
from fastdl.nn.modules.softmax import *
from fastdl.nn.modules.transformer import *
from fastdl.paths import lead_to

lead_to(
    __name__,
    """activation adaptive batchnorm channelshuffle conv distance dropout flatten fold instancenorm lazy linear loss
    normalization padding pixelshuffle pooling sparse transformer upsampling""",
)


def __getattr__(name: str) -> _Any:
    """``utils`` when somebody asks for it: the star in ``nn`` would take it for ``nn.utils``."""
    if name == "utils":
        from importlib import import_module

        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
