"""The page in a real browser: what stands on it, what its controls do, and what is to be seen."""

import json
import re
import threading
import time

import numpy as np
import pytest

from chromium import PATIENCE, Chromium, found
from epvf.cli.main import main
from epvf.view.browser import Page, Settings, _free_port
from epvf.view.choices import choices

LABEL = "[...document.querySelectorAll('label')].find(e => e.innerText == '{}')"
FIELD = f"document.evaluate('following::input[not(@type) or @type=\"text\"][1]', {LABEL}, null, 9)"
SECONDS = r"(document.body.innerText.match(/([\d.]+) s, return/) || [])[1]"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of V(s, θ), which has a V, and policies of its past."""
    pytest.importorskip("viser", reason="needs the extra viewer")
    found()
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = ["train", "hopper", "--preset", "debug", "--method", "psvf", "--backend", "native"]
    assert main([*words, "--no-report", "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def page(run):
    """The page of the run, which is served meanwhile."""
    with Page(choices(run), Settings(4, port=_free_port())) as made:
        over = threading.Event()

        def serve():
            while not over.is_set():
                made.play(0.5)

        server = threading.Thread(target=serve)
        server.start()
        yield made
        over.set()
        server.join()


def _value(browser):
    """V of θ, as the page tells it."""
    found = re.search(r"V of θ: (\S+)", browser.text())
    return found and float(found[1])


def _choose(browser, label, option):
    browser.click(f"{FIELD.format(label)}.singleNodeValue")
    place = "[...document.querySelectorAll('[role=option]')]"
    shown = f"{place}.find(e => e.innerText == {json.dumps(option)} && e.getClientRects().length)"
    browser.until(f"Boolean({shown})")
    browser.click(shown)


def _until_orange(browser, file):
    """Waits for θ to be seen in its own colour."""
    end = time.monotonic() + PATIENCE
    while True:
        red, green, blue = np.moveaxis(browser.picture(file)[:, :560].astype(int), 2, 0)
        orange = (red > 90) & (green > 0.25 * red) & (green < 0.65 * red) & (blue < 0.3 * red)
        orange[:200] = False  # viser's own notices
        if orange.mean() > 1e-3:
            return
        assert time.monotonic() < end, f"there is no orange robot in {file}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_page_shows_a_swarm_and_obeys_its_controls(page, run, tmp_path):
    with Chromium(tmp_path / "profile") as browser:
        browser.open(page.address)
        browser.until(f"{SECONDS} > 0.05")
        assert "4 perturbed: " in browser.text()
        # nothing is loaded from elsewhere
        loaded = browser.script("performance.getEntriesByType('resource').map(e => e.name)")
        assert all(name.startswith((page.address, "data:", "blob:")) for name in loaded)
        assert "V's prediction" in browser.text().splitlines()[-1]
        _choose(browser, "colours", "true return so far")
        browser.until("document.body.innerText.includes(': true return so far')")

        before = _value(browser)
        browser.write(f"{FIELD.format('step along ∇V')}.singleNodeValue", "1")
        browser.until(f"!document.body.innerText.includes('V of θ: {before:.6g} ')")
        assert _value(browser) > before
        browser.write(f"{FIELD.format('step along ∇V')}.singleNodeValue", "0")
        browser.until(f"document.body.innerText.includes('V of θ: {before:.6g} ')")

        browser.write(f"{FIELD.format('perturbed')}.singleNodeValue", "0")
        browser.until("!document.body.innerText.includes(' perturbed: ')")
        _until_orange(browser, tmp_path / "page.png")

        names = choices(run).names()
        assert len(names) > 2
        _choose(browser, "policy", names[2])
        browser.until(f"!document.body.innerText.includes('V of θ: {before:.6g} ')")

        browser.click(f"{LABEL.format('play')}.control")
        time.sleep(3.0)
        stands = browser.script(SECONDS)
        time.sleep(3.0)
        assert browser.script(SECONDS) == stands
        assert not browser.errors
