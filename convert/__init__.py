"""Foreign checkpoints in and out. A face of its own: only the command line composes it."""
