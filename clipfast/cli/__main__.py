"""`python -m clipfast.cli` is `clipfast`."""

import sys

from clipfast.cli import main

sys.exit(main())
