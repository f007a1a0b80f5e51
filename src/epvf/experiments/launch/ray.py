"""Several runs at once on a Ray cluster whose machines share a disk."""

import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from epvf.errors import RunFailed, UserError
from epvf.experiments.launch import remote
from epvf.experiments.launch.job import Answer, Job, perform
from epvf.files import one_line
from epvf.runtime import meeting

_NO_RAY = "a Ray cluster needs ray: pip install 'epvf[ray]'"


def check() -> None:
    """Raises a `UserError` where Ray is not installed."""
    try:
        import ray  # noqa: F401 - is it there?
    except ImportError:
        raise UserError(_NO_RAY) from None


def run(
    jobs: Sequence[Job],
    at_a_time: int,
    tell: Callable[[str], None],
    options: Mapping[str, Any] | None = None,
) -> int:
    """Does all jobs as tasks of Ray; see `remote.run`.

    A job whose machine is lost begins again on another, where its run goes on.

    Args:
        jobs, at_a_time, tell: as there.
        options: Ray's of a task, such as `num_cpus`, `num_gpus`.

    Raises:
        UserError: if Ray or the cluster that `RAY_ADDRESS` names is not there.
    """
    return remote.run(_Tasks(options or {}), jobs, at_a_time, tell)


class _Tasks:
    def __init__(self, options: Mapping[str, Any]) -> None:
        try:
            import ray
        except ImportError:
            raise UserError(_NO_RAY) from None
        self._ray = ray
        address = os.environ.get("RAY_ADDRESS", "")
        if ":" in address:
            meeting.check_listens(address.removeprefix("ray://"))
        try:
            if not ray.is_initialized():
                with warnings.catch_warnings():
                    # of a fork that becomes another program at once
                    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
                    ray.init(
                        address=os.environ.get("RAY_ADDRESS"),
                        log_to_driver=True,
                        logging_level=logging.ERROR,
                    )
            given: dict[str, Any] = {"num_cpus": 1, "max_retries": -1, **options}
            self._do = ray.remote(perform).options(**given)
        except (ConnectionError, RuntimeError) as error:
            raise UserError(f"there is no Ray cluster: {one_line(error):.120}") from None
        except (ValueError, TypeError) as error:
            raise UserError(f"Ray refuses these --resources: {one_line(error):.120}") from None

    def start(self, job: Job) -> Any:
        return self._do.remote(job)

    def answer(self, handle: Any) -> Answer | None:
        ready, _ = self._ray.wait([handle], timeout=0)
        if not ready:
            return None
        try:
            answer: Answer = self._ray.get(handle)
        except (self._ray.exceptions.TaskCancelledError, KeyboardInterrupt):
            return 130, None
        except self._ray.exceptions.RayError as error:
            return 1, RunFailed(f"{one_line(error):.150}")
        return answer

    def stop(self, handle: Any) -> None:
        self._ray.cancel(handle, force=False)
