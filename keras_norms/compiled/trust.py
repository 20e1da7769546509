"""Who could have written a file, or replaced it: decides whether it may be loaded as code.

Besides its owner and those with write permission, that is whoever can write to a folder above it.
"""

import os
import stat
from pathlib import Path


def trusted_users(*code):
    """Root, this user, and everybody who can change the given files: they run here already."""
    return {0, os.geteuid()}.union(*(_editors(os.stat(path)) for path in code))


def stranger(status, trusted):
    """Who else can change what `os.stat` describes, such as `"user 1000"`; None if nobody can."""
    strangers = sorted(map(str, _editors(status) - trusted))
    if not strangers:
        return None
    return f"user {strangers[0]}" if strangers[0].isdigit() else strangers[0]


def up_to_home(folder):
    """The folder and those above it: whoever can write to one can replace what is below.

    The user's home is the last: whoever can replace that controls the user's shell anyway.
    """
    home = Path(os.path.realpath(os.path.expanduser("~")))
    way = [folder, *folder.parents]
    return way[: way.index(home) + 1] if home in way else way


def _editors(status):
    """Who can change a file or the entries of a folder: user ids, `"group 5"`, `"everybody"`."""
    editors = {status.st_uid}
    # The sticky bit, as on /tmp: users can only replace entries of their own.
    if stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX:
        return editors
    if status.st_mode & stat.S_IWGRP:
        editors.add(_members(status.st_gid))
    if status.st_mode & stat.S_IWOTH:
        editors.add("everybody")
    return editors


def _members(gid):
    """The user id if this is the private group that many systems give to each user, or a name."""
    import grp  # Not at the top: Windows has neither.
    import pwd

    try:
        group = grp.getgrgid(gid)
        user = pwd.getpwnam(group.gr_name)
    except KeyError:
        return f"group {gid}"
    is_private = user.pw_gid == gid and set(group.gr_mem) <= {user.pw_name}
    return user.pw_uid if is_private else f"group {gid}"
