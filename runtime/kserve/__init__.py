"""The Open Inference Protocol (KServe v2) in front of the same models."""
