"""`python -m alignjax.cli`."""

import sys

from alignjax.cli import main

if __name__ == "__main__":
    sys.exit(main())
