/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_TABLE_LPM_CHANGE_H
#define DPSUP_TABLE_LPM_CHANGE_H

/*
 * How prefixes come into a table for longest prefix match, and out of it: the second half of
 * dpsup_table_lpm.h, which includes it. Blocks, then nodes, then prefixes.
 *
 * What holds between operations: a node has a prefix or at least two children; all pages of a class
 * but the one that new blocks come from are full; each block's owner is the node, or the entry of
 * the root, that points to it. Giving a block back may move others of its class, and so the nodes
 * in it.
 */

#include "dpsup_table_lpm.h"

/* --- blocks --------------------------------------------------------------------------------- */

DPS_TABLE_INLINE uint32_t
dps_lpm_class_of(uint32_t count, int is_children)
{
	uint32_t c = is_children ? DPS_LPM_VALUES : 0;

	while (dps_lpm_holds[c] < count)
		c++;
	return c;
}

/* The word that says what owns the block at this byte of the table. */
DPS_TABLE_INLINE uint32_t *
dps_lpm_owner(const struct dps_lpm *t, uint32_t class_, uint64_t at)
{
	const struct dps_lpm_class *k = &t->classes[class_];
	uint64_t page = (at - t->page_at) / DPS_LPM_PAGE;
	uint32_t in = (uint32_t)((at - t->page_at) % DPS_LPM_PAGE) - k->data_at;

	return (uint32_t *)(dps_lpm_page_of(t, (uint32_t)page) + 1) + in / k->size;
}

/* A block of this class: its byte of the table. There is room: see DPS_LPM_RESERVE. */
static inline uint64_t
dps_lpm_take(struct dps_lpm *t, uint32_t class_, uint32_t owner)
{
	struct dps_lpm_class *k = &t->classes[class_];
	struct dps_lpm_page *page = k->page ? dps_lpm_page_of(t, k->page - 1) : NULL;
	uint64_t at;

	if (page == NULL || page->used == k->blocks) {
		uint32_t fresh;

		if (t->page_freed != 0) {
			fresh = t->page_freed - 1;
			t->page_freed = dps_lpm_page_of(t, fresh)->next;
		} else {
			fresh = t->page_fresh++;
		}
		page = dps_lpm_page_of(t, fresh);
		memset(page, 0, sizeof(*page));
		page->next = k->page;
		k->page = fresh + 1;
		t->pages_used++;
	}
	at = (uint64_t)((uintptr_t)page - (uintptr_t)t) + k->data_at +
	     (uint64_t)page->used * k->size;
	page->used++;
	*dps_lpm_owner(t, class_, at) = owner;
	return at;
}

/* The blocks of a node that was moved belong to it. */
DPS_TABLE_FAST static inline void
dps_lpm_own(const struct dps_lpm *t, uint32_t line)
{
	const struct dps_lpm_node *n = dps_lpm_node_at(t, line);
	uint32_t values = dps_lpm_count(n->some) + dps_lpm_count(n->full);

	if (values != 0)
		*dps_lpm_owner(t, dps_lpm_class_of(values, 0), (uint64_t)n->values * 4) = line;
	if (n->child != 0)
		*dps_lpm_owner(t, dps_lpm_class_of(dps_lpm_count(n->child), 1),
			       (uint64_t)n->children * 64) = line;
}

