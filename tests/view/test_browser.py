"""The page: served on the loopback interface, with a key anywhere else."""

import socket
import urllib.error
import urllib.request

import numpy as np
import pytest

from epvf.cli.main import main
from epvf.errors import UserError
from epvf.view.browser import CELLS, Settings, _check_port, _coarse


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"perturbed": 65}, "perturbed is 65, but must be 0 to 64"),
        ({"port": 0}, "port is 0, but must be 1 to 65535"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        Settings(**settings)


def test_a_mesh_of_many_vertices_keeps_its_size_on_few():
    side = np.linspace(0.0, 1.0, 60)
    x, y = (grid.ravel() for grid in np.meshgrid(side, side, indexing="ij"))
    vertices = np.stack([x, y, 0.1 * np.sin(6.0 * x)], axis=1)
    corner = (np.arange(59)[:, None] * 60 + np.arange(59)[None, :]).ravel()
    faces = np.concatenate([corner[:, None] + np.array(t) for t in ((0, 60, 1), (1, 60, 61))])
    fewer, left = _coarse(vertices, faces)
    assert len(fewer) < 400 and len(left) < 800 and left.max() == len(fewer) - 1
    span = np.ptp(fewer, axis=0) - np.ptp(vertices, axis=0)
    assert np.abs(span).max() <= 1.0 / CELLS
    few = vertices[:100], faces[:5]
    assert all(one is other for one, other in zip(_coarse(*few), few, strict=True))


def test_a_port_that_is_taken_is_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} cannot be used: .*; give --port"):
            _check_port(port)


def test_what_is_no_body_or_no_policy_is_refused(saved, cartpole, capsys):
    assert main(["view", str(saved(cartpole))]) == 2
    assert "cannot be viewed" in capsys.readouterr().err
    assert main(["view", "nowhere"]) == 2
    assert main(["view", "nowhere", "--seconds", "-1"]) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_without_viser_it_is_said_how_to_get_it(saved, hopper, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "viser", None)
    assert main(["view", str(saved(hopper))]) == 2
    err = capsys.readouterr().err
    assert 'pip install "epvf[viewer]"' in err and err.count("\n") == 1 and len(err) < 200


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_page_is_served(outside, saved, hopper):
    pytest.importorskip("viser", reason="needs the extra viewer")
    from epvf.view.browser import Page, _free_port
    from epvf.view.choices import choices

    host = "0.0.0.0" if outside else "127.0.0.1"
    settings = Settings(2, host, _free_port())
    with Page(choices(saved(hopper)), settings) as page:
        page.play(0.5)
        address = page.address.replace("0.0.0.0", "127.0.0.1")
        assert ("token=" in address) == outside
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with opener.open(address, timeout=5) as answer:
            assert b"<html" in answer.read().lower()
        if outside:
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(address.split("?")[0], timeout=5)
