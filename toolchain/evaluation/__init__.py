"""What a package is worth beside the float checkpoint."""
