"""The services on gRPC: calls in, events out."""
