"""``python -m uda.presets NAMES``."""

import sys

from uda.presets import main

if __name__ == "__main__":
    main(sys.argv[1:])
