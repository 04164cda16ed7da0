// SPDX-License-Identifier: BSD-3-Clause
//
// The seed: attaches once per generation as a DPDK secondary, then forks the workers.
//
// rte_eal_init in a secondary takes EAL's shared locks and allocates from the shared heap; each
// attach leaves some of that behind when its process dies. A fork of a process that attached does
// neither and takes 3 ms. DPDK calls fork after rte_eal_init unsupported because the child has no
// EAL threads; it is sound here because the child makes no EAL call.
//
// This program links EAL statically, and no bus or driver: so attaching loads no PMD, probes no
// device of the primary's (net_pcap would truncate the primary's output file, 22.11) and asks the
// primary nothing over EAL's IPC.
//
// Over 600 lines: it is one loop, and its orders, children and words share one state.

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_memory.h>
#include <rte_memzone.h>
#include <rte_version.h>

#include "confine.h"
#include "worker.h"

enum {
	ORDER_MOST = DPS_ORDER,
	LEAVE_MS = 500,         // for workers to leave; the supervisor ends all after 1 s
	CHILDREN = 2 * DPS_MAX_SITTERS, // a berth is free again before its last one is reaped
	WORDS = 2 * CHILDREN,           // that wait for room in the supervisor's socket
	WORDS_BUSY = WORDS - CHILDREN,  // from here on no order is taken: each child may still end
	PAUSE_MS = 10                   // after a connection or a word that there was no memory for
};

struct seed {
	struct shared shared;
	const char *socket_path;
	const char *file_prefix;
	const char *lcores;
	const char *huge_dir;
	const char *dpdk_version;
	uint64_t generation;
	uint64_t primary_start;
	int32_t primary_pid;
	uint32_t abi;
	uint64_t capabilities;                  // that it keeps, bit by number
	int notify;
	int listener;
	int orders;                             // the supervisor's connection, -1: none
	int caller;                             // one that has not said yet that it supervises, -1: none
	int signals;
	uint32_t n_words;
	uint32_t first_word;
	bool is_short;                          // of memory for a word, not of room in the socket
	struct {
		char text[ORDER_MOST];
		int fd;                         // goes with it, -1: none
	} word[WORDS];
	struct {
		pid_t pid;                      // 0: free
		uint32_t berth;
		int log;                        // what it prints to: for the next supervisor
	} child[CHILDREN];
};

static struct seed seed = { .notify = -1, .orders = -1, .caller = -1 };

static void __attribute__((noreturn, format(printf, 2, 3)))
refuse(int code, const char *format, ...)
{
	char why[DPS_ERROR];
	va_list ap;

	va_start(ap, format);
	vsnprintf(why, sizeof(why), format, ap);
	va_end(ap);
	if (seed.notify >= 0)
		dprintf(seed.notify, "REFUSED %d %s\n", code, why);
	fprintf(stderr, "seed: %s\n", why);
	_exit(code);
}

// --- before and after the attach ------------------------------------------------------------------

// Start time of a process in clock ticks since boot, field 22 of /proc/PID/stat; 0 if it is gone.
static uint64_t
start_time(int32_t pid)
{
	char path[64], line[1024];
	uint64_t ticks = 0;
	char *at;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "r");
	if (f == NULL)
		return 0;
	if (fgets(line, sizeof(line), f) != NULL && (at = strrchr(line, ')')) != NULL) {
		at++;
		for (int field = 3; field < 22 && at != NULL; field++)
			at = strchr(at + 1, ' ');
		if (at != NULL)
			ticks = strtoull(at, NULL, 10);
	}
	fclose(f);
	return ticks;
}

static void
check_primary(const char *when)
{
	struct pollfd p = { .fd = seed.shared.primary_pidfd, .events = POLLIN };

	if (seed.shared.primary_pidfd < 0 || poll(&p, 1, 0) != 0 ||
	    start_time(seed.primary_pid) != seed.primary_start)
		refuse(DPS_EXIT_PRIMARY_GONE, "the primary, pid %d, is dead (%s the attach)",
		       seed.primary_pid, when);
}

