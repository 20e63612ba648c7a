"""What jobs and workers are doing, written and read in Redis; nothing is decided by it."""
