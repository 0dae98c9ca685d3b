"""Places the daemon on a board as a service of systemd."""
