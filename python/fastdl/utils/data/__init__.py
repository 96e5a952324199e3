"""Datasets, samplers and :class:`DataLoader`; see ``torch.utils.data``."""

from fastdl.utils.data.collate import *
from fastdl.utils.data.dataloader import *
from fastdl.utils.data.dataset import *
from fastdl.utils.data.sampler import *
from fastdl.utils.data.worker import *
