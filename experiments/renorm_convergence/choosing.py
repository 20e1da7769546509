"""The pilot: a learning rate and ramps for each method and setting, on held-out training images."""

from experiments.renorm_convergence.protocol import FIRST_RATE, PAPER, PILOT_SEED, RAMPS, RATES

NO_RAMPS = "none"


def rate_trials(runs, settings, methods):
    """Keys of trainings to do next, with the paper's ramps for BRN; none once rates are found.

    The first rate, then the neighbours of the best one, until both of them have been tried.
    """
    return [
        ("pilot", setting, method, PAPER if method == "BRN" else NO_RAMPS, rate, PILOT_SEED)
        for setting in settings
        for method in methods
        for rate in _next_rates(trials(runs, setting, method))
    ]


def _next_rates(found):
    tried = {rate: accuracy for (ramps, rate), accuracy in found.items() if ramps in _FIRST_RAMPS}
    if not tried:
        return [FIRST_RATE]
    place = RATES.index(max(tried, key=tried.get))
    return [rate for rate in RATES[max(0, place - 1) : place + 2] if rate not in tried]


_FIRST_RAMPS = (PAPER, NO_RAMPS)


def ramp_trials(runs, settings, methods):
    """Keys of trainings: the other ramps of BRN, with the rate that was best with the paper's."""
    return [
        ("pilot", setting, "BRN", ramps, chosen(runs, setting, "BRN", [PAPER])[1], PILOT_SEED)
        for setting in settings
        if "BRN" in methods
        for ramps in RAMPS
        if ramps != PAPER
    ]


def trials(runs, setting, method):
    """What the pilot found: `{(name of the ramps, rate): held-out accuracy in percent}`."""
    found = {}
    for key, run in runs.items():
        match key.split("/"):
            case ["pilot", of_setting, of_method, ramps, rate, _] if (
                of_setting == setting and of_method == method
            ):
                found[ramps, float(rate)] = 100 * run["test_accuracy"][-1]
    return found


def chosen(runs, setting, method, among=None):
    """The ramps and the rate with the highest accuracy, of all ramps or those named `among`."""
    found = trials(runs, setting, method)
    return max((key for key in found if among is None or key[0] in among), key=found.get)
