"""Measures a package on this board."""
