# SPDX-License-Identifier: BSD-3-Clause
"""`dpsup report` of a running, degraded, headless and dead instance, looked at in a browser."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import browser
import pytest
from harness import NULL, Run, run, wait_for

pytestmark = pytest.mark.beside

QUICK = ("--for", "300ms")


def report(instance: Run, name: str, *more: str) -> Path:
    file = instance.folder / f"{name}.html"
    done = instance.do("report", *QUICK, "-o", str(file), *more)
    assert "KiB" in done.stderr
    return file


def test_reports_of_an_instance_in_every_state(instance: Run) -> None:
    """Pages with a death and its phases, hints, a chaos run, advice; in Chromium: nothing is
    complained of, nothing sticks out at 1280 and 800 pixels, nothing is loaded from anywhere."""
    once = 'restart = { policy = "never" }\nspares = 0'
    instance.start(re.sub("restart = .*", once, NULL))
    chaos = instance.folder / "chaos.json"
    chaos.write_text(json.dumps(CHAOS))
    pages = {"running": report(instance, "running", "--chaos", str(chaos))}
    assert "kill &lt;b&gt;" in pages["running"].read_text()
    assert "No death is on record" in pages["running"].read_text()
    for args in (("-o", "/nowhere/x.html"), ("--chaos", "/nowhere.json"), ("--bench", __file__)):
        done = instance.do("report", *QUICK, *args, check=False)
        assert done.returncode == 2, args
        assert "E074" in done.stderr
    assert run("report", "-n", "nobody").returncode == 3
    assert instance.do("report", *QUICK, "-o", "-").stdout.startswith("<!DOCTYPE html>")
    instance.do("kill", "fw/0")
    instance.until(lambda s: s["state"] == "degraded")
    pages["degraded"] = report(instance, "degraded")
    assert "SIGKILL" in pages["degraded"].read_text()
    assert "reset-failed" in pages["degraded"].read_text()
    os.kill(instance.status()["supervisor"]["pid"], signal.SIGKILL)
    wait_for(lambda: instance.status()["supervisor"]["pid"] is None)
    pages["headless"] = report(instance, "headless")
    os.kill(instance.status()["primary"]["pid"], signal.SIGKILL)
    wait_for(lambda: run("status", "-n", instance.name).returncode == 3)
    pages["stopped"] = report(instance, "stopped")
    assert "this is its record" in pages["stopped"].read_text()
    assert "SIGKILL" in pages["stopped"].read_text()
    for state, file in pages.items():
        assert f">{state}</span>" in file.read_text(), state
    if browser.program() is None:
        pytest.skip("no Chromium: deploy/host-setup --tests installs it where it can be had")
    look_at(instance.folder, pages)


def look_at(folder: Path, pages: dict[str, Path]) -> None:
    with browser.browser(folder) as seen:
        for state, file in pages.items():
            for width in (1280, 800):
                seen.show(file, width)
                assert seen.value("document.querySelector('h1').innerText").endswith(state)
                assert seen.sticks_out() == [], (state, width)
                assert seen.value(BROKEN) == [], (state, width)
                if os.environ.get("DPSUP_PICTURES"):
                    seen.picture(Path(os.environ["DPSUP_PICTURES"], f"{state}-{width}.png"))
            pictures = seen.value(
                "[...document.querySelectorAll('svg')].map(e => e.getBoundingClientRect().width)"
            )
            if state != "stopped":
                assert len(pictures) >= 2, state
                assert all(width > 100 for width in pictures), pictures
                boxes = seen.value("document.querySelectorAll('.picture svg g.node').length")
                assert boxes >= 5, "the topology is drawn"
        assert seen.complaints() == []
        assert all(url.startswith(("file:", "about:")) for url in seen.asked_for())


def test_the_browser_would_notice(tmp_path: Path) -> None:
    """That the look at the pages finds what it looks for."""
    if browser.program() is None:
        pytest.skip("no Chromium: deploy/host-setup --tests installs it where it can be had")
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!DOCTYPE html><h1>bad</h1><div style='width:3000px'>wide</div>"
        "<script>console.error('said')</script><img src='file:///nowhere.png'>"
    )
    with browser.browser(tmp_path) as seen:
        seen.show(bad, 800)
        assert any("DIV" in one for one in seen.sticks_out())
        assert any("said" in one for one in seen.complaints())
        assert any("nowhere" in url for url in seen.asked_for())


# Words of one cell on two lines, where they have no blank: a column that is too narrow.
BROKEN = """
(() => {
  const tops = (e) => {
    const range = document.createRange();
    range.selectNodeContents(e);
    return new Set([...range.getClientRects()].map(r => Math.round(r.top))).size;
  };
  return [...document.querySelectorAll('td, th')]
    .filter(e => !e.children.length && !/[\\s\\/.-]/.test(e.textContent) && tops(e) > 1)
    .map(e => e.textContent);
})()
"""
CHAOS = {
    "kind": "Chaos", "ok": True, "problems": [], "injected": {"kill <b>": 3}, "seconds": 2.0,
    "deaths": 3, "audit": {"leaked": 0}, "traffic": {"sent": 1000, "lost": 0, "dropped": {}},
    "throughput": [[0.0, 500.0], [1.0, 400.0], [2.0, 600.0]], "faults": [[0.5, "kill <b>"]],
    "recovery_us": {"kill <b>": {"total": {"n": 3, "p50": 180.0, "p99": 200.0, "max": 210.0}}},
}  # fmt: skip
