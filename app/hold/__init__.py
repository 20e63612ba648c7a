"""How a request of the front end waits for its job: admitted, handed in, watched over, answered."""
