"""Figures of the daemon for Prometheus, over HTTP."""
