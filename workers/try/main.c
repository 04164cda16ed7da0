// SPDX-License-Identifier: BSD-3-Clause
//
// dpsup-try, which `dpsup try` starts (dpsup/trial): takes words in pairs, a key and its value, and writes one
// JSON document a line. Packets come, and go, as records of the machine's own layout.

#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "try.h"

enum {
	DEATHS_MOST = 16,               // then the rest is not tried
	DEATHS_HERE = 3                 // of one packet that the repair does not blame
};

static uint8_t key[DPS_KEY];
static uint32_t key_len;
static bool sweeps;

void
fail(const char *format, ...)
{
	va_list args;

	fputs("dpsup-try: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	if (the_try.worker > 0)
		kill(the_try.worker, SIGKILL);
	if (the_try.nursery > 0)
		kill(the_try.nursery, SIGKILL);
	_exit(70);
}

void
say_string(const char *name, const char *value)
{
	FILE *r = the_try.report;

	fprintf(r, ", \"%s\": \"", name);
	for (; *value != '\0'; value++) {
		unsigned char c = *value;

		if (c == '"' || c == '\\')
			fprintf(r, "\\%c", c);
		else if (c < 0x20 || c > 0x7e)
			fprintf(r, "\\u%04x", c);
		else
			fputc(c, r);
	}
	fputc('"', r);
}

void
say_death(uint32_t number, int status, bool hung, const char *phase)
{
	const struct dps_sitter *s = the_try.sitter;
	FILE *r = the_try.report;
	int signo = s->signal != 0 ? (int)s->signal : WIFSIGNALED(status) ? WTERMSIG(status) : 0;

	fprintf(r, "{\"t\": \"finding\", \"kind\": \"%s\", \"packet\": %u, \"phase\": \"%s\", \"signal\": %d, "
		   "\"exit\": %d, \"address\": %lu, \"program_base\": %lu, \"plugin_base\": %lu, "
		   "\"frames\": [",
		hung ? "hang" : "crash", number == UINT32_MAX ? 0 : number + 1, phase, signo,
		signo == 0 && WIFEXITED(status) ? WEXITSTATUS(status) : -1, (unsigned long)s->address,
		(unsigned long)s->program_base, (unsigned long)s->plugin_base);
	for (uint32_t i = 0; s->signal != 0 && i < s->n_frames; i++)
		fprintf(r, "%s\"%#lx\"", i ? ", " : "", (unsigned long)s->frame[i]);
	fputs("]}\n", r);
}

static void
say_names(const char *name, uint32_t n, const char names[][DPS_NAME])
{
	fprintf(the_try.report, ", \"%s\": [", name);
	for (uint32_t i = 0; i < n; i++) {
		char text[DPS_NAME];

		snprintf(text, sizeof(text), "%s", names[i]);
		for (char *c = text; *c != '\0'; c++)
			if (*c == '"' || *c == '\\' || *c < 0x20 || *c > 0x7e)
				*c = '?';
		fprintf(the_try.report, "%s\"%s\"", i ? ", " : "", text);
	}
	fputc(']', the_try.report);
}

static void
say_plugin(void)
{
	const struct board *b = the_try.board;
	const struct dps_facts *f = &the_try.sitter->facts;

	fprintf(the_try.report,
		"{\"t\": \"plugin\", \"rewrites\": %u, \"prepends\": %u, \"state_size\": %u, "
		"\"bucket_state_size\": %u, \"emits\": %u, \"looks\": %u, \"touches\": %u, \"policy\": %u, "
		"\"gauges\": %u",
		b->rewrites, b->prepends, b->state_size, b->bucket_state_size, b->emits, b->looks,
		b->touches, f->policy, f->gauges);
	say_string("name", b->name);
	say_names("reasons", f->n_reasons, f->reason);
	say_names("counters", f->n_counters, f->counter_name);
	fputs("}\n", the_try.report);
}

// --- the run --------------------------------------------------------------------------------------

static uint32_t deaths, deaths_here;
static uint64_t died_at;                // number of a packet, or a tick's index and 1 << 32

// As the warden does it; then the next worker goes on. False: no more of this.
static bool
bury(int status, bool hung)
{
	struct lane *lane = the_try.lane;
	struct dps_sitter *s = the_try.sitter;
	struct dps_story story = { .pid = the_try.worker, .signal = s->signal, .code = s->code,
				   .sender = s->sender, .hung = hung };
	uint64_t in_hand = slot_in_hand(0);
	bool looks = the_try.slot->hand & DPS_BIT(DPS_HAND_LOOKS);
	uint32_t number = in_hand != 0 ? fate_number((uint32_t)in_hand) :
			  looks ? fate_number(world_done()) : UINT32_MAX;
	uint64_t here = in_hand != 0 && the_try.ticking ? 1ull << 32 | (uint32_t)in_hand : number;

	say_death(number, status, hung, looks ? "look" : in_hand == 0 ? "seated" :
					the_try.ticking ? "tick" : "packet");
	the_try.worker = 0;
	slot_repair(0, hung ? in_hand : 0, &story);
	if (story.corrupt) {
		fputs("{\"t\": \"finding\", \"kind\": \"corrupt\"", the_try.report);
		fprintf(the_try.report, ", \"packet\": %u}\n", the_try.first + 1);
		return false;
	}
	deaths_here = here == died_at ? deaths_here + 1 : 1;
	died_at = here;
	if (in_hand != 0 && deaths_here >= DEATHS_HERE)
		fate_refuse_packet("ends the process again and again");
	fate_collect();
	if (lane->collected != lane->sent && !the_try.ticking)
		fate_check(the_try.first, lane->shadow[lane->collected & lane->mask], false, NULL);
	return ++deaths < DEATHS_MOST && (in_hand != 0 || looks || deaths_here < DEATHS_HERE);
}

static int
wait_or_abort(bool *hung)
{
	int status = child_wait(the_try.worker);

	*hung = status == -1;
	if (*hung) {
		kill(the_try.worker, SIGABRT);
		child_go(the_try.worker);
		status = child_wait(the_try.worker);
	}
	if (status == -1) {
		child_end(the_try.worker);
		status = SIGKILL;
	}
	return status;
}

// What is lent.
static bool
run_lent(void)
{
	struct lane *lane = the_try.lane;
	bool hung;
	int status;

	world_publish();
	while (lane->collected != lane->sent) {
		if (the_try.worker == 0) {
			child_worker(false);
			status = wait_or_abort(&hung);
			if (!WIFSTOPPED(status)) {
				if (!bury(status, hung))
					return false;
				continue;
			}
		}
		child_go(the_try.worker);
		status = wait_or_abort(&hung);
		if (WIFSTOPPED(status))
			fate_collect();
		else if (!bury(status, hung))
			return false;
	}
	return true;
}

static bool
run_burst(uint32_t first, uint32_t n)
{
	world_at(first);
	for (uint32_t i = 0; i < n; i++)
		world_lend(first + i);
	return run_lent();
}

static bool
run_ticks(uint32_t number, const uint32_t *ticks, uint32_t n)
{
	bool ran;

	world_at(number);
	the_try.ticking = true;
	the_try.board->timed = false;   // figures are of packets
	for (uint32_t i = 0; i < n; i++)
		world_lend_tick(ticks[i]);
	ran = run_lent();
	the_try.board->timed = true;
	the_try.ticking = false;
	return ran;
}

static void
run(void)
{
	uint32_t done = 0, n = 0;

	for (; done < the_try.n_packets; done += n) {
		bool ran = ticks_run(done, run_ticks);

		n = ticks_before(done, RTE_MIN(the_try.burst, the_try.n_packets - done));
		if (!ran || !run_burst(done, n)) {
			fprintf(the_try.report, "{\"t\": \"stopped\", \"packet\": %u}\n",
				the_try.first + 1);
			break;
		}
	}
}

// --- what is asked for ----------------------------------------------------------------------------

static void
read_packets(int fd)
{
	struct stat st;
	const uint8_t *at, *end;
	uint32_t n = 0;

	if (fstat(fd, &st) != 0)
		fail("no packets");
	at = st.st_size > 0 ? mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0) : NULL;
	if (at == MAP_FAILED)
		fail("the packets cannot be mapped");
	end = at + st.st_size;
	the_try.packet = calloc(st.st_size / 16 + 1, sizeof(*the_try.packet));
	if (the_try.packet == NULL)
		fail("no memory");
	while (at < end) {
		struct try_packet *p = &the_try.packet[n++];

		memcpy(&p->ns, at, 8);
		memcpy(&p->len, at + 8, 4);
		memcpy(&p->port, at + 12, 4);
		p->bytes = at + 16;
		at += 16 + p->len;
	}
	the_try.n_packets = n;
}

