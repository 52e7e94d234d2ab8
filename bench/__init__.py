"""How fast a pod gets its network, measured beside the reference plugins in one run: `make bench`."""
