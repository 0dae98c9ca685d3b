"""What happens to a package once it is built: it is signed, and goes to where devices get it."""
