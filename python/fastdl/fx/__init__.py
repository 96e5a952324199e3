"""Programs as graphs that can be read, changed and run; see ``torch.fx``.

Example:
    >>> from fastdl import fx, nn
    >>> traced = fx.symbolic_trace(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))
    >>> [(node.op, node.target) for node in traced.graph.nodes]
    [('placeholder', 'input'), ('call_module', '0'), ('call_module', '1'), ('output', 'output')]
"""

from __future__ import annotations

import sys

from fastdl.fx.graph import *
from fastdl.fx.graph_module import *
from fastdl.fx.node import *
from fastdl.fx.proxy import *
from fastdl.fx.tracer import *
from fastdl.paths import lead_to


def get_proxy_mode() -> None:
    """None: the functions of operations are traced, not the operations."""


lead_to(__name__, "_symbolic_trace interpreter experimental")
lead_to(__name__, "proxy_tensor", f"{__name__}.experimental")
sys.modules[f"{__name__}.experimental"].__path__ = []
