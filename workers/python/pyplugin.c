// SPDX-License-Identifier: BSD-3-Clause
//
// Plugins in Python: this module of dpsup's is loaded by workers, after their fork, and starts CPython
// in them (dps_python_open); and by a test, where there is a Python already (trial.c).
//
// The interpreter lives and dies with the worker: nothing is finalised, a worker leaves by _exit. It is
// started after the fork, so no state of Python's is ever forked. One thread runs it, the worker's data
// thread, which holds the GIL from init to the end.
//
// An exception that leaves packet() or a tick ends the process by SIGABRT, as a C plugin's abort() does, once its
// traceback is on stderr: the packet gets no verdict, and is blamed as for any crash. A PermissionError ends it by
// SIGSYS, and blames no packet.

#include "pyplugin.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

struct pyplugin *current;

static PyObject *source;        // the module dpsup.plugin_source

// Defined by the worker program; in a test there are none.
void dps_touch(void *at, uint32_t len) __attribute__((weak));
uint8_t *dps_emit(uint16_t verdict, uint32_t len) __attribute__((weak));
uint32_t dps_next_segment(const struct dps_packet *packet, const void **segment,
			  const uint8_t **bytes) __attribute__((weak));
uint32_t dps_hash_of(const struct dps_env *env, const struct dps_tuple *tuple)
	__attribute__((weak));
uint64_t dps_table_find(const struct dps_live_table *table, const void *key) __attribute__((weak));
const void *dps_table_record(const struct dps_live_table *table, uint64_t index)
	__attribute__((weak));
int dps_tell(const struct dps_env *env, const struct dps_live_table *table, const void *key,
	     uint64_t value) __attribute__((weak));

// --- load ----------------------------------------------------------------------------------------

static int
function_of(PyObject *module, const char *name, PyObject **function)
{
	if (!PyObject_HasAttrString(module, name))
		return 0;
	*function = PyObject_GetAttrString(module, name);
	return *function == NULL ? -1 : 0;
}

static int
names_of(PyObject *tuple, const char **to)
{
	for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple) && i < NAMES - 1; i++) {
		to[i] = PyUnicode_AsUTF8(PyTuple_GET_ITEM(tuple, i));
		if (to[i] == NULL)
			return -1;
	}
	return 0;
}

static int
fill(struct pyplugin *h)
{
	PyObject *reasons, *counters;
	struct dps_plugin *p = &h->plugin;

	*p = (struct dps_plugin){ DPS_PLUGIN_HEAD, .reasons = h->reasons, .counters = h->counters };
	if (!PyArg_ParseTuple(h->declared, "sIHHO!O!IIIIIIII", &p->name, &p->needs, &p->rewrites,
			      &p->prepends, &PyTuple_Type, &reasons, &PyTuple_Type, &counters,
			      &p->state_size, &p->bucket_state_size, &p->state_version, &p->emits,
			      &p->policy, &p->gauges, &p->tick_us, &p->bucket_tick_us) ||
	    names_of(reasons, h->reasons) != 0 || names_of(counters, h->counters) != 0 ||
	    function_of(h->module, "init", &h->init) != 0 ||
	    function_of(h->module, "packet", &h->packet) != 0 ||
	    function_of(h->module, "seated", &h->seated) != 0 ||
	    function_of(h->module, "fini", &h->fini) != 0 ||
	    function_of(h->module, "control", &h->control) != 0 ||
	    (p->tick_us != 0 && function_of(h->module, "tick", &h->tick) != 0) ||
	    (p->bucket_tick_us != 0 && function_of(h->module, "bucket_tick", &h->bucket_tick) != 0))
		return -1;
	h->packet_object = packet_new(h);
	h->env_object = env_new(h);
	return h->packet_object == NULL || h->env_object == NULL ? -1 : 0;
}

