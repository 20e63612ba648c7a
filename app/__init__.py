"""Dropoff: destinations for result files, each proven by an upload and a delete before it exists."""
