"""Whatever dies, breaks or restarts under load: what was told is so, nothing is lost, and no file is forgotten."""