struct pyplugin *
pyplugin_load(const char *path, const struct backend *backend)
{
	struct pyplugin *h = PyMem_Calloc(1, sizeof(*h));
	PyObject *loaded;

	if (h == NULL) {
		PyErr_NoMemory();
		return NULL;
	}
	h->backend = backend;
	if (source == NULL)
		source = PyImport_ImportModule("dpsup.plugin_source");
	loaded = source == NULL ? NULL : PyObject_CallMethod(source, "load", "s", path);
	if (loaded != NULL && PyArg_ParseTuple(loaded, "OO!", &h->module, &PyTuple_Type, &h->declared)) {
		Py_INCREF(h->module);
		Py_INCREF(h->declared);
		if (fill(h) == 0) {
			Py_DECREF(loaded);
			return h;
		}
	}
	Py_XDECREF(loaded);
	pyplugin_free(h);
	return NULL;
}

void
pyplugin_free(struct pyplugin *h)
{
	PyObject *own[] = { h->module, h->declared, h->init, h->packet, h->seated, h->fini,
			    h->tick, h->bucket_tick, h->control, h->tables, h->packet_object, h->env_object };

	for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
		Py_XDECREF(own[i]);
	PyMem_Free(h);
}

// --- call ----------------------------------------------------------------------------------------

static int
call(struct pyplugin *h, PyObject *function, PyObject *arg)
{
	struct pyplugin *before = current;
	PyObject *result;

	if (function == NULL)
		return 0;
	current = h;
	result = arg == NULL ? PyObject_CallNoArgs(function) : PyObject_CallOneArg(function, arg);
	current = before;
	Py_XDECREF(result);
	return result == NULL ? -1 : 0;
}

int
pyplugin_init(struct pyplugin *h, const struct dps_env *env)
{
	h->env = env;
	return call(h, h->init, h->env_object);
}

int
pyplugin_seated(struct pyplugin *h, const struct dps_env *env)
{
	int ret;

	h->env = env;
	h->is_seating = true;
	ret = call(h, h->seated, h->env_object);
	h->is_seating = false;
	return ret;
}

static long
verdict_of(PyObject *result)
{
	long verdict = -1;

	if (PyLong_CheckExact(result))
		verdict = PyLong_AsLong(result);
	if (verdict >= 0 && verdict <= UINT16_MAX)
		return verdict;
	PyErr_Format(PyExc_TypeError, "packet() returned %R: a verdict is wanted, such as dps.out(port)",
		     result);
	return -1;
}

static void
begin(struct pyplugin *h, struct dps_packet *p, void *bucket_state)
{
	h->is_exact = true;
	h->in_hand = p;
	h->bucket_state = bucket_state;
	h->touched = 0;
	h->emitted = 0;
	current = h;
}

static void
end(struct pyplugin *h, struct pyplugin *before)
{
	h->is_exact = false;
	h->in_hand = NULL;
	h->bucket_state = NULL;
	current = before;
}

// A cycle of objects may hold a view that the plugin does not have any more.
static bool
keeps_views(uint32_t before, const char *where)
{
	if (lent_out() <= before)
		return false;
	PyGC_Collect();
	if (lent_out() <= before)
		return false;
	PyErr_Format(PyExc_BufferError,
		     "%s() returned and keeps a view of a packet or of state: copy what is needed later, "
		     "with bytes(view)", where);
	return true;
}

long
pyplugin_packet(struct pyplugin *h, struct dps_packet *p)
{
	uint16_t room = p->headroom < h->plugin.prepends ? p->headroom : h->plugin.prepends;
	uint32_t views = lent_out();    // 0 in a worker
	struct pyplugin *before = current;
	PyObject *result;
	long verdict = -1;

	h->least = p->data - room;
	h->start = p->data;
	h->end = p->data + (p->len < h->plugin.rewrites ? p->len : h->plugin.rewrites);
	begin(h, p, p->bucket_state);
	result = PyObject_CallOneArg(h->packet, h->packet_object);
	if (result != NULL) {
		verdict = verdict_of(result);
		Py_DECREF(result);
		if (verdict >= 0 && keeps_views(views, "packet"))
			verdict = -1;
	}
	end(h, before);
	return verdict;
}

