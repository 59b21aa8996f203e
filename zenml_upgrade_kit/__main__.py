"""``python -m zenml_upgrade_kit`` is the ``zenml-upgrade`` command."""

import sys

from zenml_upgrade_kit.cli import main

sys.exit(main())
