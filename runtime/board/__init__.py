"""What this board is, and what was measured on it."""
