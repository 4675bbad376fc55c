"""``python -m blindharmony``."""

import sys

from blindharmony.cli.main import main

sys.exit(main())
