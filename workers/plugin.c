// SPDX-License-Identifier: BSD-3-Clause
//
// Load a plugin into this worker: a built-in one, or a shared object behind dpsup_plugin.h.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <rte_cycles.h>

#include "loop.h"
#include "object.h"
#include "tables.h"
#include "worker.h"

static const struct dps_plugin *const builtin[] = {
	&plugin_forward, &plugin_macswap, &plugin_sink, &plugin_delay, &plugin_crash,
};

// What a source for ABI 3 has to change, and why its build does not fit.
#define SINCE_3 \
	" (in ABI 4 dps_packet and dps_plugin are larger: a plugin may look at a burst first. A " \
	"source for ABI 3 needs no change: docs/plugins/abi4.md)"

#define FILE_KEY "file:"        // limits.FILE
#define TABLES_KEY "tables:"    // limits.TABLES

// Bytes of dps_plugin: as ABI 4 began, members are added at its end; and what none will have.
enum { SIZE_FIRST = 128, SIZE_MOST = 1024 };

enum { FILES_MOST = DPS_ARGS / 8 };     // more do not fit the arguments

static struct dps_env env;
static const char *arg_keys[DPS_ARGS / 3];
static const char *arg_values[DPS_ARGS / 3];
static const char *port_names[DPS_MAX_PORTS];
static const char *group_names[DPS_MAX_GROUPS];
static uint16_t next[DPS_MAX_PORTS];
static struct dps_bytes files[FILES_MOST];
static uint32_t n_files, n_args;
static uint64_t place_room;     // bytes of the topology's `state`

static int __attribute__((format(printf, 3, 4)))
refuse(struct dps_sitter *me, int code, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(me->error, sizeof(me->error), format, ap);
	va_end(ap);
	return code;
}

// What names the frames of a crash: dpsup/host/symbols.py. The copy of a plugin's file is named after its
// contents, dpsup/instance/plugins.py; the digest of a file that has another name is not known here.
static void
note_place(struct dps_sitter *me, const char *path, const struct dps_plugin *plugin)
{
	const char *name = strrchr(path, '/');
	Dl_info info;
	char *end;

	if (dladdr(plugin, &info) != 0)
		me->plugin_base = (uintptr_t)info.dli_fbase;
	name = name != NULL ? name + 1 : path;
	me->plugin_digest = strtoull(name, &end, 16);
	if (end != name + 16 || *end != '-')
		me->plugin_digest = 0;
}

static int
find(struct dps_sitter *me, const struct dps_version *conf, const struct dps_plugin **plugin)
{
	void *object;

	if (conf->builtin) {
		for (size_t i = 0; i < sizeof(builtin) / sizeof(builtin[0]); i++)
			if (strcmp(builtin[i]->name, conf->plugin) == 0) {
				*plugin = builtin[i];
				return 0;
			}
		return refuse(me, DPS_EXIT_PLUGIN, "no built-in plugin \"%s\"", conf->plugin);
	}
	if (python_is(conf->plugin)) {
		*plugin = python_load(conf->plugin, me->error, sizeof(me->error));
		return *plugin == NULL ? DPS_EXIT_PLUGIN : 0;
	}
	object = object_open(conf->plugin);
	if (object == NULL)
		return refuse(me, DPS_EXIT_PLUGIN, "cannot load: %s", dlerror());
	*plugin = dlsym(object, "dps_plugin");
	if (*plugin == NULL)
		return refuse(me, DPS_EXIT_PLUGIN,
			      "%s exports no symbol dps_plugin: is it a dpsup plugin, built with "
			      "this dpsup_plugin.h?",
			      conf->plugin);
	note_place(me, conf->plugin, *plugin);
	return 0;
}

static uint32_t
copy_names(char to[][DPS_NAME], uint32_t most, const char *const *from)
{
	uint32_t n = 0;

	for (; from != NULL && n < most && from[n] != NULL; n++)
		snprintf(to[n], DPS_NAME, "%s", from[n]);
	return n;
}

// A plugin may be built with a header that has members at the end of dps_plugin that this one does not
// have, as long as it uses none of them.
static bool
has_more(const struct dps_plugin *p)
{
	const uint8_t *bytes = (const uint8_t *)p;

	if (p->size > SIZE_MOST)
		return true;
	for (uint32_t i = sizeof(*p); i < p->size; i++)
		if (bytes[i] != 0)
			return true;
	return false;
}

// With the members that it was built without: they are 0.
static const struct dps_plugin *
completed(const struct dps_plugin *p)
{
	static struct dps_plugin whole;

	if (p->size >= sizeof(*p))
		return p;
	memcpy(&whole, p, p->size);
	return &whole;
}

