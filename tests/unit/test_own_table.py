# SPDX-License-Identifier: BSD-3-Clause
"""A table of a plugin's own kind: the plugin lays it out; no worker sees what goes wrong in it."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dpsup.builder import own as owns
from dpsup.builder.book import Book
from dpsup.builder.own import Own
from dpsup.builder.region import Region
from dpsup.errors import DpsupError
from dpsup.tables.fields import NO_NAMES, Unreadable
from dpsup.tables.model import declare

SDK = Path(__file__).resolve().parents[2] / "workers" / "sdk"

# The bytes: how often it was called since they were zero, the sum of the values by its changes, the
# sum by all entries, and the keys in the order of all().
PLUGIN = r"""
#include <dpsup_plugin.h>
#include <stdio.h>
#include <unistd.h>

struct laid { uint32_t calls, by_changes, by_all, n, key[60]; };

static uint32_t be32(const void *at)
{
	const uint8_t *b = at;
	return (uint32_t)b[0] << 24 | b[1] << 16 | b[2] << 8 | b[3];
}

static int apply(const struct dps_table_work *w)
{
	struct laid *to = w->at;
	const struct dps_table_change *all = w->all(&(uint64_t){ 0 });
	uint64_t n;

	printf("apply of %s\n", w->table);
	if (w->bytes != 4096 || w->entries != 60 || w->key_bytes != 4 || w->value_bytes != 6)
		return -1;
	to->calls++;
	for (uint64_t i = 0; i < w->n; i++) {
		uint32_t key = be32(w->changes[i].key);

		if (key == 13) {
			to->by_changes = 0xdead;
			*(volatile int *)16 = 1;
		}
		if (key == 14) {
			to->by_changes = 0xdead;
			snprintf(w->error, w->error_len, "14 is\nno rule");
			return -1;
		}
		if (key == 15)
			for (;;)
				pause();
		if (key == 16)
			_exit(3);
		if (key == 17)
			dps_touch(to, 4);
		to->by_changes += w->changes[i].value != NULL ? be32(w->changes[i].value) : 1000;
	}
	all = w->all(&n);
	to->n = (uint32_t)n;
	to->by_all = 0;
	for (uint64_t i = 0; i < n; i++) {
		to->key[i] = be32(all[i].key);
		to->by_all += be32(all[i].value);
	}
	return 0;
}

static uint16_t packet(void *state, struct dps_packet *p)
{
	(void)state;
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "own", .packet = packet, .table_apply = apply, .table_layout = 7,
};
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "own.c").write_text(PLUGIN)
    out = folder / "own.so"
    subprocess.run(
        ["cc", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-O1", f"-I{SDK}",
         folder / "own.c", "-o", out],
        check=True,
    )  # fmt: skip
    return out


class Bench:
    """A table, and the plugin that lays it out."""

    def __init__(self, folder: Path, plugin: Path) -> None:
        self.folder, self.plugin = folder, plugin
        (folder / "t").mkdir()
        (folder / "rules.txt").write_text("1 10,7\n256 30,8\n")
        self.open()

    def open(self) -> None:
        """As a builder that starts."""
        table = declare("rules", "own", 60, key="be32", value="be32+be16", size=4096)
        self.region = Region(self.folder / "t" / "fw", [table], lambda _pid, _start: False)
        log, source = self.folder / "t" / "fw=rules", str(self.folder / "rules.txt")
        own = Own(lambda: str(self.plugin))
        self.book = Book(self.region, 0, NO_NAMES, log, source, "fw", own=own)
        self.book.begin()
        self.region.appear()
        self.serial = getattr(self, "serial", 0)

    def change(self, text: str, *, dry_run: bool = False) -> int:
        self.serial += 1
        return self.book.change(text, "", f"request-{self.serial}", dry_run=dry_run)["version"]

    def refused(self, text: str) -> DpsupError:
        before = self.all()
        with pytest.raises(DpsupError) as e:
            self.change(text)
        assert self.all() == before, "a batch that is refused changes nothing"
        return e.value

    def all(self) -> tuple[str, int, tuple[int, ...]]:
        return self.said, self.region.version(0), self.laid

    @property
    def said(self) -> str:
        return self.book.lines(0, 1 << 20)[0]

    @property
    def laid(self) -> tuple[int, ...]:
        """As a worker reads it: calls, sum by changes, sum by all, and the keys."""
        at = self.region.offset(0, self.region.which(0))
        data = (self.folder / "t" / "fw").read_bytes()[at : at + 256]
        calls, by_changes, by_all, n, *keys = struct.unpack("64I", data)
        return calls, by_changes, by_all, *keys[:n]


@pytest.fixture
def bench(tmp_path: Path, plugin: Path) -> Iterator[Bench]:
    yield Bench(tmp_path, plugin)


