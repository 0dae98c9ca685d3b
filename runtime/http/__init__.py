"""The OpenAI API over HTTP, in front of the same models."""
