"""What an API process and a worker say to each other, sealed: keys, the job and its reply, the broker."""