/* Give a block back: the class's last one takes its place. *watch, a node's line, follows; or NULL. */
DPS_TABLE_FAST static inline void
dps_lpm_give(struct dps_lpm *t, uint32_t class_, uint64_t at, uint32_t *watch)
{
	struct dps_lpm_class *k = &t->classes[class_];
	uint32_t index = k->page - 1;
	struct dps_lpm_page *page = dps_lpm_page_of(t, index);
	uint64_t last = (uint64_t)((uintptr_t)page - (uintptr_t)t) + k->data_at +
			(uint64_t)(page->used - 1) * k->size;

	if (at != last) {
		uint32_t owner = *dps_lpm_owner(t, class_, last);

		memcpy((uint8_t *)t + at, (uint8_t *)t + last, k->size);
		*dps_lpm_owner(t, class_, at) = owner;
		if (class_ < DPS_LPM_VALUES) {
			dps_lpm_node_at(t, owner)->values = (uint32_t)(at / 4);
		} else {
			uint32_t line = (uint32_t)(at / 64), was = (uint32_t)(last / 64), n = 1;

			if (owner & DPS_LPM_OF_ROOT) {
				dps_lpm_root_of(t)[owner & ~DPS_LPM_OF_ROOT].node = line;
			} else {
				dps_lpm_node_at(t, owner)->children = line;
				n = dps_lpm_count(dps_lpm_node_at(t, owner)->child);
			}
			for (uint32_t i = 0; i < n; i++)
				dps_lpm_own(t, line + i);
			if (watch != NULL && *watch >= was && *watch < was + n)
				*watch += line - was;
		}
	}
	if (--page->used == 0) {
		k->page = page->next;
		page->next = t->page_freed;
		t->page_freed = index + 1;
		t->pages_used--;
	}
}

/* --- nodes ---------------------------------------------------------------------------------- */

/* Which value of a node belongs to these bits of `length` (1 to 6) bits. */
DPS_TABLE_FAST static inline uint32_t
dps_lpm_rank(const struct dps_lpm_node *n, uint32_t bits, uint32_t length)
{
	if (length == 6)
		return dps_lpm_count(n->some) + dps_lpm_count(n->full & dps_lpm_below(bits));
	return dps_lpm_count(n->some & dps_lpm_below(1u << length | bits));
}

DPS_TABLE_INLINE uint64_t *
dps_lpm_bit(struct dps_lpm_node *n, uint32_t bits, uint32_t length, uint64_t *bit)
{
	*bit = length == 6 ? 1ull << bits : 1ull << (1u << length | bits);
	return length == 6 ? &n->full : &n->some;
}

DPS_TABLE_FAST static inline void
dps_lpm_add_value(struct dps_lpm *t, uint32_t line, uint32_t bits, uint32_t length, uint32_t value)
{
	struct dps_lpm_node *n = dps_lpm_node_at(t, line);
	uint32_t count = dps_lpm_count(n->some) + dps_lpm_count(n->full);
	uint32_t rank = dps_lpm_rank(n, bits, length);
	uint32_t was = dps_lpm_class_of(count, 0), is = dps_lpm_class_of(count + 1, 0);
	uint64_t old = (uint64_t)n->values * 4, bit, *word;
	uint32_t *from = dps_lpm_values(t, n->values), *to = from;

	if (count == 0 || was != is) {
		n->values = (uint32_t)(dps_lpm_take(t, is, line) / 4);
		to = dps_lpm_values(t, n->values);
		if (count != 0)
			memcpy(to, from, (size_t)rank * 4);
	}
	if (count != 0)
		memmove(to + rank + 1, from + rank, (size_t)(count - rank) * 4);
	to[rank] = value;
	word = dps_lpm_bit(n, bits, length, &bit);
	*word |= bit;
	if (count != 0 && was != is)
		dps_lpm_give(t, was, old, NULL);
}

DPS_TABLE_FAST static inline void
dps_lpm_remove_value(struct dps_lpm *t, uint32_t line, uint32_t bits, uint32_t length)
{
	struct dps_lpm_node *n = dps_lpm_node_at(t, line);
	uint32_t count = dps_lpm_count(n->some) + dps_lpm_count(n->full);
	uint32_t rank = dps_lpm_rank(n, bits, length);
	uint32_t was = dps_lpm_class_of(count, 0), is = dps_lpm_class_of(count - 1, 0);
	uint64_t old = (uint64_t)n->values * 4, bit, *word;
	uint32_t *from = dps_lpm_values(t, n->values), *to = from;

	if (count == 1) {
		n->values = 0;
	} else {
		if (was != is) {
			n->values = (uint32_t)(dps_lpm_take(t, is, line) / 4);
			to = dps_lpm_values(t, n->values);
			memcpy(to, from, (size_t)rank * 4);
		}
		memmove(to + rank, from + rank + 1, (size_t)(count - 1 - rank) * 4);
	}
	word = dps_lpm_bit(n, bits, length, &bit);
	*word &= ~bit;
	if (count == 1 || was != is)
		dps_lpm_give(t, was, old, NULL);
}

