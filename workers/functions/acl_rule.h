/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef DPSUP_ACL_RULE_H
#define DPSUP_ACL_RULE_H

/*
 * Rules of `acl`: from words to numbers, and whether a packet is one that a rule speaks of. docs/functions/acl.md
 * says how they are written.
 */

#include <arpa/inet.h>
#include <stdio.h>

#include <dpsup_plugin.h>

enum {
	/* What a rule has ranges of. Of IPv6 addresses each quarter has one. */
	L4_FROM, L4_TO, PROTOCOL, TAG, PORT_IN, DSCP, FROM, TO, DIMS4,
	FROM1 = DIMS4, FROM2, FROM3, TO1, TO2, TO3, DIMS,

	TCP = 6,
	UDP = 17,
	SCTP = 132,
	ICMP4 = 1,
	ICMP6 = 58,

	NO_L4 = 0x10000,        /* of a packet that has no ports */
	NO_TAG = 0x1000,
	NO_MARK = 0xff,
	NO_COUNT = 0xffff,

	IS_4 = 1,
	IS_6 = 2,
	IS_LATER = 4,           /* of fragments all but the first */
	NOT_LATER = 8,
	KEEPS = 16,
	LOGS = 32,

	FIN = 1,
	SYN = 2,
	RST = 4,
	ACK = 16,

	RULE_PORTS = 64,        /* of the topology */
};

enum action { PERMIT, DENY, REJECT };

struct range {
	uint32_t from;
	uint32_t to;
};

struct rule {
	struct range is[DIMS4];
	uint8_t flags_of;       /* of these flags of TCP, flags are set */
	uint8_t flags;
	uint8_t bits;           /* IS_4, ... */
	uint8_t action;
	uint16_t count;         /* which counter, or NO_COUNT */
	uint8_t mark;           /* the DSCP that a packet gets, or NO_MARK */
	uint8_t is_small[2];    /* its prefixes are long, of addresses from and to: see acl_tree.h */
	uint8_t pad[3];
	uint32_t number;
	struct range more[DIMS - DIMS4];
};
_Static_assert(sizeof(struct rule) == 128, "two cache lines");

/* What rules look at of a packet. */
struct facts {
	uint32_t is[DIMS];
	uint8_t flags;
	uint8_t bits;           /* IS_4 or IS_6, IS_LATER or NOT_LATER */
};

/* What no range says, and those of IPv6. */
static inline int
rule_fits_rest(const struct rule *r, const struct facts *f)
{
	uint32_t out = (f->flags & r->flags_of) ^ r->flags;

	out |= (r->bits & f->bits) ^ f->bits;
	if ((f->bits & IS_6) != 0)
		for (uint32_t d = DIMS4; d < DIMS; d++)
			out |= (f->is[d] < r->more[d - DIMS4].from) | (f->is[d] > r->more[d - DIMS4].to);
	return out == 0;
}

static inline int
rule_fits(const struct rule *r, const struct facts *f)
{
	uint32_t out = 0;

	for (uint32_t d = 0; d < DIMS4; d++)
		out |= (f->is[d] < r->is[d].from) | (f->is[d] > r->is[d].to);
	return out == 0 && rule_fits_rest(r, f);
}

/* --- words -------------------------------------------------------------------------------------- */

struct words {
	char text[512];
	char *next;
	const struct dps_table_work *work;
	uint32_t number;        /* of the rule */
};

static inline int
rule_refuse(struct words *w, const char *format, const char *word)
{
	int n = snprintf(w->work->error, w->work->error_len, "rule %u: ", w->number);

	snprintf(w->work->error + n, w->work->error_len - (uint32_t)n, format, word);
	return -1;
}

/* "" at the end. */
static inline const char *
next_word(struct words *w)
{
	char *word = w->next + strspn(w->next, " "), *end = word + strcspn(word, " ");

	w->next = *end == '\0' ? end : end + 1;
	*end = '\0';
	return word;
}

/* The next word is this one: take it. */
static inline int
take_if(struct words *w, const char *word)
{
	const char *at = w->next + strspn(w->next, " ");
	size_t len = strlen(word);

	if (strncmp(at, word, len) != 0 || (at[len] != ' ' && at[len] != '\0'))
		return 0;
	next_word(w);
	return 1;
}

/* "80" or "80-443", up to `most`. */
static inline int
take_range(struct words *w, const char *what, uint32_t most, struct range *range)
{
	const char *word = next_word(w);
	char *end, why[96];
	unsigned long from = strtoul(word, &end, 10), to = from;

	snprintf(why, sizeof(why), "%s \"%%s\" is not a number or range up to %u, as 80 or 80-443", what, most);
	if (word[0] < '0' || word[0] > '9')
		return rule_refuse(w, why, word);
	if (*end == '-' && end[1] >= '0' && end[1] <= '9')
		to = strtoul(end + 1, &end, 10);
	if (*end != '\0' || from > to || to > most)
		return rule_refuse(w, why, word);
	*range = (struct range){ (uint32_t)from, (uint32_t)to };
	return 0;
}

