"""Optimizers under PyTorch's names; learning-rate schedules in ``lr_scheduler``, averaged models in ``swa_utils``."""

from fastdl.optim.adafactor import *
from fastdl.optim.adagrad import *
from fastdl.optim.adam import *
from fastdl.optim.lbfgs import *
from fastdl.optim.muon import *
from fastdl.optim.optimizer import Optimizer as Optimizer
from fastdl.optim.rprop import *
from fastdl.optim.sgd import *
from fastdl.optim.sparse import *

from fastdl.optim import lr_scheduler as lr_scheduler  # isort: skip - build on the names above
from fastdl.optim import swa_utils as swa_utils  # isort: skip
from fastdl.paths import lead_to  # isort: skip

lead_to(__name__, "adadelta adam adamax adamw asgd nadam radam rmsprop sgd")
