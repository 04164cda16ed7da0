// SPDX-License-Identifier: BSD-3-Clause
//
// What a plugin in Python sees: its environment, the packet in hand, and views of bytes.
//
// A view is a memoryview of a `lent` object. Those of a packet end with the packet: the object counts the
// views that exist, and pyplugin_packet refuses a plugin that keeps one. Bytes that a kill would not put back
// are lent for reading alone, so a plugin cannot change them by mistake.

#include "pyplugin.h"

static uint32_t views;          // that end with the packet

struct lent {
	PyObject_HEAD
	void *at;
	Py_ssize_t len;
	bool is_writable;
	bool is_transient;
};

static int
lent_get(PyObject *self, Py_buffer *view, int flags)
{
	struct lent *l = (struct lent *)self;

	if (PyBuffer_FillInfo(view, self, l->at, l->len, !l->is_writable, flags) != 0)
		return -1;
	views += l->is_transient;
	return 0;
}

static void
lent_release(PyObject *self, Py_buffer *view)
{
	(void)view;
	views -= ((struct lent *)self)->is_transient;
}

static PyType_Slot lent_slots[] = {
	{ Py_bf_getbuffer, lent_get },
	{ Py_bf_releasebuffer, lent_release },
	{ 0, NULL },
};
static PyType_Spec lent_spec = {
	.name = "dpsup._python.lent", .basicsize = sizeof(struct lent), .slots = lent_slots,
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
};
static PyTypeObject *lent_type;

static PyObject *
view_of(const void *at, uint64_t len, bool is_writable, bool is_transient)
{
	struct lent *l = (struct lent *)lent_type->tp_alloc(lent_type, 0);
	PyObject *view;

	if (l == NULL)
		return NULL;
	l->at = (void *)(uintptr_t)at;
	l->len = (Py_ssize_t)len;
	l->is_writable = is_writable;
	l->is_transient = is_transient;
	view = PyMemoryView_FromObject((PyObject *)l);
	Py_DECREF(l);
	return view;
}

PyObject *
lend(void *at, uint64_t len, bool is_writable)
{
	return view_of(at, len, is_writable, true);
}

uint32_t
lent_out(void)
{
	return views;
}

// --- the packet ----------------------------------------------------------------------------------

struct object {
	PyObject_HEAD
	struct pyplugin *pyplugin;
};

static struct pyplugin *
pyplugin_of(PyObject *self)
{
	return ((struct object *)self)->pyplugin;
}

static struct dps_packet *
in_hand(PyObject *self)
{
	struct pyplugin *h = pyplugin_of(self);

	if (h == NULL || h->in_hand == NULL)
		PyErr_SetString(PyExc_ValueError, "the packet was lent for the duration of packet()");
	return h == NULL ? NULL : h->in_hand;
}

static PyObject *
packet_data(PyObject *self, void *closure)
{
	struct dps_packet *p = in_hand(self);

	(void)closure;
	return p == NULL ? NULL : lend(p->data, p->len, false);
}

static PyObject *
packet_head(PyObject *self, void *closure)
{
	struct dps_packet *p = in_hand(self);
	struct pyplugin *h = pyplugin_of(self);
	uint64_t len;

	(void)closure;
	if (p == NULL)
		return NULL;
	len = h->end > p->data ? (uint64_t)(h->end - p->data) : 0;
	return lend(p->data, len < p->len ? len : p->len, true);
}

static PyObject *
packet_bucket_state(PyObject *self, void *closure)
{
	struct dps_packet *p = in_hand(self);

	(void)closure;
	if (p == NULL)
		return NULL;
	if (p->bucket_state == NULL)
		Py_RETURN_NONE;
	return lend(p->bucket_state, pyplugin_of(self)->plugin.bucket_state_size, false);
}

#define NUMBER(field) \
	static PyObject *packet_##field(PyObject *self, void *closure) \
	{ \
		struct dps_packet *p = in_hand(self); \
\
		(void)closure; \
		return p == NULL ? NULL : PyLong_FromUnsignedLongLong(p->field); \
	}
