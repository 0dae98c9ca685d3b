"""The loop of steps, and the state of each request in it."""
