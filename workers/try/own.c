// SPDX-License-Identifier: BSD-3-Clause
//
// What a plugin keeps in variables and allocated memory of its own ends with its process. So what it changes
// there is looked for: the worker's memory as it was before its first packet, compared after each one.

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "own.h"
#include "try.h"

enum {
	PIECES = 64,
	PLACES = 16,                    // that are reported
	OFTEN = 4 << 20,                // bytes that are compared after each packet; more, now and then
	SELDOM = 256                    // packets
};

static struct piece {
	uint64_t from, len;
	uint8_t *was;
	bool is_plugin;
} piece[PIECES];
static uint32_t n_pieces;
static uint64_t total;
static int memory = -1;

static struct place {
	uint64_t at;
	uint32_t number, packets;
	bool is_plugin;
} place[PLACES];
static uint32_t n_places;

static void
add_piece(uint64_t from, uint64_t to, bool is_plugin)
{
	struct piece *p = &piece[n_pieces];

	if (n_pieces == PIECES || (p->was = malloc(to - from)) == NULL)
		return;
	p->from = from;
	p->len = to - from;
	p->is_plugin = is_plugin;
	if (pread(memory, p->was, p->len, (off_t)from) != (ssize_t)p->len) {
		free(p->was);
		return;
	}
	total += p->len;
	n_pieces++;
}

// What the plugin's file has mapped to write, with what follows it without a name (.bss), and what was
// allocated. Not: stacks, other libraries, the thread's own data (errno).
void
own_begin(void)
{
	const char *plugin = the_try.ctl->group[0].version[0].plugin;
	bool is_builtin = the_try.ctl->group[0].version[0].builtin;
	char path[64], line[512], name[400], before[400] = "";
	uint64_t end = 0;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/mem", (int)the_try.worker);
	memory = open(path, O_RDONLY | O_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/%d/maps", (int)the_try.worker);
	maps = fopen(path, "r");
	if (memory < 0 || maps == NULL)
		fail("the worker's memory cannot be read");
	while (fgets(line, sizeof(line), maps) != NULL) {
		unsigned long from, to;
		char mode[8];

		name[0] = '\0';
		if (sscanf(line, "%lx-%lx %7s %*s %*s %*s %399[^\n]", &from, &to, mode, name) < 3)
			continue;
		if (name[0] == '\0' && from == end)
			strcpy(name, before);
		end = to;
		strcpy(before, name);
		if (strncmp(mode, "rw-p", 4) != 0 ||
		    (the_try.board->thread >= from && the_try.board->thread < to))
			continue;
		if (!is_builtin && strcmp(name, plugin) == 0)
			add_piece(from, to, true);
		else if (name[0] == '\0' || strcmp(name, "[heap]") == 0)
			add_piece(from, to, false);
	}
	fclose(maps);
}

static void
add_place(uint64_t at, uint32_t number, bool is_plugin)
{
	uint32_t i = 0;

	while (i < n_places && place[i].at != at)
		i++;
	if (i == PLACES)
		return;
	if (i == n_places)
		place[n_places++] = (struct place){ at, number, 0, is_plugin };
	place[i].packets++;
}

void
own_look(uint32_t number, bool is_last)
{
	static uint8_t *now;
	static uint64_t room;

	if (total > OFTEN && number % SELDOM != SELDOM - 1 && !is_last)
		return;
	for (uint32_t i = 0; i < n_pieces; i++) {
		struct piece *p = &piece[i];

		if (room < p->len) {
			free(now);
			room = p->len;
			now = malloc(room);
			if (now == NULL)
				fail("no memory");
		}
		if (pread(memory, now, p->len, (off_t)p->from) != (ssize_t)p->len ||
		    memcmp(now, p->was, p->len) == 0)
			continue;
		for (uint64_t at = 0; at + 8 <= p->len; at += 8)
			if (memcmp(now + at, p->was + at, 8) != 0)
				add_place(p->from + at, number, p->is_plugin);
		memcpy(p->was, now, p->len);
	}
}

void
own_report(void)
{
	uint64_t own = the_try.board->own;

	for (uint32_t i = 0; i < n_places; i++) {
		const struct place *p = &place[i];
		bool is_own = own != 0 && p->at >= own && p->at < own + (1 << 20) && !p->is_plugin;

		fprintf(the_try.report,
			"{\"t\": \"finding\", \"kind\": \"own-memory\", \"packet\": %u, \"packets\": %u, "
			"\"address\": %lu, \"in_plugin\": %s, \"own\": %ld, \"program_base\": %lu, "
			"\"plugin_base\": %lu}\n",
			p->number + 1, p->packets, (unsigned long)p->at, p->is_plugin ? "true" : "false",
			is_own ? (long)(p->at - own) : -1, (unsigned long)the_try.sitter->program_base,
			(unsigned long)the_try.sitter->plugin_base);
	}
}
