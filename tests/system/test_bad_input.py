# SPDX-License-Identifier: BSD-3-Clause
"""What cannot be started, or asked for, is said before anything has happened: message, place, exit
code, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from harness import DPSUP, Run, leftovers, run

pytestmark = pytest.mark.beside

BAD, HOST, NOT_PERMITTED = 78, 6, 7

TOPOLOGY = """\
version = 1
name = "{name}"
[host]
hugepages = "auto"
runtime_dir = "auto"
[mempools.default]
mbufs = 8191
[[ports]]
name = "wan"
vdev = "net_null0,no-rx=1"
[[ports]]
name = "lan"
vdev = "net_null1,no-rx=1"
[[io]]
cores = "1"
[[workers]]
name = "fw"
plugin = "macswap"
args = {{ map = {{ wan = "lan", lan = "wan" }} }}
input = ["wan", "lan"]
count = 2
cores = "0"
ring = 1024
"""

# (what is written, what instead, exit code, words of the message, of the line, of the help)
WRONG = [
    # unknown keys
    ("count = 2", "cuont = 2", BAD, "unknown key `cuont`", "cuont = 2", "did you mean `count`"),
    ("[[io]]", "[[iop]]", BAD, "unknown key `iop`", "[[iop]]", "did you mean `io`"),
    # wrong types
    ("mbufs = 8191", 'mbufs = "8k"', BAD, "must be a whole number", '"8k"', "write mbufs = 16383"),
    ("input = [", 'input = "wan" # [', BAD, "must be an array", "input", 'input = ["wan"]'),
    ("ring = 1024", "ring = 1000", BAD, "1000 is not a power of two", "ring", "512 or 1024"),
    ('"macswap"', '"macswap', BAD, "not TOML", '"macswap', "close the text"),
    # sharing of cores
    ('cores = "0"', 'cores = "1"', BAD, "uses CPU 1, which is an io core", '"1"', "shared_cores"),
    ("[[workers]]", '[[io]]\ncores = "1"\n[[workers]]', BAD, "CPU 1 is an io core already",
     'cores = "1"', "shared_cores"),
    # what is not there
    ("net_null0,no-rx=1", "net_pcap0,rx_pcap=no.pcap", BAD, "there is no file", "no.pcap",
     "relative paths begin at the topology file's directory"),
    ("net_null0,no-rx=1", "net_pcap0,rx_pcap=topology.toml", BAD, "is no capture file",
     "topology.toml", "tcpdump -w"),
    ("net_null0,no-rx=1", "net_nul0", BAD, "no driver for the virtual device net_nul0",
     "net_nul0", "did you mean `net_null0`"),
    ('"macswap"', '"macswop"', BAD, 'no built-in plugin "macswop"', "plugin", "`macswap`"),
    ('"macswap"', '"./fw.so"', BAD, "there is no plugin", "./fw.so", "build it"),
    ('wan = "lan"', 'wan = "dmz"', BAD, 'names a port that is not there: "dmz"', "map", "ports"),
    ('cores = "0"', 'cores = "700"', HOST, "CPU 700 for group `fw` is not on this machine",
     '"700"', "use CPU"),
    ('cores = "1"', 'cores = "700"', HOST, "CPU 700 for an io core is not on this machine",
     '"700"', "use CPU"),
    ('vdev = "net_null0,no-rx=1"', 'pci = "ffff:3b:00.0"', HOST, "no PCI device ffff:3b:00.0",
     "ffff:3b:00.0", "dpdk-devbind.py"),
    # too small, too large, too long
    ("mbufs = 8191", "mbufs = 5023", BAD, "has 5023 mbufs and needs at least 5024",
     "mbufs = 5023", "write mbufs = 8191"),
    ("count = 2", "count = 2\nmax = 65", BAD, "`max` of [[workers]] is 65", "max = 65", "max = 1"),
    ('"auto"', '"16MiB"', BAD, "`hugepages` is 16 MiB, and the topology needs", "16MiB", '"auto"'),
    ('runtime_dir = "auto"', f'runtime_dir = "/tmp/{"x" * 95}"', BAD, "6 bytes too long",
     "runtime_dir", "write a shorter runtime_dir"),
]  # fmt: skip


@pytest.mark.fault(40)
@pytest.mark.parametrize(("old", "new", "code", "message", "line", "help"), WRONG)
def test_topology_that_cannot_be_started(
    instance: Run, old: str, new: str, code: int, message: str, line: str, help: str
) -> None:
    text = TOPOLOGY.format(name=instance.name)
    assert old in text
    instance.file.write_text(text.replace(old, new, 1))
    done = run("check", str(instance.file))
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    said = next(p for p in done.stderr.split("\n\n") if message in p)
    assert said.startswith("error[")
    where = re.search(rf"--> {re.escape(str(instance.file))}:(\d+)\n", said)
    assert where is not None
    number = int(where[1])
    assert line in instance.file.read_text().split("\n")[number - 1]
    assert re.search(rf"^  {number} \| .*{re.escape(line)}", said, re.MULTILINE)
    assert "  why:  " in said
    assert help in said.partition("  help: ")[2]
    # A start says the same, and has started nothing.
    start = run("start", str(instance.file))
    assert (start.returncode, start.stderr, start.stdout) == (code, done.stderr, "")
    assert leftovers(instance.name) == []


@pytest.mark.parametrize("table", re.findall(r"(?m)^\[+(\w+)", TOPOLOGY))
def test_start_says_of_what_is_missing_what_check_says(instance: Run, table: str) -> None:
    text = re.sub(rf"(?ms)^\[+{table}\b.*?(?=^\[|\Z)", "", TOPOLOGY.format(name=instance.name))
    file = instance.folder / "topology.toml"
    file.write_text(text)
    check, start = run("check", str(file)), run("start", str(file), "--detach")
    if table == "host":
        assert (check.returncode, start.returncode) == (0, 0)
    else:
        assert (check.returncode, start.returncode) == (BAD, BAD)
        assert start.stderr == check.stderr


def test_everything_that_is_wrong_is_said_at_once(instance: Run) -> None:
    text = TOPOLOGY.format(name=instance.name)
    edits = [
        ('hugepages = "auto"', 'hugepages = "lots"'),
        ("mbufs = 8191", "mbuf = 8191"),
        ("net_null0,no-rx=1", "net_pcap0,rx_pcap=no.pcap"),
        ('name = "lan"', 'name = "l n"'),
        ('"macswap"', '"macswop"'),
        ("count = 2", "count = 0"),
        ('cores = "0"', 'cores = "700"'),
        ("ring = 1024", "ring = 7"),
    ]
    for old, new in edits:
        text = text.replace(old, new, 1)
    instance.file.write_text(text)
    done = run("check", str(instance.file), "-o", "json")
    assert done.returncode == BAD  # the file's own faults come before the machine's
    assert done.stderr == ""
    doc = json.loads(done.stdout)
    assert (doc["apiVersion"], doc["kind"], doc["ok"]) == ("dpsup/v1", "Check", False)
    assert doc["file"] == str(instance.file)
    errors = [p for p in doc["problems"] if p["severity"] == "error"]
    assert [p["line"] for p in errors] == sorted(p["line"] for p in errors)
    assert len({p["line"] for p in errors}) == len(edits)
    for (_, new), problem in zip(edits, errors, strict=False):
        assert new in problem["source"]
        assert problem["message"]
        assert problem["why"]
        assert problem["help"]
        assert problem["exit_code"] == (HOST if "700" in new else BAD)
    for words in (["plan"], ["start", "--dry-run"], ["start"], ["start", "--detach"]):
        done = run(*words, str(instance.file))
        assert (words, done.returncode) == (words, BAD)
        assert done.stderr.count("error[") == len(errors)
        assert done.stdout == ""
    assert leftovers(instance.name) == []


def test_warnings_are_said_and_leave_the_exit_code_at_0(instance: Run) -> None:
    text = TOPOLOGY.format(name=instance.name).replace("no-rx=1", "no-rx=1,sise=64", 1)
    instance.file.write_text(text)
    done = run("check", str(instance.file), check=True)
    assert "warning[E0405]: net_null does not list a parameter `sise`" in done.stderr
    assert f"{instance.file}: ok" in done.stdout
    doc = json.loads(run("check", str(instance.file), "-o", "json", check=True).stdout)
    assert doc["ok"] is True
    assert "warning" in {p["severity"] for p in doc["problems"]}


@pytest.mark.parametrize("name", ["gone.toml", ".", "topology.toml/x"])
def test_file_that_cannot_be_read(instance: Run, name: str) -> None:
    instance.file.write_text("")
    for command in ("check", "plan", "start"):
        done = run(command, str(instance.folder / name))
        assert done.returncode == BAD
        assert "cannot read" in done.stderr
        assert "`dpsup init` writes one" in done.stderr


@pytest.mark.fault(27)
def test_too_few_hugepages_gives_the_number_and_the_command(instance: Run) -> None:
    folder = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
    text = TOPOLOGY.format(name=instance.name).replace('"auto"', '"7000GiB"', 1)
    instance.file.write_text(text)
    done = run("start", str(instance.file))
    assert done.returncode == HOST
    needed, free = map(
        int, re.findall(r"(\d+) hugepages of 2 MiB needed, and (\d+) free", done.stderr)[0]
    )
    total = int(re.findall(rf"echo (\d+) > {folder}/nr_hugepages", done.stderr)[0])
    # Others reserve and free pages meanwhile: the sum, with the pages that are not free.
    assert needed == 7000 * 512
    assert total == needed + int((folder / "nr_hugepages").read_text()) - free
    assert leftovers(instance.name) == []


NOBODY = (
    # All that root may, but for the right to read: where dpsup is installed is no matter here.
    "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
    "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search",
)  # fmt: skip


def run_as_nobody(*args: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k not in ("XDG_RUNTIME_DIR", "RUNTIME_DIRECTORY")}
    done = subprocess.run(
        [*NOBODY, *DPSUP, *args], capture_output=True, text=True, timeout=60, check=False, env=env
    )
    assert "Traceback" not in done.stderr
    return done


def test_user_without_rights_is_told_what_is_missing(instance: Run) -> None:
    instance.file.write_text(TOPOLOGY.format(name=instance.name))
    for command in ("check", "plan", "start"):
        done = run_as_nobody(command, str(instance.file))
        assert done.returncode == NOT_PERMITTED, done.stderr
        assert "may not write in" in done.stderr
        assert "run as root" in done.stderr
    text = instance.file.read_text()
    folder = f"/run/dpsup-of-{instance.name}"
    instance.file.write_text(text.replace('runtime_dir = "auto"', f'runtime_dir = "{folder}"'))
    done = run_as_nobody("start", str(instance.file))
    assert done.returncode == NOT_PERMITTED
    assert f"not permitted to create the runtime directory {folder}" in done.stderr
    assert not Path(folder).exists()
    assert leftovers(instance.name) == []


@pytest.mark.fault(22)
def test_instance_of_somebody_else_is_refused(instance: Run) -> None:
    instance.file.write_text(TOPOLOGY.format(name=instance.name))
    instance.start()
    for command in (["status"], ["audit"], ["stop"], ["scale", "fw", "1"], ["kill", "fw/0"]):
        done = run_as_nobody(*command, "-n", instance.name)
        assert done.returncode == NOT_PERMITTED, (command, done.stderr)
        assert "not permitted" in done.stderr
    assert instance.status()["groups"][0]["ready"] == 2


def test_largest_topology_that_is_allowed_starts(instance: Run) -> None:
    """8 io cores, 16 ports, 16 groups, 8 mempools, 64 slots: all in the memory that was planned."""
    text = f'version = 1\nname = "{instance.name}"\n[host]\nshared_cores = true\n'
    text += "".join(f"[mempools.p{i}]\nmbufs = 8191\ncache = 64\n" for i in range(8))
    for i in range(16):
        text += f'[[ports]]\nname = "port{i}"\nvdev = "net_null{i},no-rx=1"\n'
        text += f'mempool = "p{i // 2}"\ndescriptors = {{ rx = 64, tx = 64 }}\n'
    text += '[[io]]\ncores = "1"\n' * 8
    for i in range(16):
        text += f'[[workers]]\nname = "g{i}"\nplugin = "forward"\ninput = ["port{i}"]\n'
        text += "max = 4\nring = 256\n"
    instance.file.write_text(text)
    instance.start()
    status = instance.status()
    assert status["state"] == "running"
    assert (len(status["ports"]), len(status["groups"])) == (16, 16)
    pools = instance.audit()["pools"]
    assert [pool["unexplained"] for pool in pools] == [0] * 8
    assert json.loads(instance.do("scale", "g15", "4", "-o", "json").stdout)["ready"] == 4


# --- commands -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stats", "-o", "yaml"], "'yaml' is not one of"),
        (["stauts"], "Did you mean `stats`, `status` or `state`?"),
        (["strat"], "Did you mean `stats`, `state` or `start`?"),
        (["wokers"], "Did you mean `workers`?"),
        (["shedule"], "`dpsup --help` lists them"),
        (["start"], "Missing argument 'FILE'"),
        (["start", "a.toml", "b.toml"], "unexpected extra argument"),
        (["start", "a.toml", "--frob"], "--frob"),
        (["start", "a.toml", "--exit-when-idle", "5"], "write 500ms"),
        (["scale", "fw", "many"], "'many' is not a number"),
        (["kill", "fw/0", "-s", "NOPE"], "no signal NOPE"),
        (["status", "-n"], "requires an argument"),
    ],
)
def test_wrong_usage(words: list[str], message: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "words",
    [
        ["status"], ["status", "-o", "json"], ["audit"], ["stats"], ["events"], ["events", "-f"],
        ["logs"], ["logs", "fw/0"], ["kill", "fw/0"], ["scale", "fw", "2"], ["restart"],
        ["restart", "fw"], ["stop"], ["stop", "--drain", "1s"],
    ],
)  # fmt: skip
def test_nothing_to_talk_to(words: list[str]) -> None:
    done = run(*words, "-n", "nobody-has-this-name")
    assert done.returncode == 3
    assert 'no instance "nobody-has-this-name" is running' in done.stderr
    assert done.stdout == ""


def test_no_such_object(instance: Run) -> None:
    instance.file.write_text(TOPOLOGY.format(name=instance.name))
    instance.start()
    for words, code, message in (
        (["scale", "fx", "1"], 4, "fx"),
        (["restart", "fx"], 4, "fx"),
        (["restart", "fw/2"], 4, "fw/2"),
        (["kill", "fw/2"], 4, "fw/2"),
        (["kill", "fw"], 4, "fw"),
        (["kill", "primary"], 4, "primary"),
        (["logs", "fw/2"], 4, "fw/2"),
        (["scale", "fw", "3"], 2, "max = 3"),
        (["kill", "fw/0", "-s", "99"], 2, "99"),
    ):
        done = instance.do(*words, check=False)
        assert (words, done.returncode) == (words, code), done.stderr
        assert message in done.stderr
        assert done.stdout == ""
    status = instance.status()
    assert [w["restarts"] for w in status["groups"][0]["workers"]] == [0, 0]
