"""Everything that this worker connects to: which addresses, by which sessions, and what is noted of it."""
