"""Numbers: configuration, network and caches. Knows nothing of files, text or terminals."""

from mobilellm_mlx.models.cache import Cache, KVCache, RotatingKVCache, make_cache
from mobilellm_mlx.models.config import LayerConfig, ModelConfig, RopeConfig, TemperatureConfig
from mobilellm_mlx.models.families import build_config
from mobilellm_mlx.models.network import LanguageModel

__all__ = [
    "Cache",
    "KVCache",
    "LanguageModel",
    "LayerConfig",
    "ModelConfig",
    "RopeConfig",
    "RotatingKVCache",
    "TemperatureConfig",
    "build_config",
    "make_cache",
]
