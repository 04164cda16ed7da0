# SPDX-License-Identifier: BSD-3-Clause
"""Commands that measure an instance or this machine, and test recovery."""

from __future__ import annotations

import sys

import click

from dpsup.cli.options import duration, live, name_option, output_option, print_json
from dpsup.errors import Exit


@click.command()
@click.argument("worker", shell_complete=live("workers"))
@click.option(
    "--for",
    "seconds",
    metavar="TIME",
    default="10s",
    callback=duration,
    help="How long to measure (10s).",
)
@output_option
@name_option
@click.pass_context
def perf(ctx: click.Context, worker: str, seconds: float, output: str) -> None:
    """Measure a worker: cycles per packet, packets per burst, time that packets spend in its lanes.

    Prints histograms with p50, p90, p99 and max, and the eight slowest bursts with the first bytes
    of their packets, as the plugin left them. Continues with the successor if the worker dies.

    \b
      dpsup perf fw/0 --for 10s
      dpsup perf fw/0 -o json | jq .cycles_per_packet.p99
    """
    from dpsup.inspect import perf as measuring
    from dpsup.inspect import perf_report

    doc = measuring.run(ctx.obj["name"], worker, seconds)
    if output == "json":
        print_json(doc)
    else:
        for line in perf_report.lines(doc):
            click.echo(line)


@click.command()
@click.option("--for", "seconds", default="5s", callback=duration, help="How long to measure (5s).")
@output_option
@name_option
@click.pass_context
def advise(ctx: click.Context, seconds: float, output: str) -> None:
    """Suggest changes that lose fewer packets or do more: pools, queues, lanes, workers, cores.

    Measures a running instance under its usual load and changes nothing. Each piece of advice says
    what was measured, why it matters, what to write or type, and which figure this changes, from
    what to what: run it again afterwards. The exit code is 0 even if there is advice.

    \b
      dpsup advise --for 10s
      dpsup advise -o json | jq '.advice[].changes'
    """
    from dpsup.advise import command, report

    doc = command.carry_out(ctx.obj["name"], seconds)
    if output == "json":
        print_json(doc)
    else:
        from dpsup.view import terminal

        terminal.print_lines(report.lines(doc, terminal.screen()))


@click.command()
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    default="report.html",
    help="The page (report.html); - is stdout.",
)
@click.option("--for", "seconds", default="5s", callback=duration, help="How long to measure (5s).")
@click.option("--chaos", "chaos_", metavar="FILE", help="Output of `dpsup chaos -o json` to show.")
@click.option("--bench", "bench_", metavar="FILE", help="Output of `dpsup bench -o json` to show.")
@name_option
@click.pass_context
def report(
    ctx: click.Context, output: str, seconds: float, chaos_: str | None, bench_: str | None
) -> None:
    """Write one HTML page: topology, rates, histograms, advice, doctor, deaths, events.

    The page needs no other file. Works on a running, degraded or headless instance, and on the
    record of a dead one.

    \b
      dpsup report -o edge.html
      dpsup chaos -o json > chaos.json; dpsup report --chaos chaos.json
    """
    from dpsup.report import gather

    text = gather.write(ctx.obj["name"], output, seconds, chaos_, bench_)
    if output == "-":
        click.echo(text, nl=False)
    else:
        click.echo(f"{output}: {len(text.encode()) // 1024} KiB", err=True)


