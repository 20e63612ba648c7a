"""The wire contract, call by call, status by status."""
