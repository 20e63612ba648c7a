"""The rules of the contract, without HTTP: what may be created, changed and seen, and when it is verified."""
