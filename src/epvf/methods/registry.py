"""Names and methods. A new one is a module, a line here or an entry point, and a test."""

from typing import Any

from epvf.methods.base import Method
from epvf.registry import Registry

METHODS: Registry[Method] = Registry(
    "method",
    {
        "epvf": "epvf.methods.epvf:METHOD",
        "psvf": "epvf.methods.psvf:METHOD",
        "matched-openes": "epvf.methods.controls:MATCHED_OPENES",
        "ridge": "epvf.methods.controls:RIDGE",
        "ridge-replay": "epvf.methods.controls:RIDGE_REPLAY",
        "openes": "epvf.methods.evolution:OPENES",
        "pgpe": "epvf.methods.evolution:PGPE",
        "ars": "epvf.methods.evolution:ARS",
        "cmaes": "epvf.methods.evolution:CMAES",
        "sepcmaes": "epvf.methods.evolution:SEPCMAES",
        "randomsearch": "epvf.methods.evolution:RANDOMSEARCH",
        "ppo": "epvf.methods.agents.ppo:METHOD",
        "sac": "epvf.methods.agents.sac:METHOD",
    },
    "epvf.methods",
    Method,
)


def register_method(name: str, method: Method) -> None:
    """Makes a method known under a name, in this process; `epvf.methods` entry points do in all.

    Example:
        >>> import epvf
        >>> epvf.register_method("own-openes", METHODS["matched-openes"])
        >>> epvf.preset("cartpole", "debug", method="own-openes").method.name
        'own-openes'

    Raises:
        UserError: if something else has this name.
    """
    METHODS.register(name, method)


def default_settings(name: str) -> Any:
    """The settings of a method as they are where nothing is asked for.

    Raises:
        UserError: if there is no such method.
    """
    return METHODS[name].settings(name=name)
