// SPDX-License-Identifier: BSD-3-Clause
//
// A plugin in a test: dpsup/testing.py. The same plugin, objects and words as in a worker; what serves
// touch and emit is here, as simple as it can be.

#include "pyplugin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADROOM = 128, ROOM = 65536, ERROR = 256 };

struct trial {
	PyObject_HEAD
	struct pyplugin *pyplugin;
	struct dps_env env;
	struct dps_port_facts *ports;
	struct dps_group_facts *groups;
	uint64_t ports_version;
	uint64_t counters[DPS_PLUGIN_COUNTERS];
	uint16_t next[256];
	char error[ERROR];
	PyObject *kept;                 // owns the bytes that env points to
	PyObject *state;                // bytearray
	const char **names;             // ports, groups, argument keys, argument values
	struct dps_bytes *files;

	// Of the packet in hand.
	uint32_t touched;
	struct {
		uint8_t *at;
		uint32_t len;
		uint8_t bytes[DPS_PLUGIN_TOUCH_BYTES];
	} piece[DPS_PLUGIN_TOUCHES_MOST];
	uint32_t emitted;
	struct {
		uint16_t verdict;
		uint32_t len;
		uint8_t *bytes;
	} own[DPS_PLUGIN_EMITS];
};

static struct trial *running;

static void
trial_touch(void *at, uint32_t len)
{
	struct trial *t = running;

	t->piece[t->touched].at = at;
	t->piece[t->touched].len = len;
	memcpy(t->piece[t->touched++].bytes, at, len);
}

static uint8_t *
trial_emit(uint16_t verdict, uint32_t len)
{
	struct trial *t = running;
	uint8_t *bytes = len == 0 ? NULL : calloc(1, len);

	if (bytes == NULL)
		return NULL;
	t->own[t->emitted].verdict = verdict;
	t->own[t->emitted].len = len;
	t->own[t->emitted++].bytes = bytes;
	return bytes;
}

static uint32_t
trial_next_segment(const struct dps_packet *packet, const void **segment, const uint8_t **bytes)
{
	(void)packet;
	(void)segment;
	(void)bytes;
	return 0;
}

static const struct backend backend = {
	.touch = trial_touch, .emit = trial_emit, .next_segment = trial_next_segment,
};

// --- its parts -----------------------------------------------------------------------------------

static const char **
names_of(PyObject *tuple, const char **to)
{
	for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); i++)
		*to++ = PyUnicode_AsUTF8(PyTuple_GET_ITEM(tuple, i));
	return to;
}

