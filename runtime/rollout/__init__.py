"""Switches of the package that serves: tried before, on trial after, undone if they fail."""
