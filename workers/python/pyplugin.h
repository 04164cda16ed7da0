/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_PYTHON_PYPLUGIN_H
#define DPSUP_PYTHON_PYPLUGIN_H

// A plugin written in Python, inside of a worker (pyplugin.c) or of a test (trial.c).

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>

#include "dpsup_plugin.h"

// What serves dps.touch and the like: the worker program, or a trial.
struct backend {
	void (*touch)(void *at, uint32_t len);
	uint8_t *(*emit)(uint16_t verdict, uint32_t len);
	uint32_t (*next_segment)(const struct dps_packet *packet, const void **segment,
				 const uint8_t **bytes);
	uint32_t (*hash_of)(const struct dps_env *env, const struct dps_tuple *tuple);
	uint64_t (*find)(const struct dps_live_table *table, const void *key);
	const void *(*record)(const struct dps_live_table *table, uint64_t index);
	int (*tell)(const struct dps_env *env, const struct dps_live_table *table, const void *key,
		    uint64_t value);
};

enum { NAMES = DPS_PLUGIN_REASONS + 1 };

struct pyplugin {
	struct dps_plugin plugin;               // as the worker sees it
	const char *reasons[NAMES];
	const char *counters[NAMES];
	const struct dps_env *env;
	const struct backend *backend;
	PyObject *module;
	PyObject *declared;                     // keeps the names alive
	PyObject *init, *packet, *seated, *fini; // functions of the module; NULL: there is none
	PyObject *tick, *bucket_tick, *control; // likewise
	PyObject *tables;                       // a test's, by name; NULL: the worker's
	PyObject *env_object, *packet_object;

	// Of the packet or tick in hand.
	bool is_exact;                          // there is one: what is touched is put back after a kill
	struct dps_packet *in_hand;             // NULL: none, or a tick
	void *bucket_state;                     // NULL: none
	uint8_t *start, *end;                   // of the bytes that may be changed
	const uint8_t *least;                   // first byte that the packet may begin with
	uint32_t touched;
	uint32_t emitted;
	bool is_seating;                        // nothing of the state is put back
};

// The plugin whose function is called now; NULL: none.
extern struct pyplugin *current;

// pyplugin.c: load a file. NULL: a Python error says why.
struct pyplugin *pyplugin_load(const char *path, const struct backend *backend);
int pyplugin_init(struct pyplugin *h, const struct dps_env *env);       // 0, or -1 with a Python error
int pyplugin_seated(struct pyplugin *h, const struct dps_env *env);     // likewise
long pyplugin_packet(struct pyplugin *h, struct dps_packet *packet);    // verdict, or -1 likewise
int pyplugin_tick(struct pyplugin *h);                                  // 0, or -1 likewise
int pyplugin_bucket_tick(struct pyplugin *h, uint32_t bucket, void *bucket_state);      // likewise
int pyplugin_control(struct pyplugin *h, const char *text, uint32_t len);                // likewise
void pyplugin_free(struct pyplugin *h);

// objects.c
int objects_ready(void);
PyObject *env_new(struct pyplugin *h);
PyObject *packet_new(struct pyplugin *h);
PyObject *lend(void *at, uint64_t len, bool is_writable);       // until packet() or the tick returns
uint32_t lent_out(void);                // how many of those views there are still

// words.c
extern PyMethodDef words[];

// trial.c
extern PyType_Spec trial_spec;

#endif
