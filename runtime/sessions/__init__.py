"""Models with a KV cache, one module a backend; the engine knows only `session`."""