DPS_TABLE_INLINE void
dps_lpm_move(const struct dps_lpm *t, uint32_t to, uint32_t from)
{
	if (to != from) {
		memcpy(dps_lpm_node_at(t, to), dps_lpm_node_at(t, from),
		       sizeof(struct dps_lpm_node));
		dps_lpm_own(t, to);
	}
}

/* An empty node. */
DPS_TABLE_INLINE void
dps_lpm_fresh(struct dps_lpm *t, uint32_t line, dps_lpm_key key, uint32_t depth)
{
	struct dps_lpm_node *n = dps_lpm_node_at(t, line);

	key = key >> (128 - depth) << (128 - depth);
	memset(n, 0, sizeof(*n));
	n->high = (uint64_t)(key >> 64);
	n->low = (uint64_t)key;
	n->depth = depth;
	t->nodes++;
}

/* Room for a child of the node `parent`: the line of the child, to be filled. The parent may have
 * moved afterwards. */
DPS_TABLE_FAST static inline uint32_t
dps_lpm_add_child(struct dps_lpm *t, uint32_t parent, uint32_t six)
{
	struct dps_lpm_node *n = dps_lpm_node_at(t, parent);
	uint32_t count = dps_lpm_count(n->child);
	uint32_t rank = dps_lpm_count(n->child & dps_lpm_below(six));
	uint32_t was = dps_lpm_class_of(count, 1), is = dps_lpm_class_of(count + 1, 1);
	uint32_t from = n->children, to = from;

	if (count == 0 || was != is)
		to = (uint32_t)(dps_lpm_take(t, is, parent) / 64);
	for (uint32_t i = count; i > rank; i--)
		dps_lpm_move(t, to + i, from + i - 1);
	for (uint32_t i = 0; i < rank; i++)
		dps_lpm_move(t, to + i, from + i);
	n->children = to;
	n->child |= 1ull << six;
	/* This moves a block of another class: the one with the new child stays where it is. */
	if (count != 0 && was != is)
		dps_lpm_give(t, was, (uint64_t)from * 64, NULL);
	return to + rank;
}

/* Remove a child, which owns nothing any more. Returns where the parent is then. */
DPS_TABLE_FAST static inline uint32_t
dps_lpm_remove_child(struct dps_lpm *t, uint32_t parent, uint32_t six)
{
	struct dps_lpm_node *n = dps_lpm_node_at(t, parent);
	uint32_t count = dps_lpm_count(n->child);
	uint32_t rank = dps_lpm_count(n->child & dps_lpm_below(six));
	uint32_t was = dps_lpm_class_of(count, 1), is = dps_lpm_class_of(count - 1, 1);
	uint32_t from = n->children, to = from;

	t->nodes--;
	if (count == 1) {
		to = 0;
	} else {
		if (was != is)
			to = (uint32_t)(dps_lpm_take(t, is, parent) / 64);
		for (uint32_t i = 0; i < rank; i++)
			dps_lpm_move(t, to + i, from + i);
		for (uint32_t i = rank; i + 1 < count; i++)
			dps_lpm_move(t, to + i, from + i + 1);
	}
	n->children = to;
	n->child &= ~(1ull << six);
	if (count == 1 || was != is)
		dps_lpm_give(t, was, (uint64_t)from * 64, &parent);
	return parent;
}

/* A node without prefixes and with one child becomes that child. */
DPS_TABLE_FAST static inline void
dps_lpm_collapse(struct dps_lpm *t, uint32_t line)
{
	const struct dps_lpm_node *n = dps_lpm_node_at(t, line);
	uint32_t child = n->children;

	if ((n->some | n->full) != 0 || dps_lpm_count(n->child) != 1)
		return;
	dps_lpm_move(t, line, child);
	t->nodes--;
	dps_lpm_give(t, DPS_LPM_VALUES, (uint64_t)child * 64, NULL);
}

