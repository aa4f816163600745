"""Model directories of ours in the formats of other programs."""
