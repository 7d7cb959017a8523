"""Commands about a run: follow it, show its status, control it, and list or prune runs."""