/* --- prefixes ------------------------------------------------------------------------------- */

DPS_TABLE_INLINE dps_lpm_key
dps_lpm_key_of(const struct dps_lpm *t, const void *address, uint32_t length)
{
	uint64_t high, low;
	dps_lpm_key key;

	dps_lpm_load(address, t->bits == 128, &high, &low);
	key = (dps_lpm_key)high << 64 | low;
	return length == 0 ? 0 : key >> (128 - length) << (128 - length);
}

DPS_TABLE_INLINE dps_lpm_key
dps_lpm_node_key(const struct dps_lpm_node *n)
{
	return (dps_lpm_key)n->high << 64 | n->low;
}

/* How many bits two addresses have in common, at most `most`. */
DPS_TABLE_INLINE uint32_t
dps_lpm_common(dps_lpm_key a, dps_lpm_key b, uint32_t most)
{
	uint64_t high = (uint64_t)((a ^ b) >> 64), low = (uint64_t)(a ^ b);
	uint32_t n = 128;

	if (high != 0)
		n = (uint32_t)__builtin_clzll(high);
	else if (low != 0)
		n = 64 + (uint32_t)__builtin_clzll(low);
	return n < most ? n : most;
}

/* The depth of the node that holds prefixes of this length. */
DPS_TABLE_INLINE uint32_t
dps_lpm_depth(const struct dps_lpm *t, uint32_t length)
{
	return t->root_bits + (length - 1 - t->root_bits) / 6 * 6;
}

/* Of the prefix at this depth: its bits in the node. */
DPS_TABLE_INLINE uint32_t
dps_lpm_bits_in(dps_lpm_key key, uint32_t depth, uint32_t length)
{
	return (uint32_t)(key >> (122 - depth) & 63) >> (6 - (length - depth));
}

struct dps_lpm_place {
	uint32_t slot;   /* of the root */
	uint32_t parent; /* the node above, or 0: the root */
	uint32_t line;   /* the first node that is not above the prefix's own, or 0 */
};

/* Go down to the prefix's own node, or where it would be. */
DPS_TABLE_FAST static inline struct dps_lpm_place
dps_lpm_seek(const struct dps_lpm *t, dps_lpm_key key, uint32_t depth)
{
	struct dps_lpm_place p;

	p.slot = (uint32_t)(key >> (128 - t->root_bits));
	p.parent = 0;
	p.line = dps_lpm_root_of(t)[p.slot].node;
	while (p.line != 0) {
		const struct dps_lpm_node *n = dps_lpm_node_at(t, p.line);
		uint32_t six;

		if (n->depth >= depth ||
		    dps_lpm_common(key, dps_lpm_node_key(n), n->depth) < n->depth)
			break;
		six = (uint32_t)(key >> (122 - n->depth)) & 63;
		p.parent = p.line;
		p.line = n->child >> six & 1 ?
				 n->children + dps_lpm_count(n->child & dps_lpm_below(six)) :
				 0;
	}
	return p;
}

DPS_TABLE_INLINE int
dps_lpm_is_own(const struct dps_lpm *t, const struct dps_lpm_place *p, dps_lpm_key key,
	       uint32_t depth)
{
	const struct dps_lpm_node *n = dps_lpm_node_at(t, p->line);

	return p->line != 0 && n->depth == depth &&
	       dps_lpm_common(key, dps_lpm_node_key(n), depth) == depth;
}

