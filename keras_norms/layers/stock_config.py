"""Configs of stock Keras `BatchNormalization` layers, read as configs of ours."""

import warnings


def stock_config(owner, config):
    """Translates what stock Keras writes into the config of a `BatchNormalization`.

    Raises:
        ValueError: for options of stock Keras that are another layer here, or none.
    """
    config = dict(config)
    if config.pop("renorm", False):
        raise ValueError(
            f"{owner}: a config with `renorm=True` is one of BatchRenormalization. "
            f"Received: renorm=True in the config of {config.get('name', 'a layer')!r}."
        )
    config.pop("renorm_clipping", None)
    config.pop("renorm_momentum", None)
    if config.pop("adjustment", None) is not None:
        raise ValueError(
            f"{owner}: `adjustment` of Keras 2 has no counterpart. "
            f"Received: an adjustment for {config.get('name')!r}."
        )
    if config.pop("fused", None):
        warnings.warn(
            f"{owner}: `fused` is ignored; the fastest kernels are always used.", stacklevel=3
        )
    axis = config.get("axis")
    if isinstance(axis, (list, tuple)) and len(axis) == 1:
        config["axis"] = axis[0]
    return config


def renorm_config(owner, config):
    """Translates a stock config with `renorm=True` into one of a `BatchRenormalization`.

    Stock Keras keeps a second momentum, for what inference uses, and a least r of its own; both
    are as in the paper here, and a warning says so where that changes something.
    """
    config = dict(config)
    if not config.pop("renorm", False):
        if "renorm_momentum" in config:
            raise ValueError(
                f"{owner}: a stock config must have `renorm=True`; without it, it is one of "
                f"BatchNormalization. Received: the config of {config.get('name', 'a layer')!r}."
            )
        return config
    clipping = dict(config.pop("renorm_clipping", None) or {})
    r_max = config["r_max"] = clipping.get("rmax", float("inf"))
    config["d_max"] = clipping.get("dmax", float("inf"))
    momentum = config.pop("renorm_momentum", 0.99)
    if momentum != config.get("momentum", 0.99):
        warnings.warn(
            f"{owner}: one momentum serves training and inference; `momentum` "
            f"{config.get('momentum', 0.99)} is used, `renorm_momentum` {momentum} is not.",
            stacklevel=3,
        )
    if clipping.get("rmin", 0.0) not in (0.0, 1.0 / r_max) or (
        "rmin" not in clipping and "rmax" in clipping
    ):
        warnings.warn(
            f"{owner}: r is clipped to [1 / r_max, r_max]; rmin={clipping.get('rmin', 0.0)} is "
            "not used.",
            stacklevel=3,
        )
    return config