// The primary plugs a device in or out, and asks each secondary to do the same. A request says 0, done,
// as its result: returned as it is, it says that nothing is left to do here.
static int
have_no_devices(const struct rte_mp_msg *request, const void *peer)
{
	struct rte_mp_msg reply = *request;

	return rte_mp_reply(&reply, peer);
}

static void
attach(void)
{
	char prefix[300], lcores[64], huge[600], program[] = "dpsup-seed";
	char *argv[] = {
		program, (char[]){ "--proc-type=secondary" }, (char[]){ "--no-telemetry" },
		prefix, lcores, (char[]){ "--log-level=lib.eal:warning" }, NULL, NULL,
	};
	int argc = 6;

	snprintf(prefix, sizeof(prefix), "--file-prefix=%s", seed.file_prefix);
	snprintf(lcores, sizeof(lcores), "--lcores=%s", seed.lcores);
	if (seed.huge_dir != NULL) {
		snprintf(huge, sizeof(huge), "--huge-dir=%s", seed.huge_dir);
		argv[argc++] = huge;
	}
	if (rte_eal_init(argc, argv) < 0)
		refuse(DPS_EXIT_ATTACH, "EAL would not attach to \"%s\": %s", seed.file_prefix,
		       rte_errno != 0 ? rte_strerror(rte_errno) : "EAL's lines in the log say why");
	// EAL's own answer would be an error: it knows no bus.
	rte_mp_action_unregister("eal_dev_mp_request");
	rte_mp_action_register("eal_dev_mp_request", have_no_devices);
}

static void
check_control_block(void)
{
	const struct rte_memzone *mz = rte_memzone_lookup(DPS_MZ_CTL);
	struct dps_ctl *ctl;

	if (mz == NULL)
		refuse(DPS_EXIT_GENERATION, "\"%s\" is no dpsup instance", seed.file_prefix);
	ctl = mz->addr;
	if (dps_load32(&ctl->magic) != DPS_MAGIC || ctl->abi_version != DPS_ABI_VERSION ||
	    ctl->abi_size != sizeof(*ctl))
		refuse(DPS_EXIT_ABI, "the primary has ABI %u (%u bytes), this worker %u (%zu)",
		       ctl->abi_version, ctl->abi_size, DPS_ABI_VERSION, sizeof(*ctl));
	if (ctl->generation != seed.generation || ctl->primary_pid != seed.primary_pid)
		refuse(DPS_EXIT_GENERATION, "generation %" PRIu64 " of pid %d was asked for, "
		       "found %" PRIu64 " of pid %d", seed.generation, seed.primary_pid,
		       ctl->generation, ctl->primary_pid);
	seed.shared.ctl = ctl;
	for (uint32_t i = 0; i < ctl->n_slots; i++) {
		struct dps_slot *slot = (void *)(uintptr_t)(ctl->base + ctl->slot[i]);

		if (dps_load32(&slot->magic) != DPS_SLOT_MAGIC)
			refuse(DPS_EXIT_ABI, "slot %u is not laid out", i);
		seed.shared.slot[i] = slot;
	}
}

// Workers' sitters lie apart from the rest, as each may write in its own: workers/fence.c.
static void
map_sitters(void)
{
	char path[DPS_PATH];
	struct stat st;
	void *at = MAP_FAILED;
	int fd;

	snprintf(path, sizeof(path), "%s/" DPS_SITTERS, rte_eal_get_runtime_dir());
	fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd >= 0 && fstat(fd, &st) == 0) {
		errno = EINVAL;
		if (st.st_size == DPS_MAX_SITTERS * sizeof(struct dps_sitter))
			at = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	}
	if (at == MAP_FAILED)
		refuse(DPS_EXIT_ATTACH, "cannot map %s: %s", path, strerror(errno));
	close(fd);
	seed.shared.sitter = at;
}

static int
add_range(const struct rte_memseg_list *msl, const struct rte_memseg *ms, size_t len, void *arg)
{
	struct shared *shared = arg;

	if (msl->external || shared->n_ranges == sizeof(shared->range) / sizeof(shared->range[0]))
		return 0;
	shared->range[shared->n_ranges].start = ms->addr;
	shared->range[shared->n_ranges].len = len;
	shared->range[shared->n_ranges].page = msl->page_sz;
	shared->n_ranges++;
	return 0;
}

