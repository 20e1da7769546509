"""Text from a file, made safe to print."""


def printable(text):
    r"""`text` with control characters and invisible ones escaped.

    A name in a model file may hold anything: colours, the title of the window, a return that
    overwrites the line, letters that run from right to left. Use it wherever such text is printed
    or raised.

    >>> printable("norm\x1b[2J\u202e")
    'norm\\x1b[2J\\u202e'
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text)
    )


def called(thing):
    """A layer or a model in a message: its class and its name.

    >>> called(keras.layers.Dense(1, name="head"))
    "Dense 'head'"
    """
    return f"{type(thing).__name__} '{printable(thing.name)}'"
