// SPDX-License-Identifier: BSD-3-Clause
//
// The words of dpsup_plugin.h, for plugins in Python: dpsup/plugin.py names them.

#include "pyplugin.h"

#include <arpa/inet.h>

static bool
read_u32(PyObject *from, const char *what, unsigned long most, uint32_t *to)
{
	long n = PyLong_AsLong(from);

	if (PyErr_Occurred() != NULL)
		return false;
	if (n < 0 || (unsigned long)n > most) {
		PyErr_Format(PyExc_ValueError, "%s: 0 to %lu is possible, not %ld", what, most, n);
		return false;
	}
	*to = (uint32_t)n;
	return true;
}

static bool
count_is(const char *word, Py_ssize_t n, Py_ssize_t least, Py_ssize_t most)
{
	if (n >= least && n <= most)
		return true;
	PyErr_Format(PyExc_TypeError, "%s takes %zd to %zd arguments, %zd are given", word, least, most,
		     n);
	return false;
}

static PyObject *
verdict(uint16_t value)
{
	return PyLong_FromUnsignedLong(value);
}

static PyObject *
word_out(PyObject *module, PyObject *arg)
{
	uint32_t port;

	(void)module;
	return read_u32(arg, "out: a port's index", 0xfff, &port) ? verdict(dps_out(port)) : NULL;
}

static PyObject *
word_drop(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
	uint32_t reason = 0;

	(void)module;
	if (!count_is("drop", n, 0, 1) ||
	    (n == 1 && !read_u32(args[0], "drop: a reason's index", DPS_PLUGIN_REASONS - 1, &reason)))
		return NULL;
	return verdict(dps_drop(reason));
}

static PyObject *
word_on(PyObject *module, PyObject *arg)
{
	uint32_t group;

	(void)module;
	return read_u32(arg, "on: a group's index", 0xfff, &group) ? verdict(dps_on(group)) : NULL;
}

static PyObject *
word_on_hash(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
	uint32_t group, hash;

	(void)module;
	if (!count_is("on_hash", n, 2, 2) || !read_u32(args[0], "on_hash: a group's index", 0xf, &group) ||
	    !read_u32(args[1], "on_hash: a hash", UINT32_MAX, &hash))
		return NULL;
	return verdict(dps_on_hash(group, hash));
}

static PyObject *
word_also(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
	uint32_t of, port;

	(void)module;
	if (!count_is("also", n, 2, 2) || !read_u32(args[0], "also: a verdict", 0xffff, &of) ||
	    !read_u32(args[1], "also: a port's index", 0xff, &port))
		return NULL;
	of = dps_also((uint16_t)of, port);
	if (of == 0xffff)
		return PyErr_Format(PyExc_ValueError,
				    "also: no copy is possible with that verdict (out, on, next, drop)");
	return verdict((uint16_t)of);
}

static PyObject *
word_quarantine(PyObject *module, PyObject *none)
{
	(void)module;
	(void)none;
	return verdict(dps_quarantine());
}

static PyObject *
word_punt(PyObject *module, PyObject *none)
{
	(void)module;
	(void)none;
	return verdict(dps_punt());
}

// A word that means something while a function of the plugin is called.
static struct pyplugin *
called(const char *word, bool needs_packet)
{
	if (current == NULL || (needs_packet && current->in_hand == NULL)) {
		PyErr_Format(PyExc_ValueError, "%s: it is called from within packet()", word);
		return NULL;
	}
	return current;
}

static struct pyplugin *
called_exactly(const char *word)
{
	if (current == NULL || !current->is_exact) {
		PyErr_Format(PyExc_ValueError, "%s: it is called from within packet() or a tick", word);
		return NULL;
	}
	return current;
}

static PyObject *
word_next(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
	struct pyplugin *h = called("next", true);

	(void)module;
	(void)args;
	if (h == NULL || !count_is("next", n, 0, 2))
		return NULL;
	return verdict(dps_next(h->env, h->in_hand));
}

static PyObject *
index_of(const char *what, int found, PyObject *name)
{
	if (found < 0)
		return PyErr_Format(PyExc_LookupError, "there is no %s %R", what, name);
	return PyLong_FromLong(found);
}

