"""`python -m app.cli` is the command `dropoff`."""

from app.cli.commands import main

if __name__ == "__main__":
    main()
