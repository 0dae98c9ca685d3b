"""Many boards at once: `edgeqwen fleet`."""
