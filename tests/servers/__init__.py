"""Real servers beside the local engine: `make test-servers`."""
