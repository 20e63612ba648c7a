"""The way to the workers and back; the only Redis and Celery on the app's side."""