static inline struct range *
rule_range(struct rule *r, uint32_t dim)
{
	return dim < DIMS4 ? &r->is[dim] : &r->more[dim - DIMS4];
}

/* "any", "10.0.0.0/8", "2001:db8::/32", an address. side: 0 from, 1 to. */
static inline int
take_prefix(struct words *w, struct rule *r, int side)
{
	static const uint32_t quarters[2][4] = { { FROM, FROM1, FROM2, FROM3 }, { TO, TO1, TO2, TO3 } };
	const char *word = next_word(w);
	char copy[64], *slash, *end;
	uint8_t address[16];
	uint32_t bits, whole, quarter, mask, n;
	int is6 = strchr(word, ':') != NULL;

	if (strcmp(word, "any") == 0)
		return 0;
	if (word[0] == '\0' || strlen(word) >= sizeof(copy))
		return rule_refuse(w, "an address is missing, or no such thing: \"%s\"", word);
	strcpy(copy, word);
	slash = strchr(copy, '/');
	whole = bits = is6 ? 128 : 32;
	if (slash != NULL) {
		*slash = '\0';
		bits = (uint32_t)strtoul(slash + 1, &end, 10);
		if (slash[1] < '0' || slash[1] > '9' || *end != '\0' || bits > whole)
			return rule_refuse(w, "\"%s\" has no such length of a prefix", word);
	}
	if (inet_pton(is6 ? AF_INET6 : AF_INET, copy, address) != 1)
		return rule_refuse(w, "\"%s\" is not an address: write any, 10.0.0.0/8 or 2001:db8::/32", word);
	for (uint32_t q = 0; q < (is6 ? 4u : 1u); q++) {
		n = bits > q * 32 ? bits - q * 32 : 0;
		mask = n == 0 ? 0 : n >= 32 ? 0xffffffffu : 0xffffffffu << (32 - n);
		memcpy(&quarter, address + q * 4, 4);
		quarter = ntohl(quarter);
		if ((quarter & ~mask) != 0)
			return rule_refuse(w, "\"%s\" has bits set behind its length", word);
		*rule_range(r, quarters[side][q]) = (struct range){ quarter, quarter | ~mask };
	}
	r->bits &= (uint8_t)~(is6 ? IS_4 : IS_6);
	if ((r->bits & (IS_4 | IS_6)) == 0)
		return rule_refuse(w, "\"%s\" is of the other IP version than the rest of the rule", word);
	r->is_small[side] = bits >= (is6 ? 48 : 16);
	return 0;
}

/* "S/SA": of SYN and ACK, SYN is set. */
static inline int
take_flags(struct words *w, struct rule *r)
{
	static const char letters[] = "FSRPAUEW";
	const char *word = next_word(w), *at = word, *letter;
	uint8_t *to = &r->flags;
	int slashes = 0;

	r->flags_of = r->flags = 0;
	for (; *at != '\0'; at++) {
		if (*at == '/' && slashes++ == 0) {
			to = &r->flags_of;
			continue;
		}
		letter = strchr(letters, *at);
		if (letter == NULL)
			break;
		*to |= (uint8_t)(1u << (letter - letters));
	}
	if (*at != '\0' || slashes != 1 || r->flags_of == 0 || (r->flags & ~r->flags_of) != 0)
		return rule_refuse(w, "flags \"%s\": write those that are set, a slash, those that are looked at: "
			      "S/SA (of F, S, R, P, A, U, E, W)", word);
	return 0;
}

static inline int
take_number_to(struct words *w, const char *what, uint32_t most, uint32_t *n)
{
	struct range range;

	if (take_range(w, what, most, &range) != 0)
		return -1;
	*n = range.from;
	return range.from == range.to ? 0 : rule_refuse(w, "%s takes one number", what);
}

