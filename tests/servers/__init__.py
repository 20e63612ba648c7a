"""Real storage servers, and hosts that are none, for the tests."""
