"""The older name of :func:`fastdl.hub.load_state_dict_from_url`; see ``torch.utils.model_zoo``."""

from fastdl.hub import load_state_dict_from_url as load_state_dict_from_url
from fastdl.hub import load_state_dict_from_url as load_url

__all__ = ["load_url"]
