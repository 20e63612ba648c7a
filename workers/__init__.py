"""What Celery runs: the upload and the delete that prove a destination."""
