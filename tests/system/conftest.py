# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from harness import PATIENCE, Run, leftovers, wait_for

from dpsup.cli.root import cli

# What takes longest, and has a shorter sibling that shows the same: for deploy/test --long, so that
# all the rest takes CI less than 25 minutes.
LONG = frozenset(
    {
        "test_a_death_at_any_instruction_leaves_what_can_be_repaired[delay-cycles = 0-2-0-4096]",
        "test_a_death_at_any_instruction_leaves_what_can_be_repaired[example--1-0-any]",
        "test_a_death_at_any_instruction_leaves_what_can_be_repaired[forward--1-0-4096]",
        "test_a_death_at_any_instruction_leaves_what_can_be_repaired[sink--1-0-0]",
        "test_a_gap_in_the_looks_is_not_taken_for_sleep",
        "test_a_hint_says_what_to_type_and_that_helps",
        "test_a_kill_before_any_instruction_loses_nothing[False]",
        "test_a_late_supervisor_goes_on_from_the_lent_map[0ms]",
        "test_a_late_supervisor_goes_on_from_the_lent_map[1ms]",
        "test_a_move_comes_to_its_end_without_supervisor",
        "test_a_spare_that_does_not_come_is_passed_over",
        "test_a_supervisors_death",
        "test_a_watch_goes_on_and_ends_with_the_instance",
        "test_a_worker_that_says_it_is_a_spare_keeps_its_seat",
        "test_a_worse_version_is_undone_by_itself[abort]",
        "test_a_worse_version_is_undone_by_itself[crash at start]",
        "test_a_worse_version_is_undone_by_itself[leave]",
        "test_a_worse_version_is_undone_by_itself[slow]",
        "test_an_instance_that_runs_is_checked_by_its_counters",
        "test_buckets_are_lent_without_a_supervisor[2]",
        "test_bursts_into_short_lanes",
        "test_counts_and_numbers_go_on",
        "test_counts_move_with_their_flows[one io core]",
        "test_deaths_in_a_row_keep_order",
        "test_held_workers_start_with_a_version_that_works",
        "test_io_core_without_a_pulse_is_a_dead_primary[spins-False]",
        "test_killed_in_the_middle_of_a_start_or_of_an_adoption",
        "test_kills_in_the_middle_lose_nothing[2]",
        "test_kills_while_workers_come_and_go[0-1]",
        "test_kills_while_workers_come_and_go[1]",
        "test_metrics_tell_of_a_dead_supervisor_and_end_with_the_data_plane",
        "test_on_failure_nobody_follows_one_that_left_in_order",
        "test_one_packet_in_hand_at_many_kills",
        "test_polling_on_a_shared_cpu",
        "test_primary_that_hangs_is_a_dead_one",
        "test_rates_agree_with_the_counters",
        "test_rolling_restart_keeps_order",
        "test_skewed_flows",
        "test_small_bursts_and_a_cache_below_them",
        "test_spares_that_refuse_are_not_forked_for_ever",
        "test_stopped_supervisor_catches_up",
        "test_supervisor_and_primary_die_together[False]",
        "test_telemetry_shows_what_dpsup_counts",
        "test_testpmd_gets_all_back_with_the_macs_swapped[client]",
        "test_the_clock_starts_with_the_work",
        "test_the_next_supervisor_knows_what_to_do[done]",
        "test_the_next_supervisor_knows_what_to_do[preparing]",
        "test_unsound_primary_is_ended_and_a_new_generation_starts",
        "test_what_a_held_worker_had_goes_on_with_the_next_one",
        "test_what_a_version_needs_is_there_from_its_first_packet_on",
        "test_what_workers_print_is_read_on",
        "test_while_the_supervisor_answers_nothing_is_lent_by_the_primary",
        "test_whoever_dies_all_ends_as_declared[0]",
        "test_whoever_dies_all_ends_as_declared[1]",
        "test_wild_writes_are_found_out_or_do_no_harm",
        "test_worker_that_always_dies_is_held_and_restart_frees_it",
    }
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "system" in item.path.parts:
            item.add_marker(pytest.mark.system)
        if item.name in LONG:
            item.add_marker(pytest.mark.long)
        if item.get_closest_marker("long") and os.environ.get("DPSUP_LONG") != "1":
            item.add_marker(pytest.mark.skip(reason="a long target: deploy/test --long"))


@pytest.fixture
def instance(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Run]:
    """An instance of a name of its own, ended and looked after: it must leave nothing behind."""
    stem = re.sub(r"[^a-z0-9]", "", request.node.name.removeprefix("test_"))[:12]
    one = Run(f"t{os.getpid() % 100000}{stem}", tmp_path)
    yield one
    if one.process is not None and one.process.poll() is None:
        one.process.terminate()
        try:
            one.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            one.process.kill()
            one.process.communicate()
    # In this process: Python's start, twice a test, would be minutes of a run.
    for words in (("stop", "--drain", "200ms"), ("clean",)):
        CliRunner().invoke(cli, ["-n", one.name, *words])
    assert wait_for(lambda: not leftovers(one.name), 10), leftovers(one.name)
