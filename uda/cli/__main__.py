"""``python -m uda.cli``."""

from uda.cli import main

if __name__ == "__main__":
    main()
