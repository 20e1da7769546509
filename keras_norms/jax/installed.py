"""The JAX that is installed, and whether it is new enough."""

import importlib.metadata

OLDEST = (0, 8, 2)  # The first with all that is used: `jax.lax.pcast`, beside `jax.typeof`.


def check_jax():
    """Raises ImportError, in one sentence, where JAX is missing or too old."""
    rule = f"keras_norms.jax needs jax {'.'.join(map(str, OLDEST))} or newer."
    remedy = "Install one with `pip install -U jax`."
    try:
        version = importlib.metadata.version("jax")
    except importlib.metadata.PackageNotFoundError:
        raise ImportError(f"{rule} Received: none. {remedy}") from None
    if _numbers(version) < OLDEST:
        raise ImportError(f"{rule} Received: jax {version}. {remedy}")


def _numbers(version):
    """(0, 8, 2) of "0.8.2", and of "0.8.2.dev20260101"."""
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