static PyObject *
word_port(PyObject *module, PyObject *name)
{
	struct pyplugin *h = called("port", false);
	const char *text = h == NULL ? NULL : PyUnicode_AsUTF8(name);

	(void)module;
	return text == NULL ? NULL : index_of("port", dps_port(h->env, text), name);
}

static PyObject *
word_group(PyObject *module, PyObject *name)
{
	struct pyplugin *h = called("group", false);
	const char *text = h == NULL ? NULL : PyUnicode_AsUTF8(name);

	(void)module;
	return text == NULL ? NULL : index_of("group", dps_group(h->env, text), name);
}

static bool
is_within(const uint8_t *at, Py_ssize_t len, const void *start, uint64_t size)
{
	const uint8_t *first = start;

	return first != NULL && at >= first && at + len <= first + size;
}

// What is checked here ends a worker in C: dps_touch.
static bool
touch(struct pyplugin *h, uint8_t *at, Py_ssize_t len)
{
	const struct dps_plugin *p = &h->plugin;

	if (h->is_seating && is_within(at, len, h->env->state, p->state_size))
		return true;
	if (!h->is_exact ||
	    (!is_within(at, len, h->env->state, p->state_size) &&
	     !is_within(at, len, h->bucket_state, p->bucket_state_size) &&
	     !is_within(at, len, h->env->counters, sizeof(uint64_t) * DPS_PLUGIN_COUNTERS))) {
		PyErr_SetString(PyExc_ValueError, "touch: a piece of env.state or of the packet's "
						  "or tick's bucket_state is wanted, in packet() or "
						  "a tick");
		return false;
	}
	if (len > (Py_ssize_t)DPS_PLUGIN_TOUCH_BYTES || h->touched == DPS_PLUGIN_TOUCHES_MOST) {
		PyErr_Format(PyExc_ValueError, "touch: at most %u pieces of %u bytes for each packet or tick",
			     DPS_PLUGIN_TOUCHES_MOST, DPS_PLUGIN_TOUCH_BYTES);
		return false;
	}
	h->touched++;
	h->backend->touch(at, (uint32_t)len);
	return true;
}

static bool
touch_view(struct pyplugin *h, PyObject *view, Py_buffer *found)
{
	if (PyObject_GetBuffer(view, found, PyBUF_SIMPLE) != 0)
		return false;
	if (touch(h, found->buf, found->len))
		return true;
	PyBuffer_Release(found);
	return false;
}

static PyObject *
word_touch(PyObject *module, PyObject *view)
{
	struct pyplugin *h = called("touch", false);
	PyObject *writable;
	Py_buffer found;

	(void)module;
	if (h == NULL || !touch_view(h, view, &found))
		return NULL;
	writable = lend(found.buf, (uint64_t)found.len, true);
	PyBuffer_Release(&found);
	return writable;
}

static PyObject *
word_add(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
	struct pyplugin *h = called("add", false);
	long long more = 1;
	Py_buffer found;
	uint64_t value;

	(void)module;
	if (h == NULL || !count_is("add", n, 1, 2))
		return NULL;
	if (n == 2 && (more = PyLong_AsLongLong(args[1])) == -1 && PyErr_Occurred() != NULL)
		return NULL;
	if (!touch_view(h, args[0], &found))
		return NULL;
	if (found.len != sizeof(value)) {
		PyBuffer_Release(&found);
		return PyErr_Format(PyExc_ValueError, "add: a piece of %zu bytes is wanted, not of %zd",
				    sizeof(value), found.len);
	}
	memcpy(&value, found.buf, sizeof(value));
	value += (uint64_t)more;
	memcpy(found.buf, &value, sizeof(value));
	PyBuffer_Release(&found);
	return PyLong_FromUnsignedLongLong(value);
}

static bool
touches(const struct dps_plugin *p)
{
	return p->state_size + p->bucket_state_size > 0 || (p->needs & DPS_PLUGIN_TOUCHES);
}

static uint64_t *
counter_of(struct pyplugin *h, const char *word, PyObject *index)
{
	uint32_t i, n = 0;

	while (h->counters[n] != NULL)
		n++;
	if (n == 0) {
		PyErr_Format(PyExc_ValueError, "%s: the plugin declares no `counters`", word);
		return NULL;
	}
	return read_u32(index, word, n - 1, &i) ? &h->env->counters[i] : NULL;
}