static int
trial_init(PyObject *self, PyObject *args, PyObject *keywords)
{
	static char *known[] = { "path", "group", "worker", "ports", "groups", "keys", "values",
				 "next", "files", "state", "warm", "tables", NULL };
	struct trial *t = (struct trial *)self;
	PyObject *ports, *groups, *keys, *values, *next, *files, *state, *tables;
	const char **at, *path, *group;
	unsigned int worker;
	Py_ssize_t had;
	int warm;

	if (t->pyplugin != NULL || !PyArg_ParseTupleAndKeywords(
		    args, keywords, "ssIO!O!O!O!O!O!O!pO!", known, &path, &group, &worker,
		    &PyTuple_Type, &ports, &PyTuple_Type, &groups, &PyTuple_Type, &keys, &PyTuple_Type,
		    &values, &PyTuple_Type, &next, &PyTuple_Type, &files, &PyByteArray_Type, &state,
		    &warm, &PyDict_Type, &tables))
		return -1;
	t->kept = args;
	Py_INCREF(args);
	t->state = state;
	Py_INCREF(state);
	t->names = calloc((size_t)(PyTuple_GET_SIZE(ports) + PyTuple_GET_SIZE(groups) +
				   2 * PyTuple_GET_SIZE(keys) + 1), sizeof(*t->names));
	t->ports = calloc((size_t)PyTuple_GET_SIZE(ports) + 1, sizeof(*t->ports));
	t->groups = calloc((size_t)PyTuple_GET_SIZE(groups) + 1, sizeof(*t->groups));
	t->files = calloc((size_t)PyTuple_GET_SIZE(files) + 1, sizeof(*t->files));
	if (t->names == NULL || t->ports == NULL || t->groups == NULL || t->files == NULL) {
		PyErr_NoMemory();
		return -1;
	}
	t->ports_version = 1;
	t->env = (struct dps_env){
		.group = group, .worker = worker, .tsc_hz = 1000000000, .counters = t->counters,
		.error = t->error, .error_len = ERROR, .next = t->next, .ports = t->ports,
		.ports_version = &t->ports_version, .groups = t->groups, .files = t->files,
		.n_ports = (uint32_t)PyTuple_GET_SIZE(ports),
		.n_groups = (uint32_t)PyTuple_GET_SIZE(groups),
		.n_args = (uint32_t)PyTuple_GET_SIZE(keys),
		.n_files = (uint32_t)PyTuple_GET_SIZE(files), .warm = (uint32_t)warm,
	};
	at = t->names;
	t->env.port_names = at;
	at = names_of(ports, at);
	t->env.group_names = at;
	at = names_of(groups, at);
	t->env.arg_keys = at;
	at = names_of(keys, at);
	t->env.arg_values = at;
	names_of(values, at);
	if (PyErr_Occurred() != NULL)
		return -1;
	for (uint32_t i = 0; i < t->env.n_ports && i < 256; i++) {
		t->ports[i] = (struct dps_port_facts){ .mac = { 2, 0, 0, 0, 0, (uint8_t)i }, .up = 1,
						       .mbps = 10000, .mtu = 1500 };
		t->next[i] = (uint16_t)PyLong_AsLong(PyTuple_GET_ITEM(next, i));
	}
	for (uint32_t i = 0; i < t->env.n_groups; i++) {
		t->groups[i].version = t->groups[i].workers = t->groups[i].places = 1;
		if (strcmp(t->env.group_names[i], group) == 0)
			t->env.group_index = i;
	}
	for (uint32_t i = 0; i < t->env.n_files; i++)
		if (!PyArg_ParseTuple(PyTuple_GET_ITEM(files, i), "sy#", &t->files[i].name,
				      &t->files[i].at, &t->files[i].len))
			return -1;
	t->pyplugin = pyplugin_load(path, &backend);
	if (t->pyplugin == NULL)
		return -1;
	t->pyplugin->tables = tables;
	Py_INCREF(tables);
	had = PyByteArray_GET_SIZE(state);
	if (had < (Py_ssize_t)t->pyplugin->plugin.state_size) {
		if (PyByteArray_Resize(state, t->pyplugin->plugin.state_size) != 0)
			return -1;
		memset(PyByteArray_AS_STRING(state) + had, 0,
		       (size_t)(t->pyplugin->plugin.state_size - had));
	}
	return 0;
}

static void
trial_free(PyObject *self)
{
	struct trial *t = (struct trial *)self;
	PyTypeObject *type = Py_TYPE(self);

	if (t->pyplugin != NULL)
		pyplugin_free(t->pyplugin);
	free(t->names);
	free(t->ports);
	free(t->groups);
	free(t->files);
	Py_XDECREF(t->kept);
	Py_XDECREF(t->state);
	type->tp_free(self);
	Py_DECREF(type);
}

static bool
is_ready(const struct trial *t)
{
	if (t->pyplugin == NULL)
		PyErr_SetString(PyExc_ValueError, "no plugin is loaded");
	return t->pyplugin != NULL;
}

static PyObject *
trial_begin(PyObject *self, PyObject *none)
{
	struct trial *t = (struct trial *)self;

	(void)none;
	if (!is_ready(t))
		return NULL;
	running = t;
	// What the plugin keeps, such as env, may lead here for as long as this process lives.
	Py_INCREF(self);
	if (pyplugin_init(t->pyplugin, &t->env) != 0)
		return NULL;
	if (t->pyplugin->plugin.state_size > 0)
		t->env.state = PyByteArray_AS_STRING(t->state);
	if (pyplugin_seated(t->pyplugin, &t->env) != 0)
		return NULL;
	Py_RETURN_NONE;
}

