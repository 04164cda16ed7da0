// SPDX-License-Identifier: BSD-3-Clause
//
// Load a plugin into this worker: a built-in one, or a shared object behind dpsup_plugin.h.

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>

#include "worker.h"

static const struct dps_plugin *const builtin[] = {
	&plugin_forward, &plugin_macswap, &plugin_sink, &plugin_delay, &plugin_crash,
};

static struct dps_env env;
static const char *arg_keys[DPS_ARGS / 3];
static const char *arg_values[DPS_ARGS / 3];
static const char *port_names[DPS_MAX_PORTS];
static const char *group_names[DPS_MAX_GROUPS];
static uint16_t next[DPS_MAX_PORTS];

static int __attribute__((format(printf, 3, 4)))
refuse(struct dps_sitter *me, int code, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(me->error, sizeof(me->error), format, ap);
	va_end(ap);
	return code;
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
	object = dlopen(conf->plugin, RTLD_NOW | RTLD_LOCAL);
	if (object == NULL)
		return refuse(me, DPS_EXIT_PLUGIN, "cannot load: %s", dlerror());
	*plugin = dlsym(object, "dps_plugin");
	if (*plugin == NULL)
		return refuse(me, DPS_EXIT_PLUGIN,
			      "%s exports no symbol dps_plugin: is it a dpsup plugin?",
			      conf->plugin);
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

static int
check(struct dps_sitter *me, const struct dps_plugin *p)
{
	if (p->abi == 0 && p->size == 0)
		return refuse(me, DPS_EXIT_PLUGIN_ABI,
			      "its dps_plugin says nothing of itself: it is no struct dps_plugin, or "
			      "begins without DPS_PLUGIN_HEAD");
	if (p->abi != DPS_PLUGIN_ABI || p->size != sizeof(*p))
		return refuse(me, DPS_EXIT_PLUGIN_ABI,
			      "built against plugin ABI %u (%u bytes), this dpsup has %u (%zu): "
			      "build it again with this dpsup_plugin.h",
			      p->abi, p->size, DPS_PLUGIN_ABI, sizeof(*p));
	if (p->packet == NULL || p->name == NULL)
		return refuse(me, DPS_EXIT_PLUGIN_ABI, "it has no name or no packet function");
	if (p->state_size > DPS_PLUGIN_STATE || p->bucket_state_size > DPS_PLUGIN_BUCKET_STATE)
		return refuse(me, DPS_EXIT_PLUGIN_ABI,
			      "it declares %u bytes of state and %u of a bucket's, at most %u and %u "
			      "are possible", p->state_size, p->bucket_state_size,
			      DPS_PLUGIN_STATE, DPS_PLUGIN_BUCKET_STATE);
	if (p->rewrites + p->prepends > DPS_UNDO)
		return refuse(me, DPS_EXIT_PLUGIN_ABI,
			      "rewrites + prepends is %u bytes, at most %u can be put back",
			      p->rewrites + p->prepends, DPS_UNDO);
	return 0;
}

static void
fill_env(const struct dps_ctl *ctl, struct dps_sitter *me, const struct dps_group_conf *conf,
	 const struct dps_version *version)
{
	const char *at = version->args;

	for (uint32_t i = 0; i < version->n_args; i++) {
		arg_keys[i] = at;
		at += strlen(at) + 1;
		arg_values[i] = at;
		at += strlen(at) + 1;
	}
	for (uint32_t i = 0; i < ctl->n_ports; i++)
		port_names[i] = ctl->port[i];
	for (uint32_t i = 0; i < DPS_MAX_PORTS; i++)
		next[i] = conf->next[i] == DPS_NOWHERE ? dps_out(i) : conf->next[i];
	for (uint32_t i = 0; i < ctl->n_groups; i++)
		group_names[i] = ctl->group[i].name;
	env = (struct dps_env){
		.group = conf->name,
		.worker = DPS_PLUGIN_SPARE,
		.n_args = version->n_args,
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
	};
}

int
plugin_load(const struct dps_ctl *ctl, struct dps_sitter *me, const struct dps_plugin **plugin,
	    void **state)
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
	if (state_check(conf, p, me->error, sizeof(me->error)) != 0)
		return DPS_EXIT_PLUGIN_INIT;
	fill_env(ctl, me, conf, version);
	if (dps_load32(&me->hand) == DPS_HAND_GO)
		plugin_seated(me->slot - conf->first_slot);
	*state = NULL;
	if (p->init != NULL && p->init(&env, state) != 0) {
		if (me->error[0] == '\0')
			refuse(me, 0, "its init refused and gave no reason");
		return DPS_EXIT_PLUGIN_INIT;
	}
	me->facts.needs = p->needs | (p->bucket_state_size > 0 ? DPS_NEED_HASH : 0);
	me->facts.rewrites = p->rewrites;
	me->facts.prepends = p->prepends;
	me->facts.n_reasons = copy_names(me->facts.reason, DPS_REASONS, p->reasons);
	me->facts.n_counters = copy_names(me->facts.counter_name, DPS_COUNTERS, p->counters);
	*plugin = p;
	return 0;
}

// Plugins keep a pointer to it, so it is the same one that they learned of in init.
void
plugin_seated(uint32_t member)
{
	env.worker = member;
}

void
plugin_takes(struct dps_slot *slot, const struct dps_plugin *plugin, void *state)
{
	state_seat(slot, plugin, &env);
	if (plugin->seated != NULL)
		plugin->seated(state, &env);
}
