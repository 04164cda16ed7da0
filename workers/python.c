// SPDX-License-Identifier: BSD-3-Clause
//
// A plugin in Python: this worker loads the Python library that the supervisor named, and what runs such
// plugins (workers/python/pyplugin.c), which lies beside this program. Workers of C plugins load neither.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker.h"

#define SUFFIX ".py"
#define PYPLUGIN "_python.so"

typedef const struct dps_plugin *open_function(const char *path, const char *program, char *why,
					       uint32_t len);

bool
python_is(const char *path)
{
	size_t len = strlen(path);

	return len > strlen(SUFFIX) && strcmp(path + len - strlen(SUFFIX), SUFFIX) == 0;
}

// Extension modules find Python's symbols in the global scope.
static void *
load_pyplugin(char *why, uint32_t len)
{
	const char *library = getenv("DPSUP_LIBPYTHON");
	char path[DPS_PATH + sizeof(PYPLUGIN)];
	ssize_t n = readlink("/proc/self/exe", path, DPS_PATH);
	void *pyplugin = NULL;
	char *slash;

	if (library == NULL || n <= 0 || n == DPS_PATH) {
		snprintf(why, len, "this worker does not know its Python");
		return NULL;
	}
	path[n] = '\0';
	slash = strrchr(path, '/');
	if (slash != NULL)
		strcpy(slash + 1, PYPLUGIN);
	if (dlopen(library, RTLD_NOW | RTLD_GLOBAL) == NULL)
		snprintf(why, len, "cannot load the Python library, which a package such as libpython3 "
			 "brings: %s", dlerror());
	else if ((pyplugin = dlopen(path, RTLD_NOW | RTLD_LOCAL)) == NULL)
		snprintf(why, len, "cannot load what runs plugins in Python: %s", dlerror());
	return pyplugin;
}

const struct dps_plugin *
python_load(const char *path, char *why, uint32_t len)
{
	const char *program = getenv("DPSUP_PYTHON");
	void *pyplugin = load_pyplugin(why, len);
	open_function *open;

	if (pyplugin == NULL)
		return NULL;
	open = (open_function *)(uintptr_t)dlsym(pyplugin, "dps_python_open");
	if (open == NULL || program == NULL) {
		snprintf(why, len, "%s is another dpsup's", PYPLUGIN);
		return NULL;
	}
	return open(path, program, why, len);
}
