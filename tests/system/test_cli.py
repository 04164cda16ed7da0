# SPDX-License-Identifier: BSD-3-Clause
"""Commands as a user types them: output, following, sweeping, several instances."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from harness import CALM, DPSUP, Run, held_by, kill_all, leftovers, run, wait_for

pytestmark = pytest.mark.beside

TALKER = r"""
#include <stdio.h>
#include <dpsup_plugin.h>
static int init(const struct dps_env *env, void **state)
{
	(void)state;
	printf("worker %u of %s says hello\n", env->worker, env->group);
	fprintf(stderr, "and complains\n");
	return 0;
}
static uint16_t packet(void *state, struct dps_packet *p)
{
	(void)state;
	return dps_out(p->port);
}
const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "talker", .init = init, .packet = packet,
};
"""


def test_what_workers_print_becomes_log_lines_with_their_names(instance: Run) -> None:
    source = instance.folder / "talker.c"
    source.write_text(TALKER)
    flags = run("version", "--cflags", check=True).stdout.split()
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O2", *flags, str(source), "-o", source.with_suffix(".so")],
        check=True,
    )
    instance.start(CALM.replace('"macswap"', '"./talker.so"').replace("args =", "# args ="))

    def lines() -> list[dict[str, str]]:
        found: list[dict[str, str]] = json.loads(instance.do("logs", "fw/1", "-o", "json").stdout)
        return found

    # They come by a pipe.
    wait_for(lambda: len(lines()) == 2)
    assert {entry["name"] for entry in lines()} == {"fw/1"}
    assert [entry["line"] for entry in lines()] == ["worker 1 of fw says hello", "and complains"]
    wait_for(lambda: "fw/0" in instance.do("logs").stdout)
    assert "EAL" in instance.do("logs").stdout
    assert instance.do("logs", "fw/7", check=False).returncode == 4


def test_logs_and_events_can_be_followed(instance: Run) -> None:
    instance.start(CALM)
    with subprocess.Popen(
        [*DPSUP, "events", "-f", "-n", instance.name, "-o", "json"],
        stdout=subprocess.PIPE,
        text=True,
    ) as following:
        assert following.stdout is not None
        os.set_blocking(following.stdout.fileno(), False)
        heard: list[dict[str, object]] = []
        said = b""

        def hears(kind: str) -> bool:
            nonlocal said
            assert following.stdout is not None
            with contextlib.suppress(BlockingIOError):
                said += os.read(following.stdout.fileno(), 1 << 20)
            *lines, said = said.split(b"\n")  # the last one may go on
            heard.extend(json.loads(line) for line in lines)
            return any(e["type"] == kind for e in heard)

        wait_for(lambda: hears("state"))
        instance.do("kill", "fw/0")
        wait_for(lambda: hears("death"))
        numbers = [e["seq"] for e in heard]
        assert numbers == list(range(1, len(numbers) + 1))
        instance.stop()
        # It ends with the instance.
        following.wait(timeout=60)


def test_dry_run_starts_nothing(instance: Run) -> None:
    instance.write(CALM)
    done = run("start", str(instance.file), "--dry-run", check=True)
    assert "hugepages" in done.stdout
    assert leftovers(instance.name) == []
    assert run("status", "-n", instance.name).returncode == 3


def test_a_detached_instance_keeps_nothing_of_its_caller(instance: Run) -> None:
    instance.write(CALM)
    pipe_r, pipe_w = os.pipe()
    done = subprocess.run(
        [*DPSUP, "start", str(instance.file), "--detach"],
        pass_fds=(pipe_w,),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0
    os.close(pipe_w)
    # The end of the pipe: nobody else holds its other end.
    os.set_blocking(pipe_r, False)
    assert os.read(pipe_r, 1) == b""
    os.close(pipe_r)
    pid = instance.status()["supervisor"]["pid"]
    held = held_by(pid)
    assert held.count("/dev/null") >= 3
    assert os.getsid(pid) == pid


@pytest.mark.fault(37)
def test_stale_state_of_a_dead_instance_is_swept_and_nobody_elses(instance: Run) -> None:
    instance.start(CALM)
    doc = instance.status()
    victims = [doc["supervisor"]["pid"], doc["primary"]["pid"], doc["seed"]["pid"]]
    victims += [w["pid"] for w in doc["groups"][0]["workers"]]
    # Not in hugetlbfs: there EAL itself removes at each start whatever nobody has locked.
    others = [
        Path("/var/run/dpdk", f"dpsup-{instance.name}x-g1"),
        Path("/var/run/dpdk", f"dpsup-{instance.name}-g1x"),
        Path("/run/dpsup", f"{instance.name}x"),
    ]
    for one in others:
        one.mkdir()
    try:
        kill_all(victims)
        assert wait_for(lambda: run("status", "-n", instance.name).returncode == 3)
        assert leftovers(instance.name)
        instance.start()
        doc = instance.status()
        assert (doc["generation"], doc["state"]) == (2, "running")
        names = {p.name for p in Path("/dev/hugepages").glob(f"dpsup-{instance.name}-g1map_*")}
        assert names == set()
        instance.stop()
        assert all(one.exists() for one in others)
    finally:
        for one in others:
            one.rmdir()


def test_several_instances_need_a_name(instance: Run, tmp_path: Path) -> None:
    instance.start(CALM)
    other = Run(f"{instance.name}two", tmp_path / "two")
    other.folder.mkdir()
    other.start(CALM)
    try:
        done = run("status")
        assert done.returncode == 2
        assert instance.name in done.stderr
        assert other.name in done.stderr
        assert run("-n", other.name, "status").returncode == 0
    finally:
        other.stop()


def test_versions_in_the_two_ways_that_people_try() -> None:
    text = run("--version", check=True).stdout
    assert re.fullmatch(r"dpsup \S+, DPDK \d\d\.\d\d\S*, plugin ABI \d+\n", text)
    assert run("version", check=True).stdout == text
    doc = json.loads(run("version", "-o", "json", check=True).stdout)
    assert f"plugin ABI {doc['plugin_abi']}\n" in text


def test_help_is_quick_to_import_and_has_examples() -> None:
    text = run("--help", check=True).stdout
    for command in ("start", "stop", "status", "scale", "restart", "check", "plan", "audit"):
        assert command in text
    for command in ("events", "logs", "stats", "kill", "clean", "version"):
        assert command in text
    assert "dpsup start" in run("start", "--help", check=True).stdout
    modules = subprocess.run(
        [*DPSUP[:-1], str(Path(DPSUP[-1]).with_name("python3")), "-X", "importtime", "-P", "-m",
         "dpsup", "--help"],
        capture_output=True, text=True, check=True,
    ).stderr  # fmt: skip
    for heavy in ("pydantic", "dpsup._shim"):
        assert heavy not in modules


def test_a_runtime_folder_with_other_peoples_files_is_refused_and_kept(instance: Run) -> None:
    precious = instance.folder / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("years of work")
    instance.write(CALM)
    text = instance.file.read_text().replace("[host]", f'[host]\nruntime_dir = "{precious}"')
    instance.file.write_text(text)
    done = run("start", str(instance.file), "--detach")
    assert done.returncode == 78
    assert "thesis.tex" in done.stderr
    (precious / "thesis.tex").rename(instance.folder / "thesis.tex")
    instance.start()
    assert (precious / "state.json").exists()
    assert instance.status()["state"] == "running"
    instance.stop()
    assert not precious.exists()


@pytest.mark.fault(36)
def test_one_name_runs_once_whatever_its_runtime_folder(instance: Run) -> None:
    instance.start(CALM)
    pid = instance.status()["supervisor"]["pid"]
    elsewhere = instance.folder / "elsewhere"
    text = instance.file.read_text().replace("[host]", f'[host]\nruntime_dir = "{elsewhere}"')
    instance.file.write_text(text)
    done = run("start", str(instance.file))
    assert done.returncode == 1
    assert str(pid) in done.stderr
    assert not elsewhere.exists()
    assert instance.status()["supervisor"]["pid"] == pid
