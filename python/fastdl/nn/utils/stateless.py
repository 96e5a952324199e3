"""The older home of :func:`fastdl.func.functional_call`; see ``torch.nn.utils.stateless``."""

from fastdl.func import functional_call as functional_call
