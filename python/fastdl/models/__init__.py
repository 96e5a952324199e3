"""Models of the textbooks, built from the layers.

Those that torchvision has carry its names, arguments and ``state_dict`` keys, so its weights load:
``resnet18().load_state_dict(fastdl.load("resnet18.pth"))``. The functions of this package, not those of its modules
(``fastdl.models.resnet``), take torchvision's ``weights=None``, ``pretrained=False`` and ``progress``.
"""

from __future__ import annotations

from fastdl import absent as _absent
from fastdl.models.alexnet import *
from fastdl.models.convnext import *
from fastdl.models.densenet import *
from fastdl.models.lenet import *
from fastdl.models.mobilenet import *
from fastdl.models.resnet import *
from fastdl.models.unet import *
from fastdl.models.vgg import *
from fastdl.models.vision_transformer import *

# Here: the files of the models need nothing that PyTorch has not, under which bench/ runs them.
globals().update(_absent.untrained(globals()))
