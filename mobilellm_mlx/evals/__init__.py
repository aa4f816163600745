"""Judging models: tasks, what they ask, how answers are scored, results that can be compared."""
