"""Several processes of one run: what holds of one alone; more is in tests/cli/test_processes.py."""

from epvf.runtime import hosts


def test_one_process_has_nobody_to_ask():
    assert hosts.agree(7) == hosts.of_the_first(7) == 7
    assert hosts.share(b"words") == b"words"
    assert hosts.whole([1]) == [1]
    assert not hosts.several() and not hosts.follows() and hosts.lost(0.0) is None
    hosts.part()
    hosts.leave(3)
