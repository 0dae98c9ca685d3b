"""The build host side: checkpoint in, quantized and evaluated package out."""
