/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_OBJECT_H
#define DPSUP_OBJECT_H

// A handle as dlopen gives it, NULL: dlerror says why.
void *object_open(const char *path);

#endif