// `args`: a new tuple, or NULL with a Python error. What the function returns does not count.
static int
tick(struct pyplugin *h, PyObject *function, const char *where, PyObject *args, uint32_t views,
     void *bucket_state)
{
	struct pyplugin *before = current;
	PyObject *result;

	if (args == NULL)
		return -1;
	begin(h, NULL, bucket_state);
	result = PyObject_CallObject(function, args);
	Py_DECREF(args);
	if (result != NULL) {
		Py_DECREF(result);
		if (keeps_views(views, where))
			result = NULL;
	}
	end(h, before);
	return result == NULL ? -1 : 0;
}

int
pyplugin_tick(struct pyplugin *h)
{
	return tick(h, h->tick, "tick", Py_BuildValue("(K)", (unsigned long long)h->env->now), lent_out(),
		    NULL);
}

int
pyplugin_bucket_tick(struct pyplugin *h, uint32_t bucket, void *bucket_state)
{
	uint32_t views = lent_out();
	PyObject *view = lend(bucket_state, h->plugin.bucket_state_size, false);

	return tick(h, h->bucket_tick, "bucket_tick",
		    view == NULL ? NULL :
				   Py_BuildValue("(KIN)", (unsigned long long)h->env->now, bucket, view),
		    views, bucket_state);
}

int
pyplugin_control(struct pyplugin *h, const char *text, uint32_t len)
{
	PyObject *arg = PyUnicode_DecodeUTF8(text, len, "replace");
	int ret = arg == NULL ? -1 : call(h, h->control, arg);

	Py_XDECREF(arg);
	return ret;
}

// --- in a worker ---------------------------------------------------------------------------------

static const struct backend worker = {
	.touch = dps_touch, .emit = dps_emit, .next_segment = dps_next_segment,
	.hash_of = dps_hash_of, .find = dps_table_find, .record = dps_table_record, .tell = dps_tell,
};

static void
say_last_resort(PyObject *error)
{
	PyObject *text = PyObject_Str(error);
	const char *bytes = text == NULL ? NULL : PyUnicode_AsUTF8(text);

	PyErr_Clear();
	fprintf(stderr, "%s: %s\n", Py_TYPE(error)->tp_name, bytes == NULL ? "" : bytes);
	Py_XDECREF(text);
}

static PyObject *
take_error(void)
{
	PyObject *type, *value, *traceback;

	PyErr_Fetch(&type, &value, &traceback);
	PyErr_NormalizeException(&type, &value, &traceback);
	if (value != NULL && traceback != NULL)
		PyException_SetTraceback(value, traceback);
	Py_XDECREF(type);
	Py_XDECREF(traceback);
	return value;
}

// The traceback on stderr, and one line of it in `why`.
static void
tell(const char *where, char *why, uint32_t len)
{
	PyObject *error = take_error();
	PyObject *line = NULL;
	const char *text;

	if (source != NULL)
		line = PyObject_CallMethod(source, "tell", "Os", error, where);
	text = line == NULL ? NULL : PyUnicode_AsUTF8(line);
	if (text == NULL)
		say_last_resort(error);
	if (why != NULL)
		snprintf(why, len, "%s", text != NULL ? text : Py_TYPE(error)->tp_name);
}

// By SIGABRT, as a C plugin's abort(). A worker may open no file after init (confine.h): what the kernel
// has refused is no packet's fault, which SIGSYS says.
static void __attribute__((noreturn))
end_by(const char *where)
{
	bool is_refused = PyErr_ExceptionMatches(PyExc_PermissionError);

	tell(where, NULL, 0);
	if (is_refused)
		raise(SIGSYS);
	abort();
}

static int
on_init(const struct dps_env *env, void **state)
{
	struct pyplugin *h = *state = current;

	current = NULL;
	if (pyplugin_init(h, env) == 0) {
		// What is there by now stays: the collector need not look at it again and again.
		PyObject *gc = PyImport_ImportModule("gc");
		PyObject *frozen = gc == NULL ? NULL : PyObject_CallMethod(gc, "freeze", NULL);

		Py_XDECREF(frozen);
		Py_XDECREF(gc);
		PyErr_Clear();
		return 0;
	}
	tell("init", env->error, env->error_len);
	return -1;
}