NUMBER(port)
NUMBER(total)
NUMBER(hash)
NUMBER(headroom)
NUMBER(tsc)

static PyObject *
packet_length(PyObject *self, void *closure)
{
	struct dps_packet *p = in_hand(self);

	(void)closure;
	return p == NULL ? NULL : PyLong_FromUnsignedLong(p->len);
}

static int
packet_set_length(PyObject *self, PyObject *value, void *closure)
{
	struct dps_packet *p = in_hand(self);
	long len;

	(void)closure;
	if (p == NULL)
		return -1;
	len = value == NULL ? -1 : PyLong_AsLong(value);
	if (PyErr_Occurred() != NULL)
		return -1;
	if (len < 1 || len > (long)p->len) {
		PyErr_Format(PyExc_ValueError, "length: 1 to %u bytes are possible, a packet grows by "
			     "push()", p->len);
		return -1;
	}
	p->len = (uint32_t)len;
	return 0;
}

static PyObject *
packet_vlan(PyObject *self, void *closure)
{
	struct dps_packet *p = in_hand(self);

	(void)closure;
	if (p == NULL)
		return NULL;
	if (!p->has_vlan)
		Py_RETURN_NONE;
	return PyLong_FromUnsignedLong(p->vlan);
}

static PyObject *
packet_push(PyObject *self, PyObject *arg)
{
	struct dps_packet *p = in_hand(self);
	long n = p == NULL ? -1 : PyLong_AsLong(arg);

	if (p == NULL || PyErr_Occurred() != NULL)
		return NULL;
	if (n < 0 || n > p->data - pyplugin_of(self)->least)
		return PyErr_Format(PyExc_ValueError,
				    "push: %zd bytes before the packet may be taken (prepends, headroom)",
				    (Py_ssize_t)(p->data - pyplugin_of(self)->least));
	p->data -= n;
	p->len += (uint32_t)n;
	Py_RETURN_NONE;
}

static PyObject *
packet_pull(PyObject *self, PyObject *arg)
{
	struct dps_packet *p = in_hand(self);
	long n = p == NULL ? -1 : PyLong_AsLong(arg);

	if (p == NULL || PyErr_Occurred() != NULL)
		return NULL;
	if (n < 0 || n >= (long)p->len)
		return PyErr_Format(PyExc_ValueError, "pull: the packet has %u bytes, and keeps one",
				    p->len);
	p->data += n;
	p->len -= (uint32_t)n;
	Py_RETURN_NONE;
}

static PyObject *
packet_segments(PyObject *self, PyObject *none)
{
	struct dps_packet *p = in_hand(self);
	PyObject *list = p == NULL ? NULL : PyList_New(0);
	const void *segment = NULL;
	const uint8_t *bytes;
	uint32_t n;

	(void)none;
	while (list != NULL &&
	       (n = pyplugin_of(self)->backend->next_segment(p, &segment, &bytes)) > 0) {
		PyObject *one = PyBytes_FromStringAndSize((const char *)bytes, n);

		if (one == NULL || PyList_Append(list, one) != 0)
			Py_CLEAR(list);
		Py_XDECREF(one);
	}
	return list;
}

