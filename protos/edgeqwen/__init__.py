"""The public contract of edgeqwen: the gRPC stubs in `edgeqwen.v1` and the client in `edgeqwen.client`."""
