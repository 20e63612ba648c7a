"""What is kept: accounts, keys and destinations, their credentials sealed."""
