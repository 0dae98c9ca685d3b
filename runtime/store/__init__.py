"""The packages of a device: two slots, a history, and nothing that a power cut could leave half done."""
