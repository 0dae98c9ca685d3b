"""Whose packages this machine takes: trust roots, and signatures verified against them."""
