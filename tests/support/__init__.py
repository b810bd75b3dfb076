"""What the core tests stand on: server processes, a network that fails, counters of what is left behind."""
