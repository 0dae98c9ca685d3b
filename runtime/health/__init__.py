"""Looks after what runs: whether it gets on, and how hot the board may get."""