static int
check(struct dps_sitter *me, const struct dps_plugin *p)
{
	if (p->abi == 0 && p->size == 0)
		return refuse(me, DPS_EXIT_PLUGIN_ABI,
			      "its dps_plugin says nothing of itself: it is no struct dps_plugin, or "
			      "begins without DPS_PLUGIN_HEAD");
	if (p->abi != DPS_PLUGIN_ABI || p->size < SIZE_FIRST || (p->size > sizeof(*p) && has_more(p)))
		return refuse(me, DPS_EXIT_PLUGIN_ABI,
			      "built against plugin ABI %u (%u bytes), this dpsup has %u (%zu): "
			      "build it again with this dpsup_plugin.h%s",
			      p->abi, p->size, DPS_PLUGIN_ABI, sizeof(*p),
			      p->abi == 3 ? SINCE_3 : "");
	if (p->packet == NULL || p->name == NULL)
		return refuse(me, DPS_EXIT_PLUGIN_ABI, "it has no name or no packet function");
	if (p->state_size > DPS_PLUGIN_STATE || p->bucket_state_size > DPS_PLUGIN_BUCKET_STATE)
		return refuse(me, DPS_EXIT_PLUGIN_ABI,
			      "it declares %u bytes of state and %u of a bucket's, at most %u and %u "
			      "are possible", p->state_size, p->bucket_state_size,
			      DPS_PLUGIN_STATE, DPS_PLUGIN_BUCKET_STATE);
	if (p->emits > DPS_PLUGIN_EMITS)
		return refuse(me, DPS_EXIT_PLUGIN_ABI,
			      "it declares emits = %u, at most %u blanks are lent for each packet",
			      p->emits, DPS_PLUGIN_EMITS);
	if ((p->tick != NULL) != (p->tick_us != 0) ||
	    (p->bucket_tick != NULL) != (p->bucket_tick_us != 0))
		return refuse(me, DPS_EXIT_PLUGIN_ABI,
			      "it declares tick_us = %u %s tick, and bucket_tick_us = %u %s bucket_tick: "
			      "each function needs its interval, and an interval its function",
			      p->tick_us, p->tick != NULL ? "with" : "without", p->bucket_tick_us,
			      p->bucket_tick != NULL ? "with" : "without");
	if ((p->tick_us != 0 && p->tick_us < DPS_TICK_US) ||
	    (p->bucket_tick_us != 0 && p->bucket_tick_us < DPS_BUCKET_TICK_US))
		return refuse(me, DPS_EXIT_PLUGIN_ABI,
			      "it declares tick_us = %u and bucket_tick_us = %u, at least %u and %u are "
			      "possible", p->tick_us, p->bucket_tick_us, DPS_TICK_US,
			      DPS_BUCKET_TICK_US);
	if (p->bucket_tick != NULL && p->bucket_state_size == 0)
		return refuse(me, DPS_EXIT_PLUGIN_ABI,
			      "it declares bucket_tick and bucket_state_size = 0: only buckets with state "
			      "get ticks");
	if (p->rewrites + p->prepends > DPS_UNDO)
		return refuse(me, DPS_EXIT_PLUGIN_ABI,
			      "rewrites + prepends is %u bytes, at most %u can be put back",
			      p->rewrites + p->prepends, DPS_UNDO);
	return 0;
}

// The file's pages, which all workers share. It is a copy that no process changes: instance/plugins.py.
static int
map_file(struct dps_sitter *me, const char *name, const char *path)
{
	struct dps_bytes *file = &files[n_files];
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
		if (fd >= 0)
			close(fd);
		return refuse(me, DPS_EXIT_PLUGIN_INIT, "cannot read its file \"%s\", %s: %s", name, path,
			      fd < 0 ? strerror(errno) : "it is no regular file");
	}
	*file = (struct dps_bytes){ .name = name, .at = "", .len = st.st_size };
	if (st.st_size > 0)
		file->at = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
	close(fd);
	if (file->at == MAP_FAILED)
		return refuse(me, DPS_EXIT_PLUGIN_INIT, "cannot map its file \"%s\", %s: %s", name, path,
			      strerror(errno));
	n_files++;
	return 0;
}

static int
read_args(struct dps_sitter *me, const struct dps_version *version)
{
	const char *at = version->args;

	n_args = n_files = 0;
	for (uint32_t i = 0; i < version->n_args; i++) {
		const char *key = at, *value = at + strlen(at) + 1;
		int ret;

		at = value + strlen(value) + 1;
		if (strcmp(key, TABLES_KEY) == 0) {
			if (tables_map(value, me->error, sizeof(me->error)) != 0)
				return DPS_EXIT_PLUGIN_INIT;
			continue;
		}
		if (strncmp(key, FILE_KEY, strlen(FILE_KEY)) != 0) {
			arg_keys[n_args] = key;
			arg_values[n_args++] = value;
			continue;
		}
		ret = map_file(me, key + strlen(FILE_KEY), value);
		if (ret != 0)
			return ret;
	}
	return 0;
}

