"""Tokenizers, from what checkpoints carry to what we write."""
