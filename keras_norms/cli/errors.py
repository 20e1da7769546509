"""What commands say of an error: one line, which a pipeline can read."""

import re
import textwrap

from keras_norms.printable import printable

LONGEST = 400  # Keras may put all of a config into one line.


def sentence(error):
    """The meaningful line of an error; Keras puts others around it, in colours."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split("\n")
    lines = [line.strip() for line in lines if line.strip()]
    telling = [line for line in lines if not line.startswith("Exception encountered")]
    first = printable((telling or lines or [type(error).__name__])[0])
    return textwrap.shorten(first, LONGEST, placeholder=" …")