/* The prefix's own node, which is created. */
DPS_TABLE_FAST static inline uint32_t
dps_lpm_own_node(struct dps_lpm *t, dps_lpm_key key, uint32_t depth)
{
	struct dps_lpm_place p = dps_lpm_seek(t, key, depth);
	uint32_t branch, line, theirs, ours;
	dps_lpm_key other;

	if (dps_lpm_is_own(t, &p, key, depth))
		return p.line;
	if (p.line == 0) {
		if (p.parent == 0) {
			line = (uint32_t)(dps_lpm_take(t, DPS_LPM_VALUES,
						       p.slot | DPS_LPM_OF_ROOT) /
					  64);
			dps_lpm_root_of(t)[p.slot].node = line;
		} else {
			uint32_t above = dps_lpm_node_at(t, p.parent)->depth;

			line = dps_lpm_add_child(t, p.parent,
						 (uint32_t)(key >> (122 - above)) & 63);
		}
		dps_lpm_fresh(t, line, key, depth);
		return line;
	}
	/* Another node is in the way: one that is above both takes its place. */
	other = dps_lpm_node_key(dps_lpm_node_at(t, p.line));
	branch = dps_lpm_node_at(t, p.line)->depth;
	branch = dps_lpm_common(key, other, branch < depth ? branch : depth);
	branch = t->root_bits + (branch - t->root_bits) / 6 * 6;
	theirs = (uint32_t)(other >> (122 - branch)) & 63;
	ours = (uint32_t)(key >> (122 - branch)) & 63;
	line = (uint32_t)(dps_lpm_take(t, DPS_LPM_VALUES, p.line) / 64);
	dps_lpm_move(t, line, p.line);
	dps_lpm_fresh(t, p.line, key, branch);
	dps_lpm_node_at(t, p.line)->children = line;
	dps_lpm_node_at(t, p.line)->child = 1ull << theirs;
	if (branch == depth)
		return p.line;
	line = dps_lpm_add_child(t, p.line, ours);
	dps_lpm_fresh(t, line, key, depth);
	return line;
}

/* Write what holds at a place of the heap of short prefixes into all that it covers of the array of
 * `leaf` bits, but for what longer prefixes of the heap cover. */
static inline void
dps_lpm_push(struct dps_lpm *t, uint32_t place, uint32_t length, uint32_t leaf, uint32_t value)
{
	if (length == leaf) {
		uint32_t i = place - (1u << leaf);

		if (leaf == t->root_bits)
			dps_lpm_root_of(t)[i].value = value;
		else
			dps_lpm_top(t)[i] = value;
		return;
	}
	for (uint32_t below = place * 2; below < place * 2 + 2; below++)
		if (dps_lpm_short(t)[below] == 0)
			dps_lpm_push(t, below, length + 1, leaf, value);
}

/* A prefix no longer than root_bits: its value, plus 1, or 0 to remove it. Returns what it was. */
static inline uint32_t
dps_lpm_set_short(struct dps_lpm *t, dps_lpm_key key, uint32_t length, uint32_t value)
{
	uint32_t *heap = dps_lpm_short(t);
	uint32_t place = 1u << length | (length ? (uint32_t)(key >> (128 - length)) : 0);
	uint32_t was = heap[place], is_top = length <= t->top_bits;
	uint32_t holds = value, most = is_top ? 0 : t->top_bits + 1;

	heap[place] = value;
	/* Without it, what is shorter holds: in the root only what the top has not. */
	for (uint32_t up = place, l = length; holds == 0 && l > most; l--)
		holds = heap[up >>= 1];
	dps_lpm_push(t, place, length, is_top ? t->top_bits : t->root_bits, holds);
	return was;
}

/* Add (1) or replace (0) a prefix: address in network byte order, of which the first `length` bits
 * count. -EINVAL: no such length or value; -ENOSPC: it is full. */
