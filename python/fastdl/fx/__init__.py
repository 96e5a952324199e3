"""Programs as graphs (``torch.fx``), of which there is what packages ask for at import: see docs/differences.md."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

from fastdl.paths import lead_to

__all__ = ["GraphModule", "Proxy", "Tracer", "symbolic_trace", "wrap"]


def _refuse(name: str) -> NoReturn:
    raise RuntimeError(f"fx.{name}: programs are not traced; models run as they are (docs/differences.md)")


class GraphModule:
    """A module made of a graph, for ``isinstance``: an error when made."""

    def __init__(self, *args: Any, **options: Any) -> None:
        _refuse(type(self).__name__)


class Proxy(GraphModule):
    """A value that is not known yet: an error when made."""


class Tracer(GraphModule):
    """What makes graphs: can be subclassed, an error when made."""


def symbolic_trace(root: Any, concrete_args: Any = None) -> NoReturn:
    """An error."""
    _refuse("symbolic_trace")


def wrap(fn_or_name: Any) -> Any:
    """The function itself: nothing is traced, so none needs to be left alone."""
    return fn_or_name


def get_proxy_mode() -> None:
    """None: nothing is traced."""
    return


def is_fx_tracing() -> bool:
    """False."""
    return False


lead_to(__name__, "_symbolic_trace graph_module proxy experimental")
lead_to(__name__, "proxy_tensor", f"{__name__}.experimental")
sys.modules[f"{__name__}.experimental"].__path__ = []
