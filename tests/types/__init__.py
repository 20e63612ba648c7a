"""What each type is tested with, one module a type; every table by type in the tests is made of these."""