static PyGetSetDef packet_fields[] = {
	{ "data", packet_data, NULL, "all bytes of the first segment, read-only", NULL },
	{ "head", packet_head, NULL, "the bytes that `rewrites` and `prepends` declare, writable", NULL },
	{ "length", packet_length, packet_set_length, "bytes of the first segment", NULL },
	{ "total", packet_total, NULL, "bytes of all segments", NULL },
	{ "port", packet_port, NULL, "input port, an index into env.ports", NULL },
	{ "headroom", packet_headroom, NULL, "bytes free before the packet", NULL },
	{ "hash", packet_hash, NULL, "of the flow, where `needs` has \"hash\"", NULL },
	{ "vlan", packet_vlan, NULL, "TCI, or None; where `needs` has \"vlan\"", NULL },
	{ "tsc", packet_tsc, NULL, "when it was received, where `needs` has \"timestamp\"", NULL },
	{ "bucket_state", packet_bucket_state, NULL, "of its bucket, read-only: dps.touch", NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};
static PyMethodDef packet_methods[] = {
	{ "push", packet_push, METH_O, "push(n): the packet begins n bytes earlier" },
	{ "pull", packet_pull, METH_O, "pull(n): the packet begins n bytes later" },
	{ "segments", packet_segments, METH_NOARGS, "the bytes of its further segments" },
	{ NULL, NULL, 0, NULL },
};
static PyType_Slot packet_slots[] = {
	{ Py_tp_getset, packet_fields }, { Py_tp_methods, packet_methods }, { 0, NULL },
};
static PyType_Spec packet_spec = {
	.name = "dpsup.plugin.Packet", .basicsize = sizeof(struct object), .slots = packet_slots,
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
};
static PyTypeObject *packet_type;

// --- the environment -----------------------------------------------------------------------------

static const struct dps_env *
env_of(PyObject *self)
{
	return pyplugin_of(self)->env;
}

static PyObject *
env_group(PyObject *self, void *closure)
{
	(void)closure;
	return PyUnicode_FromString(env_of(self)->group);
}

static PyObject *
env_worker(PyObject *self, void *closure)
{
	(void)closure;
	if (env_of(self)->worker == DPS_PLUGIN_SPARE)
		Py_RETURN_NONE;
	return PyLong_FromUnsignedLong(env_of(self)->worker);
}

static PyObject *
names_of(const char *const *names, uint32_t n)
{
	PyObject *tuple = PyTuple_New(n);

	for (uint32_t i = 0; tuple != NULL && i < n; i++) {
		PyObject *one = PyUnicode_FromString(names[i]);

		if (one == NULL)
			Py_CLEAR(tuple);
		else
			PyTuple_SET_ITEM(tuple, i, one);
	}
	return tuple;
}

static PyObject *
env_ports(PyObject *self, void *closure)
{
	(void)closure;
	return names_of(env_of(self)->port_names, env_of(self)->n_ports);
}

static PyObject *
env_groups(PyObject *self, void *closure)
{
	(void)closure;
	return names_of(env_of(self)->group_names, env_of(self)->n_groups);
}

static PyObject *
env_args(PyObject *self, void *closure)
{
	const struct dps_env *env = env_of(self);
	PyObject *dict = PyDict_New();

	(void)closure;
	for (uint32_t i = 0; dict != NULL && i < env->n_args; i++) {
		PyObject *value = PyUnicode_FromString(env->arg_values[i]);

		if (value == NULL || PyDict_SetItemString(dict, env->arg_keys[i], value) != 0)
			Py_CLEAR(dict);
		Py_XDECREF(value);
	}
	return dict;
}

static PyObject *
env_files(PyObject *self, void *closure)
{
	const struct dps_env *env = env_of(self);
	PyObject *dict = PyDict_New();

	(void)closure;
	for (uint32_t i = 0; dict != NULL && i < env->n_files; i++) {
		PyObject *view = view_of(env->files[i].at, env->files[i].len, false, false);

		if (view == NULL || PyDict_SetItemString(dict, env->files[i].name, view) != 0)
			Py_CLEAR(dict);
		Py_XDECREF(view);
	}
	return dict;
}

static PyObject *
env_state(PyObject *self, void *closure)
{
	const struct dps_env *env = env_of(self);

	(void)closure;
	if (env->state == NULL)
		Py_RETURN_NONE;
	return view_of(env->state, pyplugin_of(self)->plugin.state_size, false, false);
}

static PyObject *
env_warm(PyObject *self, void *closure)
{
	(void)closure;
	return PyBool_FromLong(env_of(self)->warm);
}

static PyObject *
env_now(PyObject *self, void *closure)
{
	(void)closure;
	return PyLong_FromUnsignedLongLong(*(const volatile uint64_t *)&env_of(self)->now);
}

static PyObject *
env_tsc_hz(PyObject *self, void *closure)
{
	(void)closure;
	return PyLong_FromUnsignedLongLong(env_of(self)->tsc_hz);
}

static PyObject *
env_ports_version(PyObject *self, void *closure)
{
	(void)closure;
	return PyLong_FromUnsignedLongLong(*(const volatile uint64_t *)env_of(self)->ports_version);
}

static PyObject *
env_port_facts(PyObject *self, PyObject *arg)
{
	const struct dps_env *env = env_of(self);
	unsigned long i = PyLong_AsUnsignedLong(arg);
	const struct dps_port_facts *f;

	if (PyErr_Occurred() != NULL)
		return NULL;
	if (i >= env->n_ports)
		return PyErr_Format(PyExc_IndexError, "port_facts: there are %u ports", env->n_ports);
	f = &env->ports[i];
	return Py_BuildValue("{s:y#,s:O,s:I,s:I,s:i}", "mac", f->mac, (Py_ssize_t)6, "up",
			     f->up ? Py_True : Py_False, "mbps", f->mbps, "mtu", f->mtu, "numa",
			     f->numa);
}

// --- a table -------------------------------------------------------------------------------------

struct table_object {
	PyObject_HEAD
	struct pyplugin *pyplugin;
	const struct dps_live_table *live;
};

// A key as the worker's lookups read it, which is so long.
static int
key_of(const struct dps_live_table *live, PyObject *key, Py_buffer *view)
{
	Py_ssize_t len = live->kind == DPS_TABLE_EXACT ? live->key_bytes :
			 live->kind == DPS_TABLE_IPV4  ? 4 : 16;

	if (PyObject_GetBuffer(key, view, PyBUF_SIMPLE) != 0)
		return -1;
	if (view->len == len)
		return 0;
	PyErr_Format(PyExc_ValueError, "a key of table %s has %zd bytes, not %zd", live->name, len,
		     view->len);
	PyBuffer_Release(view);
	return -1;
}

static PyObject *
table_get(PyObject *self, PyObject *key)
{
	struct table_object *t = (struct table_object *)self;
	const struct backend *b = t->pyplugin->backend;
	uint64_t value;
	Py_buffer view;

	if (t->live->kind == DPS_TABLE_ARRAY) {
		uint64_t index = PyLong_AsUnsignedLongLong(key);
		const char *record = PyErr_Occurred() == NULL ? b->record(t->live, index) : NULL;

		if (PyErr_Occurred() != NULL)
			return NULL;
		if (record == NULL)
			Py_RETURN_NONE;
		return PyBytes_FromStringAndSize(record, t->live->value_bytes);
	}
	if (key_of(t->live, key, &view) != 0)
		return NULL;
	value = b->find(t->live, view.buf);
	PyBuffer_Release(&view);
	if (value == UINT64_MAX)
		Py_RETURN_NONE;
	return PyLong_FromUnsignedLongLong(value);
}

static PyObject *
table_tell(PyObject *self, PyObject *args)
{
	struct table_object *t = (struct table_object *)self;
	unsigned long long value;
	PyObject *key, *number;
	Py_buffer view;
	int ret;

	if (!PyArg_ParseTuple(args, "OO!", &key, &PyLong_Type, &number))
		return NULL;
	value = PyLong_AsUnsignedLongLong(number);
	if (PyErr_Occurred() != NULL || key_of(t->live, key, &view) != 0)
		return NULL;
	ret = t->pyplugin->backend->tell(t->pyplugin->env, t->live, view.buf, value);
	PyBuffer_Release(&view);
	return PyBool_FromLong(ret > 0);
}

static PyObject *
table_version(PyObject *self, PyObject *none)
{
	(void)none;
	return PyLong_FromUnsignedLongLong(
		*(const volatile uint64_t *)&((struct table_object *)self)->live->version);
}

static PyMethodDef table_methods[] = {
	{ "get", table_get, METH_O, "the value of a key, an array's record; None: there is none" },
	{ "tell", table_tell, METH_VARARGS, "tell the other workers a key and its value" },
	{ "version", table_version, METH_NOARGS, "another number after each change" },
	{ NULL, NULL, 0, NULL },
};
static PyType_Slot table_slots[] = { { Py_tp_methods, table_methods }, { 0, NULL } };
static PyType_Spec table_spec = {
	.name = "dpsup.plugin.Table", .basicsize = sizeof(struct table_object), .slots = table_slots,
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
};
static PyTypeObject *table_type;

static PyObject *
env_table(PyObject *self, PyObject *arg)
{
	const struct dps_env *env = env_of(self);
	const char *name = PyUnicode_AsUTF8(arg);

	if (name == NULL)
		return NULL;
	if (pyplugin_of(self)->tables != NULL)
		return PyObject_CallMethod(pyplugin_of(self)->tables, "get", "O", arg);
	for (uint32_t i = 0; i < env->n_tables; i++) {
		struct table_object *t;

		if (strcmp(env->tables[i].name, name) != 0)
			continue;
		t = (struct table_object *)table_type->tp_alloc(table_type, 0);
		if (t != NULL) {
			t->pyplugin = pyplugin_of(self);
			t->live = &env->tables[i];
		}
		return (PyObject *)t;
	}
	Py_RETURN_NONE;
}

static PyGetSetDef env_fields[] = {
	{ "group", env_group, NULL, "the group's name", NULL },
	{ "worker", env_worker, NULL, "index in the group; None: a spare", NULL },
	{ "args", env_args, NULL, "arguments, nested ones as \"map.wan\"", NULL },
	{ "files", env_files, NULL, "files of the topology, their bytes", NULL },
	{ "ports", env_ports, NULL, "names", NULL },
	{ "groups", env_groups, NULL, "names", NULL },
	{ "state", env_state, NULL, "of the place, read-only: dps.touch; None before seated()", NULL },
	{ "warm", env_warm, NULL, "the state is what this plugin left there", NULL },
	{ "now", env_now, NULL, "nanoseconds, the clock of all workers", NULL },
	{ "tsc_hz", env_tsc_hz, NULL, "of the TSC", NULL },
	{ "ports_version", env_ports_version, NULL, "another number after a change of a port", NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};
static PyMethodDef env_methods[] = {
	{ "port_facts", env_port_facts, METH_O, "mac, up, mbps, mtu, numa of a port, by index" },
	{ "table", env_table, METH_O, "a live table by its name; None: the topology declares none" },
	{ NULL, NULL, 0, NULL },
};
static PyType_Slot env_slots[] = {
	{ Py_tp_getset, env_fields }, { Py_tp_methods, env_methods }, { 0, NULL },
};
static PyType_Spec env_spec = {
	.name = "dpsup.plugin.Env", .basicsize = sizeof(struct object), .slots = env_slots,
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
};
static PyTypeObject *env_type;

// --- both ----------------------------------------------------------------------------------------

static PyObject *
object_new(PyTypeObject *type, struct pyplugin *h)
{
	struct object *o = (struct object *)type->tp_alloc(type, 0);

	if (o != NULL)
		o->pyplugin = h;
	return (PyObject *)o;
}

PyObject *
env_new(struct pyplugin *h)
{
	return object_new(env_type, h);
}

PyObject *
packet_new(struct pyplugin *h)
{
	return object_new(packet_type, h);
}

int
objects_ready(void)
{
	if (lent_type != NULL)
		return 0;
	lent_type = (PyTypeObject *)PyType_FromSpec(&lent_spec);
	packet_type = (PyTypeObject *)PyType_FromSpec(&packet_spec);
	env_type = (PyTypeObject *)PyType_FromSpec(&env_spec);
	table_type = (PyTypeObject *)PyType_FromSpec(&table_spec);
	return lent_type && packet_type && env_type && table_type ? 0 : -1;
}
