/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_ACL_TREE_H
#define DPSUP_ACL_TREE_H

/*
 * A classifier of ordered rules: the first one that fits a packet. Decision trees that cut, then split: CutSplit
 * (Li, Li, Li, Xie, INFOCOM 2018). A node cuts one dimension into equal parts (HiCuts; Gupta, McKeown, 1999) where
 * that multiplies few rules, else it splits one at the end of a range (HyperSplit; Qi et al., INFOCOM 2009); a
 * leaf has some rules in order. Rules with short prefixes would be multiplied by cuts of addresses, so there is a
 * tree for each combination of long and short ones (EffiCuts; Vamanan, Voskuilen, Vijaykumar, SIGCOMM 2010), for
 * IPv4 and for IPv6. A tree says the first of its rules; a packet leaves out those whose first one comes too late.
 *
 * Memory: where the trees do not fit, leaves get longer; leaves of all rules always fit. Inside are offsets alone.
 */

#include <errno.h>

#include "acl_rule.h"

#define ACL_MAGIC 0x61636c32u

enum {
	TREES = 4,              /* of each IP version */
	LEAF = 6,               /* rules of a leaf, where there is room */
	MOST_CUTS = 10,         /* 2^10 parts */
	IS_LEAF = 0,
	IS_CUT,
	IS_SPLIT,
};

struct node {
	uint8_t kind;
	uint8_t dim;
	uint8_t shift;
	uint8_t pad;
	uint32_t base;          /* of a leaf: where its rules stand in the list of leaves; else the first child */
	uint32_t value;         /* of a leaf: how many; of a cut: a mask; of a split: what is above goes right */
	uint32_t first;         /* the first of its rules */
};

/* A rule of a leaf, ready to be compared with a packet: signed, as the first SIMD instructions compare. */
typedef int32_t acl_lanes __attribute__((vector_size(16)));
struct line {
	acl_lanes from[2];
	acl_lanes to[2];
};
_Static_assert(sizeof(struct line) == 64 && DIMS4 == 8, "a cache line");

struct tree {
	uint32_t root;
	uint32_t first;         /* of its rules; n_rules: it has none */
};

struct acl {
	uint32_t magic;
	uint32_t n_rules;
	uint32_t n_nodes;
	uint32_t n_leaves;      /* entries in the list of leaves */
	uint32_t leaf;          /* rules of the longest leaf */
	uint32_t keeps;         /* rules that keep flows */
	uint64_t rules_at;
	uint64_t nodes_at;
	uint64_t leaves_at;     /* indices of rules */
	uint64_t lines_at;      /* and their lines */
	uint64_t bytes;
	struct tree tree[2][TREES];     /* IPv4, IPv6; in the order of their first rules */
};
_Static_assert(sizeof(struct acl) == 128, "a whole number of cache lines");

/* --- lookup ------------------------------------------------------------------------------------- */

static inline const struct rule *
acl_rules(const struct acl *a)
{
	return (const struct rule *)((const char *)a + a->rules_at);
}

static inline int
acl_line_fits(const struct line *line, const acl_lanes *is)
{
	acl_lanes out = (is[0] < line->from[0]) | (is[0] > line->to[0]) | (is[1] < line->from[1]) |
			(is[1] > line->to[1]);
	uint64_t half[2];

	memcpy(half, &out, sizeof(half));
	return (half[0] | half[1]) == 0;
}

static inline uint32_t
acl_leaf(const struct acl *a, const struct node *node, const struct facts *f, uint32_t found)
{
	const uint32_t *leaf = (const uint32_t *)((const char *)a + a->leaves_at) + node->base;
	const struct line *lines = (const struct line *)((const char *)a + a->lines_at) + node->base;
	const struct rule *rules = acl_rules(a);
	acl_lanes is[2];

	memcpy(is, f->is, sizeof(is));
	is[0] ^= INT32_MIN;
	is[1] ^= INT32_MIN;
	for (uint32_t r = 0; r < node->value && leaf[r] < found; r++)
		if (acl_line_fits(&lines[r], is) && rule_fits_rest(&rules[leaf[r]], f))
			return leaf[r];
	return found;
}

/* The index of the first rule that fits each of n packets, or n_rules. It works on all of them step by step, so
 * that the misses overlap. */
