"""``python -m apirule``."""

from apirule.cli import main

if __name__ == "__main__":
    main()
