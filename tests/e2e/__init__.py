"""The whole product, with its processes stopped, frozen, started again and searched."""