static inline void
acl_look(const struct acl *a, const struct facts *const *facts, uint32_t n, uint32_t *found)
{
	const struct node *nodes = (const struct node *)((const char *)a + a->nodes_at);
	const struct line *lines = (const struct line *)((const char *)a + a->lines_at);
	const uint32_t *leaves = (const uint32_t *)((const char *)a + a->leaves_at);
	uint32_t at[DPS_PLUGIN_BURST], who[DPS_PLUGIN_BURST], end[DPS_PLUGIN_BURST];
	uint32_t still, left, ends;

	for (uint32_t i = 0; i < n; i++)
		found[i] = a->n_rules;
	for (uint32_t t = 0; t < TREES; t++) {
		left = 0;
		for (uint32_t i = 0; i < n; i++) {
			const struct tree *tree = &a->tree[(facts[i]->bits & IS_6) != 0][t];

			if (tree->first >= found[i])
				continue;
			at[i] = tree->root;
			who[left++] = i;
		}
		ends = 0;
		while (left > 0) {
			still = 0;
			for (uint32_t k = 0; k < left; k++) {
				uint32_t i = who[k];
				const struct node *node = &nodes[at[i]];
				uint32_t is = facts[i]->is[node->dim];

				if (node->kind == IS_LEAF) {
					__builtin_prefetch(&lines[node->base]);
					__builtin_prefetch(&leaves[node->base]);
					end[ends++] = i;
					continue;
				}
				at[i] = node->base + (node->kind == IS_CUT ? is >> node->shift & node->value :
									    is > node->value);
				__builtin_prefetch(&nodes[at[i]]);
				who[still++] = i;
			}
			left = still;
		}
		for (uint32_t k = 0; k < ends; k++)
			found[end[k]] = acl_leaf(a, &nodes[at[end[k]]], facts[end[k]], found[end[k]]);
	}
}

/* --- building: in dpsup-apply, off the path of packets ---------------------------------------------- */

struct growing {
	void *at;
	uint32_t n;
	uint32_t room;
};

struct build {
	const struct rule *rules;
	uint32_t n_rules;
	uint32_t dims;
	uint32_t leaf;
	uint64_t most;          /* bytes that nodes and leaves may have */
	struct growing nodes;
	struct growing leaves;
	uint32_t *ends[2];      /* of ranges, sorted: [n] */
	uint32_t *sums;         /* [2^MOST_CUTS + 1] */
	uint32_t longest;
	int depth;
};

struct box {
	struct range is[DIMS];
};

static inline int
grow(struct growing *g, uint32_t more, size_t size)
{
	uint32_t room = g->room == 0 ? 1024 : g->room;
	void *at;

	if (g->n + more <= g->room)
		return 0;
	while (room < g->n + more)
		room *= 2;
	at = realloc(g->at, room * size);
	if (at == NULL)
		return -ENOMEM;
	g->at = at;
	g->room = room;
	return 0;
}

static inline struct range
rule_in(const struct rule *r, const struct box *box, uint32_t dim)
{
	struct range of = dim < DIMS4 ? r->is[dim] : r->more[dim - DIMS4];

	of.from = of.from > box->is[dim].from ? of.from : box->is[dim].from;
	of.to = of.to < box->is[dim].to ? of.to : box->is[dim].to;
	return of;
}