static void
add_arg(const char *name, const char *value)
{
	struct dps_version *v = &the_try.ctl->group[0].version[0];
	char *at = v->args;

	for (uint32_t i = 0; i < 2 * v->n_args; i++)
		at += strlen(at) + 1;
	if (at + strlen(name) + strlen(value) + 2 > v->args + sizeof(v->args))
		fail("the arguments have more than %zu bytes", sizeof(v->args));
	strcpy(at, name);
	strcpy(at + strlen(name) + 1, value);
	v->n_args++;
}

static void
read_key(const char *hex)
{
	unsigned int byte;

	for (key_len = 0; key_len < DPS_KEY && sscanf(hex + 2 * key_len, "%2x", &byte) == 1; key_len++)
		key[key_len] = byte;
}

static void
set(const char *name, const char *value)
{
	struct dps_ctl *ctl = the_try.ctl;
	struct dps_group_conf *own = &ctl->group[0];

	if (strcmp(name, "parent") == 0) {
		// Nobody reads the report once it is gone: a plugin that loops would go on for hours.
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != atoi(value))
			_exit(70);
	} else if (strcmp(name, "plugin") == 0 || strcmp(name, "builtin") == 0) {
		snprintf(own->version[0].plugin, sizeof(own->version[0].plugin), "%s", value);
		own->version[0].builtin = name[0] == 'b';
	} else if (strcmp(name, "port") == 0 && ctl->n_ports < DPS_MAX_PORTS) {
		struct dps_port_view *view = &ctl->view.port[ctl->n_ports];

		*view = (struct dps_port_view){ .up = 1, .mbps = 10000, .mtu = 1500, .numa = -1 };
		view->mac[0] = 2;
		view->mac[5] = ctl->n_ports + 1;
		snprintf(ctl->port[ctl->n_ports++], DPS_NAME, "%s", value);
		ctl->view.ports_version++;
	} else if (strcmp(name, "group") == 0 && ctl->n_groups < DPS_MAX_GROUPS) {
		struct dps_group_view *view = &ctl->view.group[ctl->n_groups];

		view->workers = view->places = 1;
		view->version = 1;
		snprintf(ctl->group[ctl->n_groups++].name, DPS_NAME, "%s", value);
	} else if (strcmp(name, "next") == 0) {
		own->next[strtoul(value, NULL, 0) >> 16 & (DPS_MAX_PORTS - 1)] = strtoul(value, NULL, 0);
	} else if (strncmp(name, "arg:", 4) == 0) {
		add_arg(name + 4, value);
	} else if (strcmp(name, "packets") == 0) {
		read_packets(atoi(value));
	} else if (strcmp(name, "report") == 0) {
		the_try.report = fdopen(atoi(value), "w");
	} else if (strcmp(name, "out") == 0) {
		the_try.out = fdopen(atoi(value), "w");
	} else if (strcmp(name, "burst") == 0) {
		the_try.burst = atoi(value);
	} else if (strcmp(name, "timeout") == 0) {
		the_try.timeout = atof(value);
	} else if (strcmp(name, "key") == 0) {
		read_key(value);
	} else if (strcmp(name, "fields") == 0) {
		ctl->hash_fields = strtoull(value, NULL, 0);
	} else if (strcmp(name, "sweep") == 0) {
		sweeps = true;
	} else {
		fail("no word %s", name);
	}
}

