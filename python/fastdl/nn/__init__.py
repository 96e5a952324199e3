"""Layers, losses and containers under PyTorch's names."""

from fastdl.nn import functional, init
from fastdl.nn.modules import *
from fastdl.nn.modules.module import Module
from fastdl.nn.parameter import Buffer, Parameter
