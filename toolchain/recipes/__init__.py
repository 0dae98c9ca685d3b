"""What Olive is to do. Pure."""
