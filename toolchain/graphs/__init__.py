"""ONNX graphs after Olive: rewired, measured."""
