"""`python -m keras_norms.cli` is `keras-norms`."""

import sys

from keras_norms.cli.main import main

sys.exit(main())
