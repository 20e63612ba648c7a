"""The demo: Dropoff and an object store that checks signatures and permissions, on this machine alone."""
