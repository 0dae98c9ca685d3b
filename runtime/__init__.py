"""The device side: loads a package and serves it over gRPC."""
