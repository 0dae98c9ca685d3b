"""Packages that are loaded, and how they come and go."""
