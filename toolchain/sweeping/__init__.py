"""Recipes compared on one checkpoint."""
