"""How many files this process may hold open."""

from epvf.errors import UserError

AT_LEAST = 100
"""What JAX, Orbax and the run's own files take, with room to spare."""

PER_SEED = 1
"""A seed's TensorBoard file."""


def make_room(num_seeds: int) -> None:
    """Raises the limit of open files, where that is allowed, to what a run of many seeds takes.

    Raises:
        UserError: if it cannot be raised so far.
    """
    needed = AT_LEAST + PER_SEED * num_seeds
    try:
        import resource  # not there on Windows
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= needed:
        return
    most = needed if hard == unlimited else min(needed, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (OSError, ValueError):
        most = soft
    if most < needed:
        raise UserError(
            f"num_seeds {num_seeds} needs about {needed} open files, but only {most} are allowed: "
            f"ulimit -n {needed}, or lower num_seeds"
        )
