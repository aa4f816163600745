"""The parts of the chat screen: data goes in, nested messages come out; none knows the engine."""