static void
fill_env(const struct dps_ctl *ctl, const struct dps_view *view, struct dps_sitter *me)
{
	const struct dps_group_conf *conf = &ctl->group[me->group];
	for (uint32_t i = 0; i < ctl->n_ports; i++)
		port_names[i] = ctl->port[i];
	for (uint32_t i = 0; i < DPS_MAX_PORTS; i++)
		next[i] = conf->next[i] == DPS_NOWHERE ? dps_out(i) : conf->next[i];
	for (uint32_t i = 0; i < ctl->n_groups; i++)
		group_names[i] = ctl->group[i].name;
	env = (struct dps_env){
		.group = conf->name,
		.worker = DPS_PLUGIN_SPARE,
		.n_args = n_args,
		.arg_keys = arg_keys,
		.arg_values = arg_values,
		.n_ports = ctl->n_ports,
		.n_groups = ctl->n_groups,
		.port_names = port_names,
		.group_names = group_names,
		.tsc_hz = ctl->tsc_hz,
		.counters = me->counter,
		.error = me->error,
		.error_len = sizeof(me->error),
		.next = next,
		.ports = (const struct dps_port_facts *)view->port,
		.ports_version = &view->ports_version,
		.groups = (const struct dps_group_facts *)view->group,
		.group_index = me->group,
		.hash_key_len = ctl->hash_key_len,
		.hash_key = ctl->hash_key,
		.files = files,
		.n_files = n_files,
	};
	env.tables = tables_all(&env.n_tables);
	hash_init(ctl);
	env.now = clock_ns(clock_rate(ctl->tsc_hz), rte_rdtsc());
}

uint64_t *
plugin_clock(void)
{
	return &env.now;
}

int
plugin_load(const struct dps_ctl *ctl, const struct dps_view *view, struct dps_sitter *me,
	    const struct dps_plugin **plugin, void **state)
{
	const struct dps_group_conf *conf = &ctl->group[me->group];
	const struct dps_version *version = &conf->version[me->version % DPS_VERSIONS];
	const struct dps_plugin *p;
	int ret;

	ret = find(me, version, &p);
	if (ret == 0)
		ret = check(me, p);
	if (ret != 0)
		return ret;
	p = completed(p);
	if (state_check(conf, p, me->error, sizeof(me->error)) != 0)
		return DPS_EXIT_PLUGIN_INIT;
	place_room = conf->state;
	ret = read_args(me, version);
	if (ret != 0)
		return ret;
	if (tables_check(p, me->error, sizeof(me->error)) != 0)
		return DPS_EXIT_PLUGIN_INIT;
	fill_env(ctl, view, me);
	if (dps_load32(&me->hand) == DPS_HAND_GO)
		plugin_seated(me->slot - conf->first_slot);
	*state = NULL;
	if (p->init != NULL && p->init(&env, state) != 0) {
		if (me->error[0] == '\0')
			refuse(me, 0, "its init refused and gave no reason");
		return DPS_EXIT_PLUGIN_INIT;
	}
	me->facts.needs = p->needs | (p->bucket_state_size > 0 ? DPS_NEED_HASH : 0) |
			  DPS_NEED_BLANKS * ((1u << p->emits) - 1);
	me->facts.rewrites = p->rewrites;
	me->facts.prepends = p->prepends;
	me->facts.n_reasons = copy_names(me->facts.reason, DPS_REASONS, p->reasons);
	me->facts.n_counters = copy_names(me->facts.counter_name, DPS_COUNTERS, p->counters);
	me->facts.policy = p->policy;
	me->facts.gauges = p->gauges;
	me->facts.tick_us = p->tick_us;
	me->facts.bucket_tick_us = p->bucket_tick_us;
	me->facts.state = p->state_size;
	me->facts.bucket_state = p->bucket_state_size;
	me->facts.stamp = state_stamp(p);
	me->facts.migrates = (p->migrate != NULL ? DPS_MIGRATES_PLACE : 0) |
			     (p->bucket_migrate != NULL ? DPS_MIGRATES_BUCKET : 0);
	*plugin = p;
	return 0;
}

// Plugins keep a pointer to it, so it is the same one that they learned of in init.
void
plugin_seated(uint32_t member)
{
	env.worker = member;
}

// 0, or -ENOMEM.
int
plugin_takes(struct dps_slot *slot, const struct dps_plugin *plugin, void *state)
{
	if (!state_seat(slot, place_room, plugin, &env))
		return -ENOMEM;
	tables_seat(slot->index, plugin, state);
	if (plugin->seated != NULL)
		plugin->seated(state, &env);
	tables_control();
	return 0;
}
