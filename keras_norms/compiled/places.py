"""Where a compiled library may be: in the package, or in the cache that `keras-norms build` fills.

Nothing is loaded from other folders, nor from those that other users can write to.
"""

import os
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

from keras_norms.compiled.library_files import Refused, refuse_strangers
from keras_norms.compiled.trust import trusted_users, up_to_home
from keras_norms.printable import printable
from keras_norms.version import __version__

PACKAGE_FOLDER = Path(__file__).parents[1] / "ops" / "_native"


class Places(NamedTuple):
    """The two places of the libraries for one framework.

    Attributes:
        folder: what their folders are called, such as `"tensorflow-2.21"`.
        command: what builds such a library.
    """

    folder: str
    command: str

    def package(self):
        """The folder that installing puts the library into."""
        return PACKAGE_FOLDER / self.folder

    def cache(self):
        """The folder that `keras-norms build` puts it into."""
        return cache_root() / f"{__version__}-{self.folder}"

    def check_cache(self):
        """Raises `Refused` if no library is loaded from the cache, because of who owns it."""
        folder = Path(os.path.realpath(self.cache()))
        try:
            _check_way(*_way_to_cache(folder))
        except Refused as refusal:
            message = f"In {printable(folder)} it {refusal.text(self.command)}"
            raise Refused(message, "") from refusal

    def find(self, load):
        """Loads the library of the package, or else of the cache.

        Args:
            load: called with a folder and with the users whose files may be loaded. Returns what it
                loaded, or None if the folder has no library.

        Returns:
            What `load` returned or else None, the reasons why libraries were refused, and why there
            is none to refuse.
        """
        if sys.platform != "linux":
            return None, [], "The compiled library is for Linux."
        reason = f"The compiled library is not built. Build it with `{self.command}`."
        refusals = []
        for place, way_to in ((self.package, _way_to_package), (self.cache, _way_to_cache)):
            try:
                # Links are resolved first, so that the folder checked is the one loaded from.
                folder = Path(os.path.realpath(place()))
                if not folder.is_dir():
                    continue
                way, trusted = way_to(folder)
                _check_way(way, trusted)
                found = load(folder, trusted)
            except Refused as refusal:
                message = refusal.text(self.command)
                refusals.append(f"The compiled library in {printable(folder)} {message}")
            except OSError as error:
                reason = f"The compiled library cannot be looked for: {printable(error)}."
            else:
                if found is not None:
                    return found, refusals, reason
        return None, refusals, reason


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


def _way_to_package(folder):
    """The folders to check, and whom to trust: also those who can change our Python files."""
    return (PACKAGE_FOLDER, folder), trusted_users(__file__, PACKAGE_FOLDER.parent)


def _way_to_cache(folder):
    return up_to_home(folder), trusted_users()


def _check_way(way, trusted):
    """Raises `Refused` if somebody who is not trusted can change one of the folders."""
    for part in way:
        if part.exists():
            refuse_strangers(part, os.stat(part), trusted)
