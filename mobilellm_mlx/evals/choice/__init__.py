"""Questions with answers to choose from, judged by how likely a model finds each answer."""
