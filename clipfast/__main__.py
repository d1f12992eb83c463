"""`python -m clipfast` is `clipfast`."""

import sys

from clipfast.cli import main

sys.exit(main())
