"""Generated from the .proto files beside it; `make stubs` writes them anew."""