// As after a kill: nothing of the packet or tick took effect. What it originated stays allocated: views in
// the traceback's frames may lead there.
static PyObject *
undo(struct trial *t)
{
	while (t->touched > 0) {
		t->touched--;
		memcpy(t->piece[t->touched].at, t->piece[t->touched].bytes, t->piece[t->touched].len);
	}
	t->emitted = 0;
	return NULL;
}

static PyObject *
emitted_of(struct trial *t)
{
	PyObject *list = PyList_New(0);

	for (uint32_t i = 0; i < t->emitted; i++) {
		PyObject *one = list == NULL ? NULL : Py_BuildValue(
			"(Hy#)", t->own[i].verdict, t->own[i].bytes, (Py_ssize_t)t->own[i].len);

		if (one == NULL || PyList_Append(list, one) != 0)
			Py_CLEAR(list);
		Py_XDECREF(one);
		free(t->own[i].bytes);
	}
	t->emitted = 0;
	return list;
}

// packet(bytes, port, hash, vlan, tsc, bucket state): (verdict, bytes, [(verdict, bytes)]).
static PyObject *
trial_packet(PyObject *self, PyObject *args)
{
	struct trial *t = (struct trial *)self;
	PyObject *bucket, *emitted;
	uint8_t *room;
	Py_buffer bytes;
	struct dps_packet p = { 0 };
	unsigned long long tsc;
	unsigned int hash;
	int port, vlan;
	long verdict;

	if (!is_ready(t) || !PyArg_ParseTuple(args, "y*iIiKO!", &bytes, &port, &hash, &vlan, &tsc,
					      &PyByteArray_Type, &bucket))
		return NULL;
	room = bytes.len < 1 || bytes.len > UINT16_MAX ? NULL : malloc(HEADROOM + ROOM);
	if (room == NULL) {
		PyErr_Format(PyExc_ValueError, "a packet has 1 to %d bytes, not %zd", UINT16_MAX,
			     bytes.len);
		PyBuffer_Release(&bytes);
		return NULL;
	}
	memcpy(room + HEADROOM, bytes.buf, (size_t)bytes.len);
	p.data = room + HEADROOM;
	p.len = p.total = (uint32_t)bytes.len;
	p.hash = hash;
	p.port = (uint16_t)port;
	p.headroom = HEADROOM;
	p.vlan = vlan < 0 ? 0 : (uint16_t)vlan;
	p.has_vlan = vlan >= 0;
	p.tsc = tsc;
	p.bucket_state = t->pyplugin->plugin.bucket_state_size > 0 ? PyByteArray_AS_STRING(bucket) : NULL;
	PyBuffer_Release(&bytes);
	running = t;
	t->touched = 0;
	verdict = pyplugin_packet(t->pyplugin, &p);
	if (verdict < 0)
		return undo(t);         // for the same reason `room` stays
	emitted = emitted_of(t);
	args = emitted == NULL ? NULL :
				 Py_BuildValue("(ly#N)", verdict, p.data, (Py_ssize_t)p.len, emitted);
	free(room);
	return args;
}

// tick(): [(verdict, bytes)].
static PyObject *
trial_tick(PyObject *self, PyObject *none)
{
	struct trial *t = (struct trial *)self;

	(void)none;
	if (!is_ready(t))
		return NULL;
	if (t->pyplugin->tick == NULL)
		return PyErr_Format(PyExc_ValueError, "the plugin has no tick");
	running = t;
	t->touched = 0;
	return pyplugin_tick(t->pyplugin) != 0 ? undo(t) : emitted_of(t);
}

