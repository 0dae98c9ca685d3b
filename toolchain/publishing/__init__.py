"""Packages to where devices find them."""