// Processes that take turns do so fastest on one CPU.
static void
stay_here(void)
{
	cpu_set_t set;
	int cpu = sched_getcpu();

	if (cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

// Without random addresses, where that may be asked for: the same run each time.
static void
settle_addresses(char **argv)
{
	int now = personality(0xffffffff);

	if (now == -1 || now & ADDR_NO_RANDOMIZE || personality(now | ADDR_NO_RANDOMIZE) == -1 ||
	    !(personality(0xffffffff) & ADDR_NO_RANDOMIZE))
		return;
	execv("/proc/self/exe", argv);
}

int
main(int argc, char **argv)
{
	settle_addresses(argv);
	the_try.burst = 32;
	the_try.timeout = 10;
	world_create();
	for (int i = 1; i + 1 < argc; i += 2)
		set(argv[i], argv[i + 1]);
	if (the_try.report == NULL || the_try.packet == NULL || the_try.ctl->n_ports == 0 ||
	    the_try.ctl->n_groups == 0 || the_try.burst == 0 || the_try.burst > DPS_BURST)
		fail("this program is started by `dpsup try`");
	memcpy(the_try.ctl->hash_key, key, sizeof(key));
	the_try.ctl->hash_key_len = key_len;
	if (dps_hash_conf(key, key_len, the_try.ctl->hash_fields) != 0)
		fail("no such hash");
	the_primary.n_ports = the_try.ctl->n_ports;
	the_primary.n_groups = the_try.ctl->n_groups;
	stay_here();
	child_start();
	say_plugin();
	the_try.lane->needs = the_try.sitter->facts.needs;
	the_try.lane->emits = the_try.board->emits;
	the_try.board->timed = !sweeps;
	if (sweeps)
		sweep();
	else
		run();
	fate_report();
	if (the_try.worker > 0)
		child_end(the_try.worker);
	child_end(the_try.nursery);
	return fclose(the_try.report) == 0 && (the_try.out == NULL || fclose(the_try.out) == 0) ? 0 : 71;
}