// bucket_tick(bucket, its state): likewise.
static PyObject *
trial_bucket_tick(PyObject *self, PyObject *args)
{
	struct trial *t = (struct trial *)self;
	unsigned int bucket;
	PyObject *state;

	if (!is_ready(t) || !PyArg_ParseTuple(args, "IO!", &bucket, &PyByteArray_Type, &state))
		return NULL;
	if (t->pyplugin->bucket_tick == NULL)
		return PyErr_Format(PyExc_ValueError, "the plugin has no bucket_tick");
	running = t;
	t->touched = 0;
	return pyplugin_bucket_tick(t->pyplugin, bucket, PyByteArray_AS_STRING(state)) != 0 ? undo(t) :
										      emitted_of(t);
}

static PyObject *
trial_control(PyObject *self, PyObject *arg)
{
	struct trial *t = (struct trial *)self;
	Py_ssize_t len;
	const char *text = is_ready(t) ? PyUnicode_AsUTF8AndSize(arg, &len) : NULL;

	if (text == NULL)
		return NULL;
	if (t->pyplugin->control == NULL)
		return PyErr_Format(PyExc_ValueError, "the plugin has no control");
	running = t;
	if (pyplugin_control(t->pyplugin, text, (uint32_t)len) != 0)
		return NULL;
	Py_RETURN_NONE;
}

static PyObject *
trial_facts(PyObject *self, void *closure)
{
	struct trial *t = (struct trial *)self;

	(void)closure;
	if (!is_ready(t))
		return NULL;
	Py_INCREF(t->pyplugin->declared);
	return t->pyplugin->declared;
}

static PyObject *
trial_counters(PyObject *self, void *closure)
{
	struct trial *t = (struct trial *)self;
	PyObject *list = PyList_New(0);

	(void)closure;
	for (uint32_t i = 0; list != NULL && i < DPS_PLUGIN_COUNTERS; i++) {
		bool is_gauge = t->pyplugin != NULL && (t->pyplugin->plugin.gauges >> i & 1) != 0;
		PyObject *one = is_gauge ? PyLong_FromLongLong((int64_t)t->counters[i]) :
					   PyLong_FromUnsignedLongLong(t->counters[i]);

		if (one == NULL || PyList_Append(list, one) != 0)
			Py_CLEAR(list);
		Py_XDECREF(one);
	}
	return list;
}

static int
trial_set_now(PyObject *self, PyObject *value, void *closure)
{
	(void)closure;
	((struct trial *)self)->env.now = value == NULL ? 0 : PyLong_AsUnsignedLongLong(value);
	return PyErr_Occurred() != NULL ? -1 : 0;
}

static PyObject *
trial_now(PyObject *self, void *closure)
{
	(void)closure;
	return PyLong_FromUnsignedLongLong(((struct trial *)self)->env.now);
}

static PyMethodDef methods[] = {
	{ "begin", trial_begin, METH_NOARGS, "init() and seated()" },
	{ "packet", trial_packet, METH_VARARGS, "packet()" },
	{ "tick", trial_tick, METH_NOARGS, "tick()" },
	{ "bucket_tick", trial_bucket_tick, METH_VARARGS, "bucket_tick()" },
	{ "control", trial_control, METH_O, "control()" },
	{ NULL, NULL, 0, NULL },
};
static PyGetSetDef fields[] = {
	{ "declared", trial_facts, NULL, "what the module declares", NULL },
	{ "counters", trial_counters, NULL, "all of them", NULL },
	{ "now", trial_now, trial_set_now, "env.now", NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};
static PyType_Slot slots[] = {
	{ Py_tp_init, trial_init }, { Py_tp_dealloc, trial_free }, { Py_tp_methods, methods },
	{ Py_tp_getset, fields }, { Py_tp_new, PyType_GenericNew }, { 0, NULL },
};
PyType_Spec trial_spec = {
	.name = "dpsup._python.Trial", .basicsize = sizeof(struct trial), .slots = slots,
	.flags = Py_TPFLAGS_DEFAULT,
};
