"""What the daemon, its engines and its board are doing, as readings and as messages."""
