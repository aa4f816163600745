"""How fast a model is, on this machine, and beside other programs."""
