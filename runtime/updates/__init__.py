"""Packages of a device from where they are to where they serve: what `edgeqwen install` and its kin do."""
