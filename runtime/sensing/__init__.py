"""Reads the board from procfs and sysfs: heat, throttling, power, load, memory, graphics, disks, network."""
