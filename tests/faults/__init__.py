"""The workers' side by itself: providers, verification and guard against hosts that misbehave."""
