"""Olive passes of our own, and the environment that they run in."""
