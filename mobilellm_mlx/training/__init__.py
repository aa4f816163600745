"""Fine-tuning: examples, the one loop, checkpoints that can be gone on from, runs that are kept."""