DPS_TABLE_FAST static inline int
dps_lpm_set(struct dps_lpm *t, const void *address, uint32_t length, uint32_t value)
{
	struct dps_lpm_place p;
	uint32_t depth, bits, line;
	uint64_t bit;
	dps_lpm_key key;

	if (length > t->bits || value == UINT32_MAX)
		return -EINVAL;
	key = dps_lpm_key_of(t, address, length);
	if (length <= t->root_bits) {
		uint32_t place = 1u << length | (length ? (uint32_t)(key >> (128 - length)) : 0);
		int is_fresh = dps_lpm_short(t)[place] == 0;

		if (is_fresh && t->entries == t->most)
			return -ENOSPC;
		dps_lpm_set_short(t, key, length, value + 1);
		t->entries += (uint32_t)is_fresh;
		return is_fresh;
	}
	depth = dps_lpm_depth(t, length);
	bits = dps_lpm_bits_in(key, depth, length);
	p = dps_lpm_seek(t, key, depth);
	if (dps_lpm_is_own(t, &p, key, depth)) {
		struct dps_lpm_node *n = dps_lpm_node_at(t, p.line);

		if (*dps_lpm_bit(n, bits, length - depth, &bit) & bit) {
			dps_lpm_values(t, n->values)[dps_lpm_rank(n, bits, length - depth)] = value;
			return 0;
		}
	}
	if (t->entries == t->most || t->pages - t->pages_used < DPS_LPM_RESERVE)
		return -ENOSPC;
	line = dps_lpm_own_node(t, key, depth);
	dps_lpm_add_value(t, line, bits, length - depth, value);
	t->entries++;
	return 1;
}

/* The value of exactly this prefix, or DPS_TABLE_NONE. */
DPS_TABLE_FAST static inline uint64_t
dps_lpm_get(const struct dps_lpm *t, const void *address, uint32_t length)
{
	dps_lpm_key key;
	struct dps_lpm_place p;
	struct dps_lpm_node *n;
	uint32_t depth, bits;
	uint64_t bit;

	if (length > t->bits)
		return DPS_TABLE_NONE;
	key = dps_lpm_key_of(t, address, length);
	if (length <= t->root_bits) {
		uint32_t value = dps_lpm_short(
			t)[1u << length | (length ? (uint32_t)(key >> (128 - length)) : 0)];

		return value == 0 ? DPS_TABLE_NONE : value - 1;
	}
	depth = dps_lpm_depth(t, length);
	bits = dps_lpm_bits_in(key, depth, length);
	p = dps_lpm_seek(t, key, depth);
	if (!dps_lpm_is_own(t, &p, key, depth))
		return DPS_TABLE_NONE;
	n = dps_lpm_node_at(t, p.line);
	if (!(*dps_lpm_bit(n, bits, length - depth, &bit) & bit))
		return DPS_TABLE_NONE;
	return dps_lpm_values(t, n->values)[dps_lpm_rank(n, bits, length - depth)];
}

/* 0, or -ENOENT. */
DPS_TABLE_FAST static inline int
dps_lpm_del(struct dps_lpm *t, const void *address, uint32_t length)
{
	dps_lpm_key key;
	struct dps_lpm_place p;
	struct dps_lpm_node *n;
	uint32_t depth;

	if (dps_lpm_get(t, address, length) == DPS_TABLE_NONE)
		return -ENOENT;
	key = dps_lpm_key_of(t, address, length);
	t->entries--;
	if (length <= t->root_bits) {
		dps_lpm_set_short(t, key, length, 0);
		return 0;
	}
	depth = dps_lpm_depth(t, length);
	p = dps_lpm_seek(t, key, depth);
	dps_lpm_remove_value(t, p.line, dps_lpm_bits_in(key, depth, length), length - depth);
	n = dps_lpm_node_at(t, p.line);
	if ((n->some | n->full) != 0)
		return 0;
	if (n->child != 0) {
		dps_lpm_collapse(t, p.line);
	} else if (p.parent == 0) {
		t->nodes--;
		dps_lpm_root_of(t)[p.slot].node = 0;
		dps_lpm_give(t, DPS_LPM_VALUES, (uint64_t)p.line * 64, NULL);
	} else {
		uint32_t above = dps_lpm_node_at(t, p.parent)->depth;

		dps_lpm_collapse(t, dps_lpm_remove_child(t, p.parent,
							 (uint32_t)(key >> (122 - above)) & 63));
	}
	return 0;
}

#endif
