# SPDX-License-Identifier: BSD-3-Clause
"""A plugin's file under a running instance: overwritten, truncated, deleted; and memory that is
gone under a plugin."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import NULL, Run
from jobs import build
from versions import plugin

pytestmark = pytest.mark.beside

# Its table is a file that is shorter than what is mapped.
SHORT = """
#include <dpsup_plugin.h>
#include <fcntl.h>
#include <sys/mman.h>

static int
init(const struct dps_env *env, void **state)
{
	*state = mmap(NULL, 4096, PROT_READ, MAP_SHARED, open(dps_arg(env, "table"), O_RDONLY), 0);
	return *state == MAP_FAILED;
}

static uint16_t
packet(void *state, struct dps_packet *p)
{
	return dps_out(p->port + *(volatile const uint8_t *)state);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "short", .init = init, .packet = packet,
};
"""


@pytest.mark.fault(45)
def test_the_file_of_a_running_plugin_may_change_at_any_time(instance: Run, tmp_path: Path) -> None:
    so = Path(plugin(tmp_path, 1, "env->counters[SEEN]++;", seen=0))
    other = Path(plugin(tmp_path, 2, seen=0, counters='"other"'))
    instance.start(NULL.replace('"macswap"', f'"{so}"') + "spares = 1\n")
    instance.until(lambda s: s["groups"][0]["plugin_on_disk"] == "same")

    def again(worker: str) -> None:
        """A worker that dies is followed by one of the same version."""
        deaths = instance.status()["recovery"]["deaths"]
        instance.do("kill", worker)
        instance.until(lambda s: s["recovery"]["deaths"] == deaths + 1 and s["state"] == "running")
        assert "seen" in instance.worker(worker)["counters"]

    with so.open("r+b") as f:  # in place: the same inode
        f.write(other.read_bytes())
        f.truncate()
    instance.until(lambda s: s["groups"][0]["plugin_on_disk"] == "changed")
    assert "has changed on disk" in instance.do("status").stdout
    assert "newer on disk" in instance.do("workers", "-o", "wide").stdout
    again("fw/0")
    os.truncate(so, 0)
    again("fw/1")
    so.unlink()
    instance.until(lambda s: s["groups"][0]["plugin_on_disk"] == "missing")
    again("fw/0")
    assert instance.status()["recovery"]["deaths"] == 3  # those that were killed
    assert not instance.status()["recovery"]["quarantined"]
    shutil.copy(other, so)
    done = instance.do("rollout", "fw", "--plugin", str(so), "--judge", "0s", "--wait")
    assert "revision 2" in done.stdout
    assert "other" in instance.worker("fw/0")["counters"]
    so.unlink()
    assert "in all workers" in instance.do("rollout", "undo").stdout
    assert "seen" in instance.worker("fw/0")["counters"]
    assert any("on disk" in e.get("message", "") for e in instance.events())


@pytest.fixture
def noexec(tmp_path: Path) -> Iterator[Path]:
    """A directory from which no code can be mapped."""
    where = tmp_path / "noexec"
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "noexec,nosuid,size=16m", "tmpfs", str(where)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("not permitted to mount")
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)


def test_a_runtime_directory_without_exec_is_enough(
    noexec: Path, instance: Run, tmp_path: Path
) -> None:
    so = plugin(tmp_path, 1)
    text = NULL.replace('"macswap"', f'"{so}"')
    # Under the head's [host].
    file = instance.write(text)
    host = f'[host]\nruntime_dir = "{noexec}/edge"'
    file.write_text(file.read_text().replace("[host]", host, 1))
    instance.start()
    os.truncate(so, 0)
    instance.do("kill", "fw/0")
    instance.until(lambda s: s["recovery"]["deaths"] == 1 and s["state"] == "running")
    assert "seen" in instance.worker("fw/0")["counters"]
    instance.stop()


@pytest.mark.fault(7, 28)
def test_memory_that_is_gone_blames_no_packet(instance: Run, tmp_path: Path) -> None:
    table = tmp_path / "table"
    table.touch()
    so = build(tmp_path, SHORT)
    text = NULL.replace('"macswap"', f'"{so}"')
    text = text.replace('args = { map = { wan = "lan", lan = "wan" } }',
                        f'args = {{ table = "{table}" }}\non_full = "hold"').replace(
        "count = 2", "count = 1").replace("intensity = 100", "intensity = 100000")  # fmt: skip
    instance.write(text)
    instance.start(text)
    instance.until(lambda s: s["recovery"]["deaths"] >= 4)
    assert "SIGBUS" in instance.worker("fw/0")["last_exit"]["how"]
    assert instance.status()["recovery"]["quarantined"] == 0
    table.write_bytes(bytes(4096))  # and the same packets go on
    instance.until(lambda s: s["groups"][0]["workers"][0]["tx_packets"] > 0)
    assert instance.status()["recovery"]["quarantined"] == 0