static PyObject *
word_count(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
	struct pyplugin *h = called("count", false);
	volatile uint64_t *counter;
	unsigned long long more = 1;

	(void)module;
	if (h == NULL || !count_is("count", n, 1, 2))
		return NULL;
	counter = counter_of(h, "count", args[0]);
	if (n == 2)
		more = PyLong_AsUnsignedLongLong(args[1]);
	if (counter == NULL || PyErr_Occurred() != NULL)
		return NULL;
	if (touches(&h->plugin) && h->is_exact &&
	    !touch(h, (uint8_t *)(uintptr_t)counter, sizeof(*counter)))
		return NULL;
	*counter += more;
	Py_RETURN_NONE;
}

static PyObject *
word_gauge(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
	struct pyplugin *h = called("gauge", false);
	volatile uint64_t *counter;
	long long value;

	(void)module;
	if (h == NULL || !count_is("gauge", n, 2, 2))
		return NULL;
	counter = counter_of(h, "gauge", args[0]);
	value = PyLong_AsLongLong(args[1]);
	if (counter == NULL || PyErr_Occurred() != NULL)
		return NULL;
	*counter = (uint64_t)value;
	Py_RETURN_NONE;
}

static PyObject *
word_emit(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
	struct pyplugin *h = called_exactly("emit");
	uint32_t of, len;
	uint8_t *bytes;

	(void)module;
	if (h == NULL || !count_is("emit", n, 2, 2) ||
	    !read_u32(args[0], "emit: a verdict", 0xffff, &of) ||
	    !read_u32(args[1], "emit: bytes", UINT16_MAX, &len))
		return NULL;
	if (h->emitted == h->plugin.emits)
		return PyErr_Format(PyExc_ValueError, "emit: the plugin declares emits = %u",
				    h->plugin.emits);
	h->emitted++;
	bytes = h->backend->emit((uint16_t)of, len);
	if (bytes == NULL)
		Py_RETURN_NONE;
	return lend(bytes, len, true);
}

static PyObject *
word_bucket(PyObject *module, PyObject *arg)
{
	uint32_t hash;

	(void)module;
	return read_u32(arg, "bucket: a hash", UINT32_MAX, &hash) ?
		       PyLong_FromUnsignedLong(dps_bucket(hash)) : NULL;
}

static PyObject *
word_owns(PyObject *module, PyObject *arg)
{
	struct pyplugin *h = called("owns", false);
	uint32_t bucket;

	(void)module;
	if (h == NULL || !read_u32(arg, "owns: a bucket", DPS_PLUGIN_BUCKETS - 1, &bucket))
		return NULL;
	return PyBool_FromLong(dps_owns(h->env, bucket));
}

static PyObject *
word_hash_of(PyObject *module, PyObject *const *args, Py_ssize_t n)
{
	struct pyplugin *h = called("hash_of", false);
	struct dps_tuple tuple = { .version = 4 };
	uint32_t protocol, from_port = 0, to_port = 0;
	Py_buffer from, to;
	bool fits;

	(void)module;
	if (h == NULL || !count_is("hash_of", n, 3, 5) ||
	    !read_u32(args[0], "hash_of: a protocol", 255, &protocol) ||
	    (n > 3 && !read_u32(args[3], "hash_of: a port", UINT16_MAX, &from_port)) ||
	    (n > 4 && !read_u32(args[4], "hash_of: a port", UINT16_MAX, &to_port)) ||
	    PyObject_GetBuffer(args[1], &from, PyBUF_SIMPLE) != 0)
		return NULL;
	if (PyObject_GetBuffer(args[2], &to, PyBUF_SIMPLE) != 0) {
		PyBuffer_Release(&from);
		return NULL;
	}
	fits = from.len == to.len && (from.len == 4 || from.len == 16);
	if (fits) {
		tuple.version = from.len == 4 ? 4 : 6;
		memcpy(tuple.from, from.buf, (size_t)from.len);
		memcpy(tuple.to, to.buf, (size_t)to.len);
	}
	PyBuffer_Release(&from);
	PyBuffer_Release(&to);
	if (!fits)
		return PyErr_Format(PyExc_ValueError, "hash_of: two addresses of 4 or of 16 bytes");
	tuple.protocol = (uint8_t)protocol;
	tuple.fragment = n == 3;
	tuple.from_port = htons((uint16_t)from_port);
	tuple.to_port = htons((uint16_t)to_port);
	if (h->backend->hash_of == NULL)
		return PyErr_Format(PyExc_NotImplementedError, "hash_of: only in a worker");
	return PyLong_FromUnsignedLong(h->backend->hash_of(h->env, &tuple));
}

