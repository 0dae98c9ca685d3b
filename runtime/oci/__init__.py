"""Packages to and from OCI registries, OCI image layouts and folders."""
