"""The user's cache, which `keras-norms build` builds into, and whether a folder can be trusted."""

import os
import warnings
from pathlib import Path

from keras_norms.compiled.library_files import refuse_strangers


def check_way(way, trusted):
    """Raises `Refused` if somebody who is not trusted can change one of the folders."""
    for part in way:
        if part.exists():
            refuse_strangers(part, os.stat(part), trusted)


def cache_root():
    """The user's cache folder. Relative paths are ignored, as the XDG specification requires."""
    own = os.environ.get("KERAS_NORMS_CACHE")
    for chosen in (own, os.environ.get("XDG_CACHE_HOME"), "~/.cache"):
        path = os.path.expanduser(chosen or "")
        if os.path.isabs(path):
            return Path(path) / "keras_norms"
        if own and chosen is own:
            warnings.warn(
                f"KERAS_NORMS_CACHE must be an absolute path; it is ignored. Received: {own!r}.",
                stacklevel=2,
            )
    raise FileNotFoundError("there is no home folder; set KERAS_NORMS_CACHE to an absolute path")
