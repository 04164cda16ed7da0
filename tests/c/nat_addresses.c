// SPDX-License-Identifier: BSD-3-Clause
//
// Bindings of `nat` that a version with another list of addresses finds: no packet leaves with an address that is not
// in the list.
#include "../../workers/functions/nat.c"

enum { HOSTS = 64 };

static uint64_t counted[DPS_PLUGIN_COUNTERS];
static char why[256];

// Linear, and the same in both directions, as the worker's own.
uint32_t
dps_hash_of(const struct dps_env *e, const struct dps_tuple *t)
{
	uint32_t hash = ntohs(t->from_port) ^ ntohs(t->to_port);

	(void)e;
	for (uint32_t i = 0; i < 4; i++)
		hash ^= (uint32_t)(t->from[i] ^ t->to[i]) << (i & 1);
	return hash;
}

void
dps_touch(void *at, uint32_t len)
{
	(void)at;
	(void)len;
}

static void
begin(const char *list)
{
	static const char *const keys[] = { "inside", "outside", "address" }, *const names[] = { "lan", "wan" };
	static const char *values[] = { "lan", "wan", NULL };
	static struct dps_env e;

	values[2] = list;
	e = (struct dps_env){ .n_args = 3, .arg_keys = keys, .arg_values = values, .n_ports = 2,
			      .port_names = names, .counters = counted, .error = why,
			      .error_len = sizeof(why), .now = 1000000000 };
	n_addresses = 0;
	memset(addresses, 0, sizeof(addresses));
	if (init(&e, NULL) != 0) {
		fprintf(stderr, "%s\n", why);
		exit(2);
	}
	seated(NULL, &e);
}

// The address with which a host's UDP packet leaves.
static uint32_t
leaves_with(struct bucket *buckets, uint8_t host)
{
	uint8_t frame[64] = { [12] = 8, [14] = 0x45, [17] = 28, [22] = 64, [23] = UDP,
			      [26] = 10, [29] = host, [30] = 198, 51, 100, 1, 0x10, 0, 0, 53, 0, 8 };
	struct dps_packet p = { .data = frame, .len = 60, .total = 60, .port = (uint16_t)inside_port };

	p.hash = hash_of(UDP, word_at(frame + 26), half_at(frame + 34), word_at(frame + 30), half_at(frame + 36));
	p.bucket_state = &buckets[dps_bucket(p.hash)];
	if (packet(NULL, &p) != from_inside)
		return 0;
	return word_at(frame + 26);
}

int
main(void)
{
	struct bucket *buckets = calloc(DPS_PLUGIN_BUCKETS, sizeof(*buckets));
	uint32_t second = 0, strange = 0;

	begin("192.0.2.1, 192.0.2.2");
	for (uint32_t host = 1; host <= HOSTS; host++)
		second += leaves_with(buckets, (uint8_t)host) == inet_addr("192.0.2.2");
	begin("192.0.2.1");
	for (uint32_t host = 1; host <= HOSTS; host++)
		strange += leaves_with(buckets, (uint8_t)host) != inet_addr("192.0.2.1");
	printf("%u %u\n", second, strange);
	free(buckets);
	return 0;
}
