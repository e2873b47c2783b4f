"""``python -m flowrra`` is the ``flowrra`` command."""

from __future__ import annotations

import sys

from flowrra.command.main import main

if __name__ == "__main__":
    sys.exit(main())
