"""What commands say of an error: one line, which a pipeline can read."""

import re
import textwrap

from keras_norms.printable import printable

NEEDS_NONE = " For JAX, which needs none, `keras_norms.jax.native_status()` says what runs."
LONGEST = 400  # Keras may put all of a config into one line.


def cannot_import(error):
    """What to do about an ImportError; those of keras_norms say so themselves."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return printable(error)
    name = printable(error.name)
    needs_none = NEEDS_NONE if error.name == "tensorflow" else ""
    return f"{name} is not installed: `pip install {name}`.{needs_none}"


def sentence(error):
    """The meaningful line of an error; Keras puts others around it, in colours."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split("\n")
    lines = [line.strip() for line in lines if line.strip()]
    telling = [line for line in lines if not line.startswith("Exception encountered")]
    first = printable((telling or lines or [type(error).__name__])[0])
    return textwrap.shorten(first, LONGEST, placeholder=" …")
