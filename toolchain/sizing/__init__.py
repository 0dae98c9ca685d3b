"""What fits: bytes from shapes, and the recipe or model chosen by them."""