// --- children -------------------------------------------------------------------------------------

static int
close_all_but(const int *keep, int n)
{
	int last = 2;

	// keep is ascending
	for (int i = 0; i < n; i++) {
		if (keep[i] > last + 1 && syscall(SYS_close_range, last + 1, keep[i] - 1, 0) != 0)
			return -errno;
		last = keep[i];
	}
	return syscall(SYS_close_range, last + 1, ~0U, 0) == 0 ? 0 : -errno;
}

// An inherited socket of EAL's would keep a dead seed's address alive and block the primary's IPC.
static void __attribute__((noreturn))
become_worker(struct dps_sitter *me, uint32_t ticket, int log, int notify)
{
	int keep[2] = { notify, seed.shared.primary_pidfd };
	const struct dps_group_conf *group;
	sigset_t none;

	if (dup2(log, 1) < 0 || dup2(log, 2) < 0)
		_exit(DPS_EXIT_TEMPORARY);
	if (keep[0] > keep[1]) {
		keep[0] = seed.shared.primary_pidfd;
		keep[1] = notify;
	}
	if (close_all_but(keep, 2) != 0) {
		dprintf(notify, "REFUSED %d no close_range(2): Linux 5.9 is needed\n", DPS_EXIT_USAGE);
		_exit(DPS_EXIT_USAGE);
	}
	for (int s = 1; s < NSIG; s++)
		signal(s, SIG_DFL);
	// The reader of the log may be gone.
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	// Its children are in this group, and end with it: end_group.
	setsid();
	group = &seed.shared.ctl->group[me->group % DPS_MAX_GROUPS];
	if (group->confined)
		confine_rights(0, true);
	else
		confine_rights(~(1ULL << CAP_SYS_NICE), true);
	worker_rename(&seed.shared, me->group, me->slot - group->first_slot);
	worker_run(&seed.shared, me, ticket, notify);
}

