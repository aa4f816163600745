"""Small language models that live on a Mac: the MobileLLM family on MLX.

Importing this package does nothing: no MLX, no files, no network. Import the room you need, for
example ``from mobilellm_mlx.engine import Engine``.
"""

__version__ = "0.1.0"
