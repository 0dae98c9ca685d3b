"""From a configuration to a daemon that serves, and to its end."""
