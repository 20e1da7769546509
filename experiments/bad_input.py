"""Bad input to a study: one sentence for the user, and exit status 2."""

import contextlib


class BadInput(Exception):
    """One sentence for the user."""


def require(holds, sentence):
    if not holds:
        raise BadInput(sentence)


@contextlib.contextmanager
def reports_bad_results(path):
    """Turns what results that somebody edited raise into one sentence."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{path} is not a results file ({error!r}).") from error
