"""One file a provider: its SDK, its fault table, nothing else."""