static PyObject *
word_ipv4_sum(PyObject *module, PyObject *arg)
{
	Py_buffer header;
	PyObject *sum;

	(void)module;
	if (PyObject_GetBuffer(arg, &header, PyBUF_SIMPLE) != 0)
		return NULL;
	if (header.len < 20 || (((uint8_t *)header.buf)[0] & 0xf) * 4 > header.len)
		sum = PyErr_Format(PyExc_ValueError, "ipv4_sum: the whole header is wanted");
	else
		sum = PyBytes_FromStringAndSize(
			(char *)&(uint16_t[]){ dps_ipv4_sum(header.buf) }, 2);
	PyBuffer_Release(&header);
	return sum;
}

static PyObject *
word_sum_changed(PyObject *module, PyObject *args)
{
	Py_buffer sum, was, is;
	PyObject *found = NULL;
	uint16_t value;

	(void)module;
	if (!PyArg_ParseTuple(args, "y*y*y*:sum_changed", &sum, &was, &is))
		return NULL;
	if (sum.len != 2 || was.len != is.len || was.len % 2 != 0) {
		PyErr_SetString(PyExc_ValueError, "sum_changed: the 2 bytes of a checksum, and as many "
						  "bytes before as after, an even number");
	} else {
		memcpy(&value, sum.buf, 2);
		value = dps_sum_changed(value, was.buf, is.buf, (uint32_t)was.len);
		found = PyBytes_FromStringAndSize((char *)&value, 2);
	}
	PyBuffer_Release(&sum);
	PyBuffer_Release(&was);
	PyBuffer_Release(&is);
	return found;
}

#define FAST(function) ((PyCFunction)(void (*)(void))(function))

PyMethodDef words[] = {
	{ "out", word_out, METH_O, "out(port): out of the port with this index" },
	{ "drop", FAST(word_drop), METH_FASTCALL, "drop(reason=0): drop, for this of `reasons`" },
	{ "on", word_on, METH_O, "on(group): to the group with this index, by the packet's hash" },
	{ "on_hash", FAST(word_on_hash), METH_FASTCALL,
	  "on_hash(group, hash): to that group, steered by this hash instead of the packet's" },
	{ "next", FAST(word_next), METH_FASTCALL, "next(): on along the packet's chain" },
	{ "also", FAST(word_also), METH_FASTCALL, "also(verdict, port): a copy out of that port too" },
	{ "quarantine", word_quarantine, METH_NOARGS, "quarantine(): take it out as evidence" },
	{ "punt", word_punt, METH_NOARGS, "punt(): to the kernel, at the port that it came in by" },
	{ "port", word_port, METH_O, "port(name): its index" },
	{ "group", word_group, METH_O, "group(name): its index" },
	{ "touch", word_touch, METH_O, "touch(view): that piece of state, writable until the call "
				       "returns; put back after a kill" },
	{ "add", FAST(word_add), METH_FASTCALL, "add(view, n=1): touch 8 bytes, and add to the number" },
	{ "count", FAST(word_count), METH_FASTCALL, "count(counter, n=1): add to one of `counters`" },
	{ "gauge", FAST(word_gauge), METH_FASTCALL, "gauge(counter, value): set one of `gauges`" },
	{ "emit", FAST(word_emit), METH_FASTCALL, "emit(verdict, bytes): a packet of its own, or None" },
	{ "bucket", word_bucket, METH_O, "bucket(hash): of a flow" },
	{ "owns", word_owns, METH_O, "owns(bucket): whether this worker has it" },
	{ "hash_of", FAST(word_hash_of), METH_FASTCALL,
	  "hash_of(protocol, from, to, from_port, to_port): of such packets; without ports: fragments" },
	{ "ipv4_sum", word_ipv4_sum, METH_O, "ipv4_sum(header): the 2 bytes of its checksum" },
	{ "sum_changed", word_sum_changed, METH_VARARGS,
	  "sum_changed(sum, was, is): the checksum after bytes became others" },
	{ NULL, NULL, 0, NULL },
};
