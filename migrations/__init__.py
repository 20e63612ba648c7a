"""The schema's history; `dropoff migrate` brings a database to its head."""