static inline int
take_protocol(struct words *w, struct rule *r)
{
	static const struct { const char *word; uint32_t number; } known[] = {
		{ "tcp", TCP }, { "udp", UDP }, { "sctp", SCTP }, { "icmp", ICMP4 }, { "icmpv6", ICMP6 },
	};
	uint32_t number;

	for (uint32_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (take_if(w, known[i].word)) {
			r->is[PROTOCOL] = (struct range){ known[i].number, known[i].number };
			if (known[i].number == ICMP4)
				r->bits &= (uint8_t)~IS_6;
			if (known[i].number == ICMP6)
				r->bits &= (uint8_t)~IS_4;
			return 0;
		}
	if (!take_if(w, "protocol"))
		return 0;
	if (take_number_to(w, "protocol", 255, &number) != 0)
		return -1;
	r->is[PROTOCOL] = (struct range){ number, number };
	return 0;
}

static inline int
is_of(const struct rule *r, uint32_t protocol)
{
	return r->is[PROTOCOL].from == protocol && r->is[PROTOCOL].to == protocol;
}

/* "from PREFIX port 80" and the like. */
static inline int
take_side(struct words *w, struct rule *r, int side)
{
	if (take_prefix(w, r, side) != 0)
		return -1;
	if (!take_if(w, "port"))
		return 0;
	if (!is_of(r, TCP) && !is_of(r, UDP) && !is_of(r, SCTP))
		return rule_refuse(w, "%s are those of tcp, udp or sctp: write one of these first", "ports");
	return take_range(w, "port", 65535, &r->is[side ? L4_TO : L4_FROM]);
}

static inline int
take_option(struct words *w, struct rule *r, const char *word)
{
	const struct dps_table_work *work = w->work;
	uint32_t n = 0;

	if (strcmp(word, "in") == 0) {
		word = next_word(w);
		while (n < work->n_ports && strcmp(work->port_names[n], word) != 0)
			n++;
		if (n == work->n_ports)
			return rule_refuse(w, "there is no port \"%s\" in the topology", word);
		r->is[PORT_IN] = (struct range){ n, n };
		return 0;
	}
	if (strcmp(word, "vlan") == 0) {
		if (take_if(w, "none")) {
			r->is[TAG] = (struct range){ NO_TAG, NO_TAG };
			return 0;
		}
		return take_range(w, "vlan", 4095, &r->is[TAG]);
	}
	if (strcmp(word, "type") == 0 || strcmp(word, "code") == 0) {
		if (!is_of(r, ICMP4) && !is_of(r, ICMP6))
			return rule_refuse(w, "%s is one of icmp or icmpv6: write one of these first", word);
		return take_range(w, word, 255, &r->is[word[0] == 't' ? L4_FROM : L4_TO]);
	}
	if (strcmp(word, "flags") == 0)
		return is_of(r, TCP) ? take_flags(w, r) : rule_refuse(w, "%s are those of tcp", word);
	if (strcmp(word, "dscp") == 0 || strcmp(word, "mark") == 0) {
		if (take_number_to(w, word, 63, &n) != 0)
			return -1;
		if (word[0] == 'd')
			r->is[DSCP] = (struct range){ n, n };
		else
			r->mark = (uint8_t)n;
		return 0;
	}
	if (strcmp(word, "count") == 0) {
		if (take_number_to(w, word, 255, &n) != 0)
			return -1;
		r->count = (uint16_t)n;
		return 0;
	}
	if (strcmp(word, "fragment") == 0)
		r->bits &= (uint8_t)~NOT_LATER;
	else if (strcmp(word, "keep") == 0)
		r->bits |= KEEPS;
	else if (strcmp(word, "log") == 0)
		r->bits |= LOGS;
	else
		return rule_refuse(w, "\"%s\" is no part of a rule: write from, to, in, vlan, type, code, flags, dscp, "
			      "fragment, keep, mark, count or log", word);
	return 0;
}

/* 0, or -1 with work->error. `text`: len bytes, zero behind its end. */
static inline int
rule_read(const struct dps_table_work *work, uint32_t number, const char *text, uint32_t len, struct rule *r)
{
	struct words w = { .work = work, .number = number };
	const char *word;

	memset(r, 0, sizeof(*r));
	for (uint32_t d = 0; d < DIMS; d++)
		rule_range(r, d)->to = 0xffffffffu;
	r->mark = NO_MARK;
	r->count = NO_COUNT;
	r->bits = IS_4 | IS_6 | IS_LATER | NOT_LATER;
	r->number = number;
	len = len < sizeof(w.text) ? len : (uint32_t)sizeof(w.text) - 1;
	memcpy(w.text, text, len);
	w.next = w.text;
	word = next_word(&w);
	if (strcmp(word, "permit") == 0)
		r->action = PERMIT;
	else if (strcmp(word, "deny") == 0)
		r->action = DENY;
	else if (strcmp(word, "reject") == 0)
		r->action = REJECT;
	else
		return rule_refuse(&w, "\"%s\" is no action: it begins with permit, deny or reject", word);
	if (take_protocol(&w, r) != 0)
		return -1;
	for (word = next_word(&w); word[0] != '\0'; word = next_word(&w)) {
		if (strcmp(word, "from") == 0 || strcmp(word, "to") == 0) {
			if (take_side(&w, r, word[0] == 't') != 0)
				return -1;
		} else if (take_option(&w, r, word) != 0) {
			return -1;
		}
	}
	if ((r->bits & KEEPS) != 0 && r->action != PERMIT)
		return rule_refuse(&w, "%s has no sense without permit", "keep");
	if (r->mark != NO_MARK && r->action != PERMIT)
		return rule_refuse(&w, "%s has no sense without permit", "mark");
	/* Only the first packet of a connection makes one. */
	if ((r->bits & KEEPS) != 0 && is_of(r, TCP) && r->flags_of == 0) {
		r->flags_of = SYN | ACK | RST | FIN;
		r->flags = SYN;
	}
	/* A later fragment has no ports and no flags. */
	if (r->flags_of != 0 || (r->bits & KEEPS) != 0)
		r->bits &= (uint8_t)~IS_LATER;
	if ((r->bits & (IS_LATER | NOT_LATER)) == 0)
		return rule_refuse(&w, "%s has neither flags nor keep", "a fragment");
	return 0;
}

#endif
