"""Generated stubs of the Open Inference Protocol; `make stubs` writes them from `inference.proto`."""
