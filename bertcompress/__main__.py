"""Lets `python -m bertcompress` do what the command `bertcompress` does."""

from bertcompress.cli import main

if __name__ == "__main__":
    main()
