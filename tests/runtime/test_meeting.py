"""Processes that train one run: how they find each other, and what they are refused for."""

import socket
import threading
from contextlib import closing
from typing import Any

import pytest

from epvf.errors import UserError
from epvf.runtime import meeting
from epvf.runtime.meeting import Asked, asked_for

TOLD = {"processes": 2, "epvf": "1", "Python": "3", "JAX": "0", "asked": "this"}


def test_options_have_to_be_complete_and_right():
    assert asked_for(None, None, None) is None
    assert asked_for(None, 1, None) is None
    assert asked_for("head:80", 2, 1) == Asked("head:80", 2, 1)
    for given, message in (
        (("head:80", None, 1), "need all of --coordinator HOST:PORT, --num-processes N"),
        ((None, 2, 0), "need all of --coordinator HOST:PORT"),
        (("head", 2, 0), "must be HOST:PORT of process 0, not 'head'"),
        (("head:99999", 2, 0), "must be HOST:PORT of process 0"),
        (("head:80", 2, 2), "process-id 2 must be one of 0 to 1, as num-processes is 2"),
        (("head:80", 2, -1), "process-id -1 must be one of 0 to 1"),
    ):
        with pytest.raises(UserError, match=message):
            asked_for(*given)


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("one", "one"),
        ("one,two", "one"),
        ("gpu[003-007,9]", "gpu003"),
        ("gpu[12,14],cpu1", "gpu12"),
        ("rack-1-[1-2]", "rack-1-1"),
    ],
)
def test_a_step_of_slurm_says_which_process_this_is(nodes, host):
    step = {
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_PROCID": "3",
        "SLURM_JOB_ID": "10000",
        "SLURM_STEP_NODELIST": nodes,
    }
    asked = meeting._by_slurm(step)
    assert asked is not None
    assert asked[1:] == (4, 3)
    name, _, port = asked.coordinator.partition(":")
    assert name == host and 61_440 <= int(port) < 65_536
    # a batch script, and a step of one task, are runs of their own
    assert meeting._by_slurm(step | {"SLURM_STEP_NUM_TASKS": "1"}) is None
    assert meeting._by_slurm({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4"}) is None


def _free_port():
    with closing(socket.create_server(("", 0))) as taken:
        return taken.getsockname()[1]


def _others(port, *hellos, num=2, seconds=5.0):
    """What process 0 comes to, and what others do that come with these words."""
    asked = Asked(f"localhost:{port}", num, 0)
    said: list[Any] = [None] * len(hellos)

    def come(i, hello):
        try:
            said[i] = meeting._go_to(
                asked._replace(process_id=1), TOLD | {"process": 1} | hello, seconds
            )
        except UserError as error:
            said[i] = str(error)

    threads = [threading.Thread(target=come, args=item) for item in enumerate(hellos)]
    for thread in threads:
        thread.start()
    found = None
    try:
        found = meeting._receive_all(asked, TOLD | {"process": 0, "processes": num}, seconds)
        return found, said
    except UserError as error:
        return str(error), said
    finally:
        for thread in threads:
            thread.join()
        for connections in (found, *said):
            if isinstance(connections, dict):
                for connection in connections.values():
                    connection.close()


def test_processes_of_one_kind_meet():
    found, said = _others(_free_port(), {"process": 2, "processes": 3}, {"processes": 3}, num=3)
    assert sorted(found) == [1, 2]
    assert [sorted(connections) for connections in said] == [[0], [0]]


@pytest.mark.parametrize(
    ("hello", "message"),
    [
        ({"epvf": "0"}, "process 1 has epvf '0', but process 0 has 1; they have to be the same"),
        ({"Python": "2"}, "process 1 has Python '2', but process 0 has 3"),
        ({"processes": 3}, "process 1 has processes 3, but process 0 has 2"),
        ({"asked": "that"}, "process 1 was asked for another run than process 0"),
        ({"process": "x"}, "two processes came with process-id 'x'"),
    ],
)
def test_processes_that_differ_are_refused_in_all_of_them(hello, message):
    found, said = _others(_free_port(), hello)
    assert message in found and len(found) < 200
    assert said == [found]


def test_processes_wait_for_each_other_for_a_stated_time():
    port = _free_port()
    found, _ = _others(port, num=3, seconds=0.2)
    assert found == (f"of 3 processes these did not come: 1, 2 (waited 0.2 s at localhost:{port})")
    with pytest.raises(UserError, match=r"process 0 of the run is not at localhost:\d+ .*0.2 s"):
        meeting._go_to(Asked(f"localhost:{port}", 2, 1), TOLD, 0.2)
    with closing(socket.create_server(("", port))):
        found, _ = _others(port, seconds=0.2)
        assert f"cannot listen on port {port} for the other processes" in found


def test_what_listens_there_may_be_something_else():
    port = _free_port()
    with closing(socket.create_server(("", port))) as other:
        answering = threading.Thread(target=lambda: other.accept()[0].close())
        answering.start()
        with pytest.raises(UserError, match="is no process 0 of a run, or gave up"):
            meeting._go_to(Asked(f"localhost:{port}", 2, 1), TOLD, 1.0)
        answering.join()


def test_words_of_a_command_line_ask_for_several_processes():
    assert meeting.named(["cartpole", "--coordinator=x:1"])
    assert meeting.named(["cartpole", "--coordinator", "x:1"])
    assert not meeting.named(["cartpole"])


def test_where_nobody_listens_is_told_at_once():
    with pytest.raises(UserError, match="nobody listens at localhost:1: "):
        meeting.check_listens("localhost:1")
    with pytest.raises(UserError, match="'localhost' must be HOST:PORT"):
        meeting.check_listens("localhost")
    with closing(socket.create_server(("", 0))) as there:
        meeting.check_listens(f"localhost:{there.getsockname()[1]}")