static void
on_seated(void *state, const struct dps_env *env)
{
	if (pyplugin_seated(state, env) == 0)
		return;
	end_by("seated");
}

static uint16_t
on_packet(void *state, struct dps_packet *packet)
{
	long verdict = pyplugin_packet(state, packet);

	if (__builtin_expect(verdict < 0, 0)) {
		end_by("packet");
	}
	return (uint16_t)verdict;
}

static void
on_tick(void *state)
{
	if (pyplugin_tick(state) == 0)
		return;
	end_by("tick");
}

static void
on_bucket_tick(void *state, uint32_t bucket, void *bucket_state)
{
	if (pyplugin_bucket_tick(state, bucket, bucket_state) == 0)
		return;
	end_by("bucket_tick");
}

static void
on_control(void *state, const char *text, uint32_t len)
{
	if (pyplugin_control(state, text, len) == 0)
		return;
	end_by("control");
}

static void
on_fini(void *state)
{
	struct pyplugin *h = state;

	if (call(h, h->fini, NULL) != 0)
		tell("fini", NULL, 0);
}

static bool
start(const char *program, char *why, uint32_t len)
{
	PyPreConfig before;
	PyConfig config;
	PyStatus status;

	PyPreConfig_InitIsolatedConfig(&before);
	before.utf8_mode = 1;
	status = Py_PreInitialize(&before);
	PyConfig_InitIsolatedConfig(&config);
	config.buffered_stdio = 0;
	config.write_bytecode = 0;
	if (!PyStatus_Exception(status))
		status = PyConfig_SetBytesString(&config, &config.executable, program);
	if (!PyStatus_Exception(status))
		status = PyConfig_SetBytesString(&config, &config.program_name, program);
	if (!PyStatus_Exception(status))
		status = Py_InitializeFromConfig(&config);
	PyConfig_Clear(&config);
	if (!PyStatus_Exception(status))
		return true;
	snprintf(why, len, "Python does not start (%s): %s", program, status.err_msg);
	return false;
}

// The worker's: NULL, and why. `program`: the Python whose packages the plugin may import.
__attribute__((visibility("default"))) const struct dps_plugin *
dps_python_open(const char *path, const char *program, char *why, uint32_t len);

const struct dps_plugin *
dps_python_open(const char *path, const char *program, char *why, uint32_t len)
{
	PyObject *here;
	struct pyplugin *h;

	if (!start(program, why, len))
		return NULL;
	here = PyImport_ImportModule("dpsup._python");
	if (here != NULL && objects_ready() == 0) {
		h = pyplugin_load(path, &worker);
		if (h != NULL) {
			h->plugin.init = on_init;
			h->plugin.packet = on_packet;
			h->plugin.seated = on_seated;
			h->plugin.fini = on_fini;
			h->plugin.tick = h->tick != NULL ? on_tick : NULL;
			h->plugin.bucket_tick = h->bucket_tick != NULL ? on_bucket_tick : NULL;
			h->plugin.control = h->control != NULL ? on_control : NULL;
			current = h;    // for on_init
			return &h->plugin;
		}
	}
	tell("", why, len);
	return NULL;
}

// --- the module ----------------------------------------------------------------------------------

PyMODINIT_FUNC PyInit__python(void);

PyMODINIT_FUNC
PyInit__python(void)
{
	static struct PyModuleDef definition = {
		PyModuleDef_HEAD_INIT, .m_name = "dpsup._python", .m_size = -1, .m_methods = words,
	};
	PyObject *module = objects_ready() == 0 ? PyModule_Create(&definition) : NULL;
	PyObject *trial = module == NULL ? NULL : PyType_FromSpec(&trial_spec);

	if (trial == NULL || PyModule_AddObject(module, "Trial", trial) != 0) {
		Py_XDECREF(trial);
		Py_CLEAR(module);
	}
	return module;
}
