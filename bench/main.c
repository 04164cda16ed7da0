// SPDX-License-Identifier: BSD-3-Clause
//
// dpsup-bench: the C half of `dpsup bench`. Measures what Python is too slow for, prints one JSON
// document on stdout, says on stderr what is wrong, and leaves all judgement to its caller.

#define _GNU_SOURCE
#include <getopt.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

static const char usage[] =
	"usage: dpsup-bench COMMAND [OPTIONS]\n"
	"\n"
	"  distance   the round trip of a cache line between two CPUs, ns\n"
	"  gaps       how long each CPU is away from a polling thread\n"
	"  lane       packets through a lane and back, as fast as it goes\n"
	"  cost       cycles a packet with and without the means to survive a kill\n"
	"  latency    how long they take, at 10 to 90 % of that, and alone\n"
	"\n"
	"  --cores A,B   CPUs of the two threads\n"
	"  --count N     measure N times (1)\n"
	"  --ms T        each for T ms (10)\n"
	"  --touch T     lane: only none, read or rewrite\n"
	"  --burst N     lane: only 8, 16, 32, 64 or 128 lent at a time\n"
	"  --ring N      lane: only 256, 1024 or 4096 words\n"
	"  --fifo        distance: with real-time priority: a short sample on cores that poll\n";

void
fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("dpsup-bench: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(1);
}

void
pin(int core, bool fifo)
{
	struct sched_param param = { .sched_priority = 1 };
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(core, &set);
	if (sched_setaffinity(0, sizeof(set), &set) != 0)
		fail("cannot use CPU %d", core);
	if (fifo && sched_setscheduler(0, SCHED_FIFO, &param) != 0)
		fail("no right to real-time priority");
}

uint64_t
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

uint64_t
waited_ns(int tid)
{
	unsigned long long ran, waited = 0;
	char path[64];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%d/schedstat", tid);
	file = fopen(path, "r");
	if (file == NULL || fscanf(file, "%llu %llu", &ran, &waited) != 2)
		fail("cannot read %s", path);
	fclose(file);
	return waited;
}

static uint32_t
number(const char *text, const char *option)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (*text == '\0' || *end != '\0' || n == 0 || n > 1000000000)
		fail("--%s: a number is wanted, not \"%s\"", option, text);
	return n;
}

static const struct command {
	const char *name;
	int (*run)(const struct options *o);
} commands[] = {
	{ "distance", run_distance },
	{ "gaps", run_gaps },
	{ "lane", run_lane },
	{ "cost", run_cost },
	{ "latency", run_latency },
};

int
main(int argc, char **argv)
{
	static const struct option known[] = {
		{ "cores", required_argument, NULL, 'c' },
		{ "count", required_argument, NULL, 'n' },
		{ "ms", required_argument, NULL, 'm' },
		{ "touch", required_argument, NULL, 't' },
		{ "burst", required_argument, NULL, 'b' },
		{ "ring", required_argument, NULL, 'r' },
		{ "fifo", no_argument, NULL, 'f' },
		{ "help", no_argument, NULL, 'h' },
		{ 0 }
	};
	struct options o = { .core = { -1, -1 }, .count = 1, .ms = 10 };
	int c;

	while ((c = getopt_long(argc, argv, "h", known, NULL)) != -1) {
		switch (c) {
		case 'c':
			if (sscanf(optarg, "%d,%d", &o.core[0], &o.core[1]) != 2)
				fail("--cores: two CPUs are wanted, not \"%s\"", optarg);
			break;
		case 'n':
			o.count = number(optarg, "count");
			break;
		case 'm':
			o.ms = number(optarg, "ms");
			break;
		case 't':
			o.touch = optarg;
			break;
		case 'b':
			o.burst = number(optarg, "burst");
			break;
		case 'r':
			o.ring = number(optarg, "ring");
			break;
		case 'f':
			o.fifo = true;
			break;
		case 'h':
			fputs(usage, stdout);
			return 0;
		default:
			return 2;
		}
	}
	if (optind != argc - 1) {
		fputs(usage, stderr);
		return 2;
	}
	if (o.core[0] < 0 || o.core[1] < 0 || o.core[0] == o.core[1])
		fail("--cores: two different CPUs are wanted");
	// Two threads that spin, perhaps with real-time priority, must not do so forever.
	alarm(60 + 60 * (uint64_t)o.count * o.ms / 1000);
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (strcmp(commands[i].name, argv[optind]) == 0)
			return commands[i].run(&o);
	fprintf(stderr, "dpsup-bench: no command \"%s\"\n%s", argv[optind], usage);
	return 2;
}