@click.command()
@click.argument("case", nargs=-1)
@click.option("--list", "list_", is_flag=True, help="List the cases and measure nothing.")
@click.option(
    "--runs", type=click.IntRange(1, 1000), default=5, help="Number of interleaved rounds (5)."
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.2, 3600),
    default=2.0,
    help="Length of a throughput run (2).",
)
@click.option("--cores", metavar="IO,WORKER", help="The two CPUs; default: the last two.")
@click.option("--testpmd", metavar="PATH", default="auto", help="Path of dpdk-testpmd.")
@click.option("--dpdk-test", metavar="PATH", default="auto", help="Path of dpdk-test.")
@click.option("--client-server-mp", metavar="DIR", help="Directory of mp_server and mp_client.")
@click.option("--save", metavar="FILE", help="Write all results as JSON.")
@click.option("--compare", metavar="FILE", help="Compare with a file of an earlier --save.")
@click.option("--plot", metavar="FILE", help="Write throughputs side by side as SVG.")
@click.option("--markdown", metavar="FILE", help="Write the tables for docs/.")
@output_option
def bench(
    case: tuple[str, ...],
    list_: bool,
    runs: int,
    seconds: float,
    cores: str | None,
    testpmd: str,
    dpdk_test: str,
    client_server_mp: str | None,
    save: str | None,
    compare: str | None,
    plot: str | None,
    markdown: str | None,
    output: str,
) -> None:
    """Measure dpsup on this machine, against testpmd and other baselines.

    Needs root, hugepages and two idle CPUs, and no topology file. Every figure comes with the
    distance of the two cores, the share of stolen time, and the spread of its runs.

    \b
      dpsup bench                                   all cases, some minutes
      dpsup bench path others --runs 9              throughput, side by side
      dpsup bench --save new.json --compare old.json
      dpsup bench path others --plot path.svg --markdown path.md
    """
    from dpsup.bench import command

    if list_:
        listed = command.cases()
        if output == "json":
            print_json([{"name": name, "what": what} for name, what in listed.items()])
        else:
            for name, what in listed.items():
                click.echo(f"{name:10} {what}")
        return
    options = command.Options(
        case, runs, seconds, cores, testpmd, dpdk_test, client_server_mp, save, compare, plot,
        markdown, sys.argv[sys.argv.index("bench") + 1 :],
    )  # fmt: skip
    doc, text = command.carry_out(options, lambda line: click.echo(line, err=True))
    if output == "json":
        print_json(doc)
    else:
        click.echo(text)


@click.command()
@click.argument("file", required=False, type=click.Path(readable=False))
@click.option("--faults", help="Kinds of faults, see below (kill,segv,stop,hang,spare-kill,seed).")
@click.option("--rate", metavar="N/s", default="5/s", help="Average number of faults (5/s).")
@click.option("--seed", type=int, help="Seed of the random schedule; default: a new one each time.")
@click.option(
    "--for",
    "seconds",
    metavar="TIME",
    callback=duration,
    default="30s",
    help="How long to run (30s).",
)
@click.option("--plot", metavar="FILE", help="Draw throughput and faults as SVG.")
@output_option
@name_option
@click.pass_context
def chaos(
    ctx: click.Context,
    file: str | None,
    faults: str | None,
    rate: str,
    seed: int | None,
    seconds: float,
    plot: str | None,
    output: str,
) -> None:
    """Kill, crash, stop and hang processes under load, and check that no packet is lost.

    Without -n and FILE, creates a topology with numbered traffic and checks each packet: lost,
    duplicated, reordered or damaged; and that no mbuf leaked. With -n NAME, or with a topology FILE
    that it starts and stops, checks the counters and the audit. Exit code 0 only if every packet
    is accounted for. The schedule depends only on seed, faults, rate and duration. A fault is held
    back, and counted so, where the group's `restart` would not start the worker again.

    \b
      kill, segv, stop     a worker; stop: SIGSTOP, then SIGCONT
      hang                 a worker, in the middle of a packet (own topology only)
      spare-kill, seed     a spare; the process that forks workers
      attach-kill          the seed, then the next seed while it attaches
      primary              packets in flight are lost, and counted
      supervisor           then `dpsup start` (own topology only)

    \b
      dpsup chaos --rate 20/s --seed 7 --for 1m --plot chaos.svg
      dpsup chaos -n edge --faults kill,spare-kill --rate 1/s
    """
    from dpsup.chaos import command

    name = ctx.obj["name"]
    options = command.Options(name, file, faults, rate, seed, seconds, plot)
    doc, text = command.carry_out(options, lambda line: click.echo(line, err=True))
    if output == "json":
        print_json(doc)
    else:
        click.echo(text)
    if not doc["ok"]:
        ctx.exit(Exit.FAILED)