// True: it was sent, or never will be.
static bool
send_word(const char *text, int fd)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)text, .iov_len = strlen(text) };
	char control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd >= 0) {
		struct cmsghdr *c;

		msg.msg_control = control;
		msg.msg_controllen = sizeof(control);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(int));
	}
	if (sendmsg(seed.orders, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
		return true;
	seed.is_short = errno == ENOBUFS || errno == ENOMEM || errno == ETOOMANYREFS;
	return !seed.is_short && errno != EAGAIN && errno != EINTR;
}

static void
send_words(void)
{
	seed.is_short = false;
	while (seed.n_words > 0) {
		uint32_t at = seed.first_word;

		if (seed.orders >= 0 && !send_word(seed.word[at].text, seed.word[at].fd))
			return;
		if (seed.word[at].fd >= 0)
			close(seed.word[at].fd);
		seed.first_word = (at + 1) % WORDS;
		seed.n_words--;
	}
}

// In order, and none is lost while its supervisor lives: it may be slower than many deaths at once.
// `fd` goes with it, and is closed here.
static void
tell(const char *text, int fd)
{
	uint32_t at = (seed.first_word + seed.n_words) % WORDS;

	if (seed.orders < 0 || seed.n_words == WORDS) {
		if (fd >= 0)
			close(fd);
		return;
	}
	snprintf(seed.word[at].text, sizeof(seed.word[at].text), "%s", text);
	seed.word[at].fd = fd;
	seed.n_words++;
	send_words();
}

static void
order_fork(uint32_t index, uint32_t ticket, int log, int notify)
{
	char text[ORDER_MOST];
	uint32_t at = 0;
	int pidfd;
	pid_t pid;

	while (at < CHILDREN && seed.child[at].pid != 0)
		at++;
	if (index >= DPS_MAX_SITTERS || at == CHILDREN) {
		snprintf(text, sizeof(text), "refused %u no such berth", index);
		tell(text, -1);
		return;
	}
	pid = fork();
	if (pid == 0)
		become_worker(&seed.shared.sitter[index], ticket, log, notify);
	if (pid < 0) {
		snprintf(text, sizeof(text), "refused %u fork: %s", index, strerror(errno));
		tell(text, -1);
		return;
	}
	seed.child[at].pid = pid;
	seed.child[at].berth = index;
	seed.child[at].log = fcntl(log, F_DUPFD_CLOEXEC, 0);
	pidfd = syscall(SYS_pidfd_open, pid, 0);
	if (pidfd < 0) {
		// No process could watch it: end it.
		snprintf(text, sizeof(text), "refused %u pidfd: %s", index, strerror(errno));
		kill(pid, SIGKILL);
		tell(text, -1);
		return;
	}
	snprintf(text, sizeof(text), "forked %u %d", index, pid);
	tell(text, pidfd);
}

static void
ended(pid_t pid, int status)
{
	for (uint32_t i = 0; i < CHILDREN; i++) {
		uint32_t berth = seed.child[i].berth;
		struct dps_sitter *sitter = &seed.shared.sitter[berth];
		char text[ORDER_MOST];

		if (seed.child[i].pid != pid)
			continue;
		seed.child[i].pid = 0;
		if (seed.child[i].log >= 0)
			close(seed.child[i].log);
		sitter->exit_status = status;
		dps_store32(&sitter->exits, sitter->exits + 1);
		__atomic_store_n(&sitter->exit_pid, pid, __ATOMIC_RELEASE);
		snprintf(text, sizeof(text), "exit %u %d %d", berth, pid, status);
		tell(text, -1);
	}
}

static bool
is_mine(pid_t pid)
{
	for (uint32_t i = 0; i < CHILDREN; i++)
		if (seed.child[i].pid == pid)
			return true;
	return false;
}

// Children of plugins that left their worker's group come to the seed when their parent has ended, as
// it is their subreaper. No supervisor asked for them, and no other process would end them.
static void
end_orphans(void)
{
	FILE *f = fopen("/proc/thread-self/children", "re");
	int pid;

	if (f == NULL)
		return;
	while (fscanf(f, "%d", &pid) == 1)
		if (!is_mine(pid))
			kill(pid, SIGKILL);
	fclose(f);
}

static void
reap(void)
{
	struct signalfd_siginfo info;
	siginfo_t child = { 0 };
	bool some = false;
	int status;

	if (read(seed.signals, &info, sizeof(info)) < 0)
		return;
	for (;;) {
		pid_t pid;

		child.si_pid = 0;
		// Its number is its own, and its group's, until it is reaped.
		if (waitid(P_ALL, 0, &child, WEXITED | WNOHANG | WNOWAIT) != 0 || child.si_pid == 0)
			break;
		pid = child.si_pid;
		if (is_mine(pid))
			kill(-pid, SIGKILL);
		if (waitpid(pid, &status, WNOHANG) != pid)
			break;
		ended(pid, status);
		some = true;
	}
	if (some)
		end_orphans();
}

// A supervisor that adopts cannot open them itself: a worker is not dumpable, and what belongs to it in
// /proc is root's.
static void
tell_logs(void)
{
	for (uint32_t i = 0; i < CHILDREN; i++) {
		char text[ORDER_MOST];

		if (seed.child[i].pid == 0 || seed.child[i].log < 0)
			continue;
		snprintf(text, sizeof(text), "log %u %d", seed.child[i].berth, seed.child[i].pid);
		tell(text, fcntl(seed.child[i].log, F_DUPFD_CLOEXEC, 0));
	}
}

// --- orders ---------------------------------------------------------------------------------------

static void
hang_up(int *connection)
{
	if (*connection >= 0)
		close(*connection);
	*connection = -1;
	if (connection == &seed.orders)
		send_words();
}

static void
take_order(int *from)
{
	char text[ORDER_MOST + 1];
	char control[CMSG_SPACE(2 * sizeof(int))];
	struct iovec iov = { .iov_base = text, .iov_len = ORDER_MOST };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	ssize_t len = recvmsg(*from, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	struct cmsghdr *c;
	int fd[2] = { -1, -1 };
	uint32_t berth, ticket;

	if (len <= 0) {
		if (len < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		hang_up(from);
		return;
	}
	text[len] = '\0';
	c = CMSG_FIRSTHDR(&msg);
	if (c != NULL && c->cmsg_type == SCM_RIGHTS)
		memcpy(fd, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0) < sizeof(fd) ?
						c->cmsg_len - CMSG_LEN(0) : sizeof(fd));
	if (from == &seed.caller) {
		// The newest supervisor is the one that counts; a caller that says nothing of the kind is none.
		if (strcmp(text, "hello") == 0) {
			hang_up(&seed.orders);
			seed.orders = seed.caller;
			seed.caller = -1;
			tell_logs();
		} else {
			hang_up(from);
		}
	} else if (sscanf(text, "fork %" SCNu32 " %" SCNu32, &berth, &ticket) == 2 && fd[1] >= 0) {
		order_fork(berth, ticket, fd[0], fd[1]);
	} else if (strcmp(text, "quit") == 0) {
		end_orphans();
		_exit(DPS_EXIT_OK);
	} else {
		tell("refused order not understood", -1);
	}
	for (int i = 0; i < 2; i++)
		if (fd[i] >= 0)
			close(fd[i]);
}

static void
listen_at(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(address.sun_path))
		refuse(DPS_EXIT_SEED_GONE, "socket path too long: %s", path);
	strcpy(address.sun_path, path);
	unlink(path);
	seed.listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (seed.listener < 0 ||
	    bind(seed.listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    chmod(path, 0600) < 0 || listen(seed.listener, 4) < 0)
		refuse(DPS_EXIT_SEED_GONE, "socket %s: %s", path, strerror(errno));
}

static void
take_call(void)
{
	const struct timespec pause = { .tv_nsec = PAUSE_MS * 1000000L };
	int fd = accept4(seed.listener, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0) {
		// Without a descriptor to spare it would come up again at once.
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			nanosleep(&pause, NULL);
		return;
	}
	hang_up(&seed.caller);
	seed.caller = fd;
}

// The primary is dead, and the workers leave. What their plugins forked comes to the seed as they do:
// after it, no process would know of it.
static void __attribute__((noreturn))
leave(void)
{
	bool some = true;

	for (uint32_t ms = 0; some && ms < LEAVE_MS; ms++) {
		struct pollfd p = { .fd = seed.signals, .events = POLLIN };

		if (poll(&p, 1, 1) > 0)
			reap();
		some = false;
		for (uint32_t i = 0; i < CHILDREN; i++)
			some |= seed.child[i].pid != 0;
	}
	end_orphans();
	_exit(DPS_EXIT_PRIMARY_GONE);
}

static void __attribute__((noreturn))
serve(void)
{
	for (;;) {
		// There is room in the socket all the time: do not ask for it, or this loop is busy.
		bool pause = seed.n_words > 0 && seed.is_short;
		short orders = (seed.n_words < WORDS_BUSY ? POLLIN : 0) |
			       (seed.n_words > 0 && !pause ? POLLOUT : 0);
		struct pollfd p[] = {
			{ .fd = seed.shared.primary_pidfd, .events = POLLIN },
			{ .fd = seed.signals, .events = POLLIN },
			{ .fd = seed.listener, .events = POLLIN },
			{ .fd = seed.orders, .events = orders },
			{ .fd = seed.caller, .events = POLLIN },
		};

		if (poll(p, 5, pause ? PAUSE_MS : -1) < 0)
			continue;
		if (p[0].revents != 0)
			leave();
		if (p[1].revents != 0)
			reap();
		if (pause || (p[3].revents & POLLOUT))
			send_words();
		if (p[3].revents & ~POLLOUT)
			take_order(&seed.orders);
		if (p[4].revents != 0)
			take_order(&seed.caller);
		if (p[2].revents != 0)
			take_call();
	}
}

static void
parse(int argc, char **argv)
{
	static const struct option options[] = {
		{ "socket", required_argument, NULL, 's' },
		{ "file-prefix", required_argument, NULL, 'f' },
		{ "lcores", required_argument, NULL, 'l' },
		{ "huge-dir", required_argument, NULL, 'h' },
		{ "name", required_argument, NULL, 'n' },
		{ "dpdk", required_argument, NULL, 'd' },
		{ "generation", required_argument, NULL, 'g' },
		{ "primary", required_argument, NULL, 'p' },
		{ "primary-start", required_argument, NULL, 't' },
		{ "abi", required_argument, NULL, 'a' },
		{ "notify", required_argument, NULL, 'y' },
		{ "capabilities", required_argument, NULL, 'c' },
		{ "python", required_argument, NULL, 'P' },
		{ "libpython", required_argument, NULL, 'L' },
		{ NULL, 0, NULL, 0 },
	};
	int o;

	while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (o) {
		case 's': seed.socket_path = optarg; break;
		case 'f': seed.file_prefix = optarg; break;
		case 'l': seed.lcores = optarg; break;
		case 'h': seed.huge_dir = optarg; break;
		case 'n': seed.shared.name = optarg; break;
		case 'd': seed.dpdk_version = optarg; break;
		case 'g': seed.generation = strtoull(optarg, NULL, 10); break;
		case 'p': seed.primary_pid = atoi(optarg); break;
		case 't': seed.primary_start = strtoull(optarg, NULL, 10); break;
		case 'a': seed.abi = atoi(optarg); break;
		case 'y': seed.notify = atoi(optarg); break;
		case 'c': seed.capabilities = strtoull(optarg, NULL, 16); break;
		case 'P': setenv("DPSUP_PYTHON", optarg, 1); break;     // for python.c
		case 'L': setenv("DPSUP_LIBPYTHON", optarg, 1); break;
		default: refuse(DPS_EXIT_USAGE, "unknown option");
		}
	}
	if (seed.socket_path == NULL || seed.file_prefix == NULL || seed.lcores == NULL ||
	    seed.shared.name == NULL || seed.dpdk_version == NULL || seed.primary_pid <= 0)
		refuse(DPS_EXIT_USAGE, "this program is started by dpsup, with --socket, "
		       "--file-prefix, --lcores, --name, --dpdk, --generation, --primary, "
		       "--primary-start, --abi, --notify, --capabilities, --python, --libpython");
}

// The copies keep their values when the workers write their title over the arguments.
static void
keep_arguments(int argc, char **argv)
{
	char *end = argv[argc - 1] + strlen(argv[argc - 1]) + 1;

	seed.shared.title = argv[0];
	seed.shared.title_len = end - argv[0];
	seed.socket_path = strdup(seed.socket_path);
	seed.file_prefix = strdup(seed.file_prefix);
	seed.shared.name = strdup(seed.shared.name);
}

// As dpsup.host.process of the supervisor's: no signal that was not meant for it ends the seed.
static void
ignore_accidents(void)
{
	static const int accidents[] = { SIGHUP, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO,
					 SIGPWR, SIGSTKFLT, SIGXCPU, SIGXFSZ, SIGTTIN, SIGTTOU };

	for (size_t i = 0; i < sizeof(accidents) / sizeof(accidents[0]); i++)
		signal(accidents[i], SIG_IGN);
	for (int number = SIGRTMIN; number <= SIGRTMAX; number++)
		signal(number, SIG_IGN);
}

int
main(int argc, char **argv)
{
	sigset_t child;

	parse(argc, argv);
	keep_arguments(argc, argv);
	// EAL's threads, and the workers, have what this one has.
	confine_rights(seed.capabilities, false);
	// SIGCHLD is read from a descriptor, by this thread; EAL's threads inherit the mask.
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	seed.signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
	seed.shared.primary_pid = seed.primary_pid;
	seed.shared.primary_pidfd = syscall(SYS_pidfd_open, seed.primary_pid, 0);

	if (seed.abi != DPS_ABI_VERSION)
		refuse(DPS_EXIT_ABI, "the primary has ABI %u, this worker %u", seed.abi,
		       DPS_ABI_VERSION);
	if (strcmp(seed.dpdk_version, strchr(rte_version(), ' ') + 1) != 0)
		refuse(DPS_EXIT_DPDK, "the primary runs DPDK %s, this worker was built with %s: "
		       "build dpsup again", seed.dpdk_version, strchr(rte_version(), ' ') + 1);
	check_primary("before");
	attach();
	check_primary("after");
	check_control_block();
	map_sitters();
	rte_memseg_contig_walk(add_range, &seed.shared);
	listen_at(seed.socket_path);
	if (watch_start(&seed.shared, NULL) != 0)
		refuse(DPS_EXIT_TEMPORARY, "no thread");
	ignore_accidents();
	dprintf(seed.notify, "READY\n");
	close(seed.notify);
	serve();
}
