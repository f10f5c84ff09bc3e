"""The same on all machines of a Ray cluster."""
