# SPDX-License-Identifier: BSD-3-Clause
"""A table of the plugin's own kind in an instance: what table_apply does there, and who may die."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from eal import children
from harness import NULL, Run, builder, dies, wait_for
from jobs import build

from dpsup import DpsupError, connect

pytestmark = [pytest.mark.timeout(300), pytest.mark.beside]

# Its bytes are the sum of the values, which workers show; a rule 13 crashes it, and rule 15 takes
# as long as a file is there.
PLUGIN = r"""
#include <dpsup_plugin.h>
#include <stdio.h>
#include <unistd.h>

static const struct dps_env *env;
static const struct dps_live_table *rules;
static const char *const names[] = { "sum", NULL };

static uint32_t be32(const void *at)
{
	const uint8_t *b = at;
	return (uint32_t)b[0] << 24 | b[1] << 16 | b[2] << 8 | b[3];
}

static int apply(const struct dps_table_work *w)
{
	uint64_t *sum = w->at, n;
	const struct dps_table_change *all = w->all(&n);

	*sum = 0;
	for (uint64_t i = 0; i < n; i++) {
		*sum += be32(all[i].value);
		if (be32(all[i].key) == 13)
			*(volatile int *)16 = 1;
		while (be32(all[i].key) == 15 && access(SLOW, F_OK) == 0)
			usleep(1000);
	}
	return 0;
}

static int init(const struct dps_env *e, void **state)
{
	(void)state;
	env = e;
	rules = dps_table(e, "rules");
	return rules == NULL || rules->kind != DPS_TABLE_OWN || rules->key_bytes != 4;
}

static uint16_t packet(void *state, struct dps_packet *p)
{
	(void)state;
	env->counters[0] = *(const uint64_t *)rules->at;
	return dps_out(p->port ^ 1);
}

const struct dps_plugin dps_plugin = {
	DPS_PLUGIN_HEAD, .name = "own", .init = init, .packet = packet, .counters = names,
	.gauges = 1, .table_apply = apply, .table_layout = LAYOUT,
};
"""
ARGS = 'args = { map = { wan = "lan", lan = "wan" } }'
TABLES = (
    'tables = { rules = { kind = "own", key = "be32", value = "be32", entries = 100,'
    ' bytes = "1MiB", file = "rules.txt" } }'
)


def plugin(folder: Path, layout: int) -> Path:
    (folder / f"v{layout}").mkdir()
    slow = f'-DSLOW="{folder / "slow"}"'
    return build(folder / f"v{layout}", PLUGIN, f"-DLAYOUT={layout}", slow)


def sums(instance: Run) -> set[int]:
    """What the workers that have packets have read."""
    workers: list[dict[str, Any]] = instance.status()["groups"][0]["workers"]
    return {w["gauges"].get("sum", 0) for w in workers} - {0}


def test_a_table_of_the_plugin_s_own_kind(instance: Run) -> None:
    folder = instance.folder
    (folder / "rules.txt").write_text("1 10\n2 20\n")
    text = NULL.replace('"macswap"', f'"{plugin(folder, 1)}"').replace(ARGS, TABLES)
    instance.start(text.replace("count = 2", "count = 1"))
    wait_for(lambda: sums(instance) == {30})
    with connect(instance.name) as live:
        assert live.table_change("rules", "add 3 5")["version"] == 2
        wait_for(lambda: sums(instance) == {35})
        with pytest.raises(DpsupError, match="SIGSEGV") as refused:
            live.table_change("rules", "add 4 1\nadd 13 1\n")
        assert refused.value.code == "E0538"
        assert live.tables()["tables"][0]["version"] == 2
        # The builder is killed while the plugin lays the table out: that process ends too, and the
        # next builder carries the batch out, once.
        (folder / "slow").touch()
        done: list[Any] = []
        change = threading.Thread(
            target=lambda: done.append(live.table_change("rules", "add 15 7"))
        )
        change.start()
        old = builder(instance)
        try:
            (applies,) = wait_for(lambda: children(old))
        finally:
            dies(old)
            (folder / "slow").unlink()
            change.join()
        assert done[0]["version"] == 3
        wait_for(lambda: not Path(f"/proc/{applies}").exists())
        wait_for(lambda: sums(instance) == {42})
        assert "".join(live.table_lines("rules")) == "1 10\n2 20\n3 5\n15 7\n"
        assert instance.do("table", "rules", "diff").stdout == "del 3\ndel 15\n"
        # A version that lays it out otherwise goes back before a worker has changed.
        other = live.rollout("fw", str(plugin(folder, 2)), judge=0)
        assert other["phase"] == "undone"
        assert "table_layout is 2, and table rules is laid out as 1" in other["why"]
    assert sums(instance) == {42}
