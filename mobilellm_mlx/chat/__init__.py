"""The assistant: conversations and, later, where they are kept."""

from mobilellm_mlx.chat.session import Session

__all__ = ["Session"]
