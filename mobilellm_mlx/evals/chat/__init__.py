"""Conversations to be judged elsewhere: MT-Bench's questions, answered and written down."""
