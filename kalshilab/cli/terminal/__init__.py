"""Shared parts of the commands: options, the lines of a terminal, and interrupts."""
