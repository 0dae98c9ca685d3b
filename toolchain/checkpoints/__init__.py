"""What goes in: checkpoints and adapters, found, looked at and converted."""
