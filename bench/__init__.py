"""Speed, always as a ratio between two things that ran side by side; nothing here is a test."""