static int
by_number(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

/* All packets of the box fit the rule: none behind it is looked at there. */
static inline int
covers(const struct build *b, const struct rule *r, const struct box *box)
{
	if (r->flags_of != 0 || (r->bits & (IS_LATER | NOT_LATER)) != (IS_LATER | NOT_LATER))
		return 0;
	for (uint32_t d = 0; d < b->dims; d++) {
		struct range of = rule_in(r, box, d);

		if (of.from != box->is[d].from || of.to != box->is[d].to)
			return 0;
	}
	return 1;
}

static inline int
make_leaf(struct build *b, uint32_t node, const uint32_t *list, uint32_t n)
{
	struct node *to = &((struct node *)b->nodes.at)[node];
	uint32_t *leaves = (uint32_t *)b->leaves.at;

	*to = (struct node){ .kind = IS_LEAF, .value = n, .first = n > 0 ? list[0] : b->n_rules };
	b->longest = n > b->longest ? n : b->longest;
	/* Parts of a cut often have the rules of their neighbour. */
	if (n > 0 && b->leaves.n >= n && memcmp(leaves + b->leaves.n - n, list, n * sizeof(*list)) == 0) {
		to->base = b->leaves.n - n;
		return 0;
	}
	if (grow(&b->leaves, n, sizeof(*list)) != 0)
		return -ENOMEM;
	to->base = b->leaves.n;
	if (n > 0)
		memcpy((uint32_t *)b->leaves.at + b->leaves.n, list, n * sizeof(*list));
	b->leaves.n += n;
	return (uint64_t)b->leaves.n * (sizeof(*list) + sizeof(struct line)) + (uint64_t)b->nodes.n * sizeof(*to) > b->most ? -ENOSPC : 0;
}

/* The best place to split a dimension: what is at most there goes left. Returns how many rules the larger side
 * has, and half of those that both have; ~0: no place divides them. */
static inline uint64_t
best_split(const struct build *b, const uint32_t *list, uint32_t n, const struct box *box, uint32_t dim,
	   uint32_t *where)
{
	uint32_t *from = b->ends[0], *to = b->ends[1], i = 0, k = 0, left, right;
	uint64_t best = ~0ull, cost;

	for (uint32_t j = 0; j < n; j++) {
		struct range of = rule_in(&b->rules[list[j]], box, dim);

		from[j] = of.from;
		to[j] = of.to;
	}
	qsort(from, n, sizeof(*from), by_number);
	qsort(to, n, sizeof(*to), by_number);
	if (from[n - 1] == box->is[dim].from && to[0] == box->is[dim].to)
		return ~0ull;
	/* Places: the end of a range, or one below a beginning. */
	while (i < n || k < n) {
		uint32_t at;

		if (i < n && from[i] == box->is[dim].from) {
			i++;
			continue;
		}
		at = i < n && (k == n || from[i] - 1 <= to[k]) ? from[i] - 1 : to[k];
		if (at >= box->is[dim].to)
			break;
		while (i < n && from[i] <= at)
			i++;
		while (k < n && to[k] <= at)
			k++;
		left = i;
		right = n - k;
		cost = 2ull * (left > right ? left : right) + (left + right - n);
		if ((left < n || right < n) && cost < best) {
			best = cost;
			*where = at;
		}
		/* The next place is behind this one, where this range is left too. */
		if (i < n && from[i] - 1 == at)
			i++;
	}
	return best;
}

/* Into how many parts, as a power of two, a dimension may be cut without many rules in several. Returns the most
 * rules of one part; ~0: into none. */
static inline uint64_t
best_cut(const struct build *b, const uint32_t *list, uint32_t n, const struct box *box, uint32_t dim,
	 uint32_t *bits, uint32_t *shift)
{
	uint64_t size = (uint64_t)box->is[dim].to - box->is[dim].from + 1, best = ~0ull, sum, most, now;
	uint32_t log = (uint32_t)__builtin_ctzll(size), parts;

	if ((size & (size - 1)) != 0 || (box->is[dim].from & (size - 1)) != 0)
		return ~0ull;
	for (uint32_t k = 2; k <= MOST_CUTS && k <= log && (1u << k) <= 4 * n; k++) {
		parts = 1u << k;
		memset(b->sums, 0, (parts + 1) * sizeof(b->sums[0]));
		sum = 0;
		for (uint32_t j = 0; j < n; j++) {
			struct range of = rule_in(&b->rules[list[j]], box, dim);
			uint32_t first = (of.from - box->is[dim].from) >> (log - k);
			uint32_t last = (of.to - box->is[dim].from) >> (log - k);

			b->sums[first]++;
			b->sums[last + 1]--;
			sum += last - first + 1;
		}
		most = now = 0;
		for (uint32_t p = 0; p < parts; p++) {
			now += (uint64_t)(int64_t)(int32_t)b->sums[p];
			most = now > most ? now : most;
		}
		if (sum > n + n / 2 + parts / 4)
			break;
		if (most < best) {
			best = most;
			*bits = k;
			*shift = log - k;
		}
	}
	return best;
}

static int make_node(struct build *b, uint32_t node, uint32_t *list, uint32_t n, const struct box *box);

/* The rules of a part of the box, in order, and the node that has them. */
static inline int
make_child(struct build *b, uint32_t node, const uint32_t *list, uint32_t n, const struct box *box, uint32_t dim)
{
	uint32_t *part = (uint32_t *)malloc((n + 1) * sizeof(*part)), kept = 0;
	int ret;

	if (part == NULL)
		return -ENOMEM;
	for (uint32_t j = 0; j < n; j++) {
		struct range of = rule_in(&b->rules[list[j]], box, dim);

		if (of.from <= of.to)
			part[kept++] = list[j];
	}
	ret = make_node(b, node, part, kept, box);
	free(part);
	return ret;
}

static int
make_node(struct build *b, uint32_t node, uint32_t *list, uint32_t n, const struct box *box)
{
	uint64_t split = ~0ull, cut = ~0ull, cost;
	uint32_t split_dim = 0, split_at = 0, cut_dim = 0, cut_bits = 0, cut_shift = 0, children, base;
	struct box part = *box;
	int ret = 0;

	for (uint32_t j = 0; j < n; j++)
		if (covers(b, &b->rules[list[j]], box))
			n = j + 1;
	if (n <= b->leaf || b->depth > 64)
		return make_leaf(b, node, list, n);
	for (uint32_t d = 0; d < b->dims; d++) {
		uint32_t at = 0, bits = 0, shift = 0;

		cost = best_split(b, list, n, box, d, &at);
		if (cost == ~0ull)
			continue;
		if (cost < split) {
			split = cost;
			split_dim = d;
			split_at = at;
		}
		cost = best_cut(b, list, n, box, d, &bits, &shift);
		if (cost < cut) {
			cut = cost;
			cut_dim = d;
			cut_bits = bits;
			cut_shift = shift;
		}
	}
	if (split == ~0ull)
		return make_leaf(b, node, list, n);
	/* A cut is worth two splits at least. */
	children = cut != ~0ull && 4 * cut <= split ? 1u << cut_bits : 2;
	if (grow(&b->nodes, children, sizeof(struct node)) != 0)
		return -ENOMEM;
	base = b->nodes.n;
	b->nodes.n += children;
	((struct node *)b->nodes.at)[node] = (struct node){
		.kind = children > 2 ? IS_CUT : IS_SPLIT,
		.dim = (uint8_t)(children > 2 ? cut_dim : split_dim),
		.shift = (uint8_t)(children > 2 ? cut_shift : 0),
		.base = base,
		.value = children > 2 ? children - 1 : split_at,
		.first = list[0],
	};
	b->depth++;
	for (uint32_t c = 0; c < children && ret == 0; c++) {
		uint32_t d = children > 2 ? cut_dim : split_dim;

		if (children > 2)
			part.is[d] = (struct range){ box->is[d].from + (c << cut_shift),
						     box->is[d].from + (c << cut_shift) + ((1u << cut_shift) - 1) };
		else
			part.is[d] = c == 0 ? (struct range){ box->is[d].from, split_at } :
					      (struct range){ split_at + 1, box->is[d].to };
		ret = make_child(b, base + c, list, n, &part, d);
	}
	b->depth--;
	return ret;
}

static inline int
make_tree(struct build *b, struct tree *tree, uint32_t *list, uint32_t n)
{
	struct box box;

	for (uint32_t d = 0; d < DIMS; d++)
		box.is[d] = (struct range){ 0, 0xffffffffu };
	tree->first = n > 0 ? list[0] : b->n_rules;
	if (grow(&b->nodes, 1, sizeof(struct node)) != 0)
		return -ENOMEM;
	tree->root = b->nodes.n++;
	return make_node(b, tree->root, list, n, &box);
}

/* Both versions' trees, with leaves of up to b->leaf rules. `list` has room for all of them. */
static inline int
make_trees(struct build *b, struct acl *to, uint32_t *list)
{
	for (int six = 0; six < 2; six++) {
		struct tree *trees = to->tree[six];
		uint32_t count[TREES] = { 0 }, n;
		int ret;

		b->dims = six ? DIMS : DIMS4;
		for (uint32_t r = 0; r < b->n_rules; r++)
			if ((b->rules[r].bits & (six ? IS_6 : IS_4)) != 0)
				count[b->rules[r].is_small[0] * 2 + b->rules[r].is_small[1]]++;
		for (uint32_t t = 0; t < TREES; t++) {
			/* A tree of few rules costs each packet more than they cost in another one. */
			uint32_t few = 2 * b->leaf;

			n = 0;
			for (uint32_t r = 0; r < b->n_rules; r++) {
				const struct rule *rule = &b->rules[r];
				uint32_t is = rule->is_small[0] * 2u + rule->is_small[1];

				if ((rule->bits & (six ? IS_6 : IS_4)) != 0 &&
				    (count[is] > few ? is : 0) == t)
					list[n++] = r;
			}
			ret = make_tree(b, &trees[t], list, n);
			if (ret != 0)
				return ret;
		}
		for (uint32_t i = 1; i < TREES; i++)
			for (uint32_t k = i; k > 0 && trees[k].first < trees[k - 1].first; k--) {
				struct tree other = trees[k];

				trees[k] = trees[k - 1];
				trees[k - 1] = other;
			}
	}
	return 0;
}

static inline uint64_t
acl_up(uint64_t bytes)
{
	return (bytes + 63) & ~63ull;
}

static inline void
make_line(struct line *line, const struct rule *r)
{
	for (uint32_t d = 0; d < DIMS4; d++) {
		line->from[d / 4][d % 4] = (int32_t)(r->is[d].from ^ 0x80000000u);
		line->to[d / 4][d % 4] = (int32_t)(r->is[d].to ^ 0x80000000u);
	}
}

/* The table of n rules, in the order in which they are tried, into `room` bytes. 0, -ENOSPC or -ENOMEM. */
static inline int
acl_make(struct acl *to, uint64_t room, const struct rule *rules, uint32_t n)
{
	uint64_t rules_bytes = acl_up((uint64_t)n * sizeof(*rules)), head = sizeof(*to) + rules_bytes;
	struct build b = { .rules = rules, .n_rules = n };
	struct acl made = { .magic = ACL_MAGIC, .n_rules = n };
	uint32_t *list = (uint32_t *)malloc((n + 1) * sizeof(*list));
	int ret = -ENOSPC;

	b.ends[0] = (uint32_t *)malloc((n + 1) * sizeof(uint32_t));
	b.ends[1] = (uint32_t *)malloc((n + 1) * sizeof(uint32_t));
	b.sums = (uint32_t *)malloc(((1u << MOST_CUTS) + 2) * sizeof(uint32_t));
	if (list == NULL || b.ends[0] == NULL || b.ends[1] == NULL || b.sums == NULL)
		ret = -ENOMEM;
	b.most = room > head + 192 ? room - head - 192 : 0;
	for (b.leaf = LEAF; ret == -ENOSPC; b.leaf *= 2) {
		b.nodes.n = b.leaves.n = b.longest = 0;
		b.depth = 0;
		ret = make_trees(&b, &made, list);
		if (b.leaf > n && ret == -ENOSPC)
			break;
	}
	if (ret == 0) {
		made.n_nodes = b.nodes.n;
		made.n_leaves = b.leaves.n;
		made.leaf = b.longest;
		made.rules_at = sizeof(made);
		made.nodes_at = head;
		made.leaves_at = head + acl_up((uint64_t)b.nodes.n * sizeof(struct node));
		made.lines_at = made.leaves_at + acl_up((uint64_t)b.leaves.n * sizeof(uint32_t));
		made.bytes = made.lines_at + (uint64_t)b.leaves.n * sizeof(struct line);
		for (uint32_t r = 0; r < n; r++)
			made.keeps += (rules[r].bits & KEEPS) != 0;
		ret = made.bytes > room ? -ENOSPC : 0;
	}
	if (ret == 0) {
		*to = made;
		if (n > 0)
			memcpy((char *)to + made.rules_at, rules, n * sizeof(*rules));
		memcpy((char *)to + made.nodes_at, b.nodes.at, b.nodes.n * sizeof(struct node));
		if (b.leaves.n > 0)
			memcpy((char *)to + made.leaves_at, b.leaves.at, b.leaves.n * sizeof(uint32_t));
		for (uint32_t l = 0; l < b.leaves.n; l++)
			make_line((struct line *)((char *)to + made.lines_at) + l,
				  &rules[((const uint32_t *)b.leaves.at)[l]]);
	}
	free(list);
	free(b.ends[0]);
	free(b.ends[1]);
	free(b.sums);
	free(b.nodes.at);
	free(b.leaves.at);
	return ret;
}

#endif
