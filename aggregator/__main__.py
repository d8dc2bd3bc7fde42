"""Makes `python -m aggregator` the same command as `aggregator`. It decides nothing."""

import sys

from aggregator.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
