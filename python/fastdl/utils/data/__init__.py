"""Datasets, samplers and :class:`DataLoader`; see ``torch.utils.data``."""

from fastdl.paths import lead_to
from fastdl.utils.data.collate import *
from fastdl.utils.data.dataloader import *
from fastdl.utils.data.dataset import *
from fastdl.utils.data.sampler import *
from fastdl.utils.data.worker import *

lead_to(__name__, "distributed")
