"""Adapters: small trained changes of a model, in files that mlx-lm reads and writes as well.

What is named here imports no MLX, so that a list of adapters is quick. ``files`` reads and writes
their tensors, ``wearing`` puts them on a network and takes them off.
"""

from mobilellm_mlx.adapters.identity import fits, model_sha256, require_fit
from mobilellm_mlx.adapters.record import AdapterInfo, read_info
from mobilellm_mlx.adapters.registry import Registry

__all__ = ["AdapterInfo", "Registry", "fits", "model_sha256", "read_info", "require_fit"]
