# SPDX-License-Identifier: BSD-3-Clause
"""Files that a plugin is handed: of any size, as they were when its version was put in."""

from __future__ import annotations

from typing import Any

import pytest
from harness import NULL, Run, run
from jobs import build

pytestmark = pytest.mark.beside

PLUGIN = """
#include <stdio.h>
#include "dpsup_plugin.h"

enum { LEN, FIRST, SUM, EMPTY };
static const char *const names[] = { "len", "first", "sum", "empty", NULL };
static const struct dps_env *env;

static int init(const struct dps_env *e, void **state)
{
	const struct dps_bytes *routes = dps_file(e, "routes");

	(void)state;
	env = e;
	if (routes == NULL || dps_file(e, "none") != NULL || dps_file(e, "empty") == NULL ||
		dps_arg(e, "file:routes") != NULL || dps_arg_u64(e, "n", 0) != 7 || e->n_args != 1)
		return -1;
	if (routes->len > 0 && *(const char *)routes->at == '!') {
		snprintf(e->error, e->error_len, "routes: line 1 makes no sense");
		return -1;
	}
	return 0;
}

static uint16_t packet(void *state, struct dps_packet *p)
{
	const struct dps_bytes *routes = dps_file(env, "routes");
	const uint8_t *bytes = (const uint8_t *)routes->at;

	(void)state;
	if (env->counters[LEN] == 0) {
		env->counters[FIRST] = bytes[0];
		for (uint64_t i = 0; i < routes->len; i++)
			env->counters[SUM] += bytes[i];
		env->counters[EMPTY] = dps_file(env, "empty")->len;
	}
	env->counters[LEN] = routes->len;
	return dps_out(p->port);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "reads", .init = init, .packet = packet, .counters = names,
	.gauges = 15,
};
"""
ARGS = 'args = { map = { wan = "lan", lan = "wan" } }'


def write(instance: Run, text: str) -> dict[str, int]:
    """The file; what the plugin then tells of it."""
    (instance.folder / "routes.txt").write_text(text)
    data = text.encode()
    return {"len": len(data), "first": data[0], "sum": sum(data), "empty": 0}


def seen(instance: Run) -> list[dict[str, Any]]:
    workers = instance.status()["groups"][0]["workers"]
    return [w["gauges"] for w in workers if w["state"] == "running"]


def test_a_file_of_any_size_is_handed_over(instance: Run) -> None:
    first = write(instance, "one\n" * 100_000)
    (instance.folder / "empty.txt").touch()
    files = 'args = { n = 7 }\nfiles = { routes = "routes.txt", empty = "empty.txt" }'
    path = build(instance.folder, PLUGIN)
    text = NULL.replace("count = 2", "count = 1").replace(ARGS, files)
    instance.start(text.replace('"macswap"', f'"{path}"'))
    instance.until(lambda _: seen(instance) == [first])
    # What becomes of the file is seen by no process that is started meanwhile.
    second = write(instance, "two\n" * 30)
    instance.do("kill", "fw/0")
    instance.until(lambda s: s["recovery"]["deaths"] == 1 and seen(instance) == [first])
    # A reload sees it.
    told = instance.do("reload", "--dry-run").stdout
    assert 'workers.fw.files: { routes = "as it was" } -> { routes = "as it is now" }' in told
    instance.do("reload", "--judge", "0s")
    instance.until(lambda _: seen(instance) == [second])
    assert "nothing" in instance.do("reload", "--dry-run").stdout.lower()
    # A version that cannot read it is undone, with its word.
    write(instance, "!\n")
    done = instance.do("reload", "--judge", "0s", check=False)
    assert done.returncode != 0 and "line 1 makes no sense" in done.stdout + done.stderr
    assert seen(instance) == [second]
    instance.do("rollout", "undo", "fw", "--wait")
    instance.until(lambda _: seen(instance) == [first])
    # By hand, too.
    third = write(instance, "three\n")
    place = instance.folder / "routes.txt"
    instance.do("rollout", "fw", "--args", f"file:routes={place}", "--judge", "0s", "--wait")
    instance.until(lambda _: seen(instance) == [third])


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ('files = { routes = "nowhere.txt" }', ["E0511", "nowhere.txt", "topology.toml:"]),
        ("files = { routes = 5 }", ["a file's path is a text"]),
        ('args = { "file:routes" = "x" }', ["no argument", "files = { routes"]),
        (f'args = {{ long = "{"x" * 9000}" }}', ["files = { NAME"]),
    ],
)
def test_what_is_wrong_with_it_is_said_before_a_start(
    instance: Run, files: str, words: list[str]
) -> None:
    instance.write(NULL.replace(ARGS, files))
    done = run("check", str(instance.file))
    assert done.returncode == 78
    assert all(word in done.stdout + done.stderr for word in words), done.stdout + done.stderr
