"""A model and its adapter become one model."""
