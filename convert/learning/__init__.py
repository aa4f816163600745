"""Rounding that is learned from text, and the text."""
