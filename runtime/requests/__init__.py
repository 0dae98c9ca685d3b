"""From what a client sent to a request of the engine."""
