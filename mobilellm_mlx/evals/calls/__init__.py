"""How well a model calls tools: the paper's measure, on data that anybody can get."""
