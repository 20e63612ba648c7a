"""The database: accounts, keys, destinations with their credentials sealed, and idempotency keys. The only SQL."""
