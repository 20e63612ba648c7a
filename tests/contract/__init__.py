"""One contract, passed by every type of destination."""
