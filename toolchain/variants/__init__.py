"""How a checkpoint becomes a variant for each backend."""