def test_the_plugin_lays_out_what_the_file_and_changes_say(bench: Bench) -> None:
    assert bench.laid == (1, 40, 40, 1, 256)
    assert bench.region.layout(0) == 7
    assert bench.change("add 2 5,1\ndel 256") == 2
    assert bench.laid == (2, 1045, 15, 1, 2), "it goes on with the bytes that it left"
    assert bench.change("set 2 6,1") == 3
    assert bench.laid == (3, 1051, 16, 1, 2)
    assert bench.said == "1 10,7\n2 6,1\n"
    assert bench.book.get("2") == "2 6,1\n"
    assert bench.change("clear") == 4
    assert bench.laid == (1, 0, 0), "from zero bytes"
    assert bench.change("add 3 1,1\nclear\nadd 4 2,2") == 5
    assert bench.laid == (1, 2, 2, 4)
    assert bench.book.row()["kind"] == "own"


@pytest.mark.parametrize(
    ("batch", "why"),
    [
        ("add 2 9,9\nadd 13 0,0", "it crashed (SIGSEGV)"),
        ("add 14 0,0", "14 is no rule"),
        ("add 16 0,0", "exit code 3"),
        ("add 17 0,0", "dps_touch, which has no place in table_apply"),
    ],
)
def test_what_goes_wrong_in_the_plugin_refuses_the_batch_alone(
    bench: Bench, batch: str, why: str
) -> None:
    e = bench.refused(batch)
    assert e.code == "E0538"
    assert why in e.message
    assert bench.change("add 5 1,1") == 2
    assert bench.laid == (2, 41, 41, 1, 5, 256), "nothing is left of what was refused"
    bench.open()
    assert bench.laid == (2, 41, 41, 1, 5, 256)


def test_one_that_does_not_come_back_is_ended(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owns, "APPLY_S", 0.3)
    e = bench.refused("add 15 0,0")
    assert "longer than 0.3 s" in e.message
    monkeypatch.undo()
    assert bench.change("add 5 1,1") == 2


def test_a_dry_run_asks_the_plugin_and_changes_nothing(bench: Bench) -> None:
    before = bench.all()
    bench.change("add 5 1,1", dry_run=True)
    assert bench.all() == before
    with pytest.raises(DpsupError, match="no rule"):
        bench.change("add 14 0,0", dry_run=True)
    assert bench.all() == before
    assert bench.change("add 5 1,1") == 2


class Died(BaseException):
    """The builder is killed here."""


def test_a_builder_that_dies_before_or_after_the_log_has_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise Died

    monkeypatch.setattr(bench.book.log, "append", die)
    with pytest.raises(Died):
        bench.change("add 5 1,1")
    bench.open()
    assert bench.laid == (1, 40, 40, 1, 256)
    monkeypatch.setattr(bench.region, "publish", die)
    with pytest.raises(Died):
        bench.change("add 5 1,1")
    bench.open()
    assert bench.said == "1 10,7\n5 1,1\n256 30,8\n"
    assert bench.laid == (1, 41, 41, 1, 5, 256), "what the log has is shown, from zero bytes"
    assert bench.region.version(0) == 2


def test_a_plugin_with_another_layout_or_none_is_refused(
    bench: Bench, tmp_path: Path, plugin: Path
) -> None:
    built = subprocess.run
    source = tmp_path / "other.c"
    for old, new, code in (
        (".table_layout = 7", ".table_layout = 8", "E0539"),
        (".table_apply = apply, .table_layout = 7", ".init = NULL", "E0538"),
    ):
        source.write_text(PLUGIN.replace(old, new))
        bench.plugin = tmp_path / f"{code}.so"
        built(["cc", "-shared", "-fPIC", f"-I{SDK}", source, "-o", bench.plugin], check=True)
        assert bench.refused("add 5 1,1").code == code
    bench.plugin = plugin
    assert bench.change("add 5 1,1") == 2


def test_a_start_says_why_the_plugin_refuses_the_file(tmp_path: Path, plugin: Path) -> None:
    bench = Bench(tmp_path, plugin)
    for path in (tmp_path / "t").iterdir():
        path.unlink()
    (tmp_path / "rules.txt").write_text("14 0,0\n")
    with pytest.raises(DpsupError, match="14 is no rule"):
        bench.open()
    assert not (tmp_path / "t" / "fw").exists(), "no worker maps it"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"key": "be32"}, "needs `bytes`"),
        ({"size": 4096}, "needs the type of its key"),
        ({"key": "be32", "size": 1 << 40}, "too many"),
    ],
)
def test_its_declaration(more: dict[str, object], says: str) -> None:
    with pytest.raises(Unreadable, match=says):
        declare("rules", "own", 10, **more)  # type: ignore[arg-type]
    with pytest.raises(Unreadable, match="has no `bytes`"):
        declare("routes", "ipv4", 10, size=4096)
