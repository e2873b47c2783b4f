"""``python -m flowrra_exporter`` is the same as ``flowrra-exporter``."""

import sys

from flowrra_exporter.cli import main

if __name__ == "__main__":
    sys.exit(main())
