"""Tokens: sampling, the token loop, and the way from ids to text."""

from mobilellm_mlx.decoding.generator import Generator

__all__ = ["Generator"]
