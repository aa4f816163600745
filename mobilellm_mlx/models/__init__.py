"""Numbers: configuration, network and caches. Knows nothing of files, text or terminals."""

from mobilellm_mlx.models.cache import KVCache
from mobilellm_mlx.models.config import LayerConfig, ModelConfig, RopeConfig
from mobilellm_mlx.models.families import build_config
from mobilellm_mlx.models.network import LanguageModel

__all__ = [
    "KVCache",
    "LanguageModel",
    "LayerConfig",
    "ModelConfig",
    "RopeConfig",
    "build_config",
]
