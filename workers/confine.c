// SPDX-License-Identifier: BSD-3-Clause
//
// Least power: what a worker gives up for good. Before it loads its plugin, every capability; once the
// plugin is initialised, all system calls but those that a worker makes while it handles packets.
//
// A call that is not on the list is not executed: the kernel sends SIGSYS to the thread that made it,
// and the handler of fatal signals (watch.c) notes which call it was. The process ends as after any
// crash. So the default action is SCMP_ACT_TRAP, which tells that, not SCMP_ACT_KILL_PROCESS. A plugin
// cannot catch the signal: to set a handler for it is KILL_PROCESS itself, and where it is blocked the
// kernel ends the process.
//
// The list is what the code of workers of C, Rust and Python calls, found by the tests, and what malloc(),
// printf(), abort() and pthread's locks may call. libseccomp has the numbers for each processor.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <seccomp.h>

#include "confine.h"

#define CONFINE_MEMORY (256ULL << 20)   // bytes that it may still get: docs/security.md

enum {
	CAPS_MOST = 64,
	LANDLOCK_CREATE = 444,  // of <asm/unistd.h>, the same for all processors
	LANDLOCK_RESTRICT = 446
};

// --- rights ---------------------------------------------------------------------------------------

static void
drop_capabilities(uint64_t kept)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct set[_LINUX_CAPABILITY_U32S_3] = { 0 };

	// The bounding set first: to change it is a right too.
	for (int cap = 0; cap < CAPS_MOST; cap++)
		if ((kept >> cap & 1) == 0) {
			prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
			prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_LOWER, cap, 0, 0);
		}
	if (syscall(SYS_capget, &head, set) != 0)
		return;
	for (int i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
		uint32_t part = kept >> (32 * i);

		set[i].effective &= part;
		set[i].permitted &= part;
		set[i].inheritable &= part;
	}
	syscall(SYS_capset, &head, set);
}

void
confine_rights(uint64_t kept, bool ordinary)
{
	const struct rlimit none = { 0, 0 };

	// At a priority above all others on a CPU a plugin's loop would keep the warden that is to end it
	// from running, and the supervisor too.
	if (ordinary)
		setrlimit(RLIMIT_RTPRIO, &none);
	drop_capabilities(kept);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

// --- limits ---------------------------------------------------------------------------------------

static void
limit_to(int resource, rlim_t most)
{
	struct rlimit limit;

	if (getrlimit(resource, &limit) != 0)
		return;
	if (limit.rlim_cur > most)
		limit.rlim_cur = most;
	if (limit.rlim_max > most)
		limit.rlim_max = most;
	setrlimit(resource, &limit);
}

// Bytes of the kind of memory that RLIMIT_DATA bounds, and the stack's.
static uint64_t
data_bytes(void)
{
	FILE *f = fopen("/proc/self/statm", "re");
	unsigned long data = 0;

	if (f == NULL)
		return 0;
	if (fscanf(f, "%*u %*u %*u %*u %*u %lu", &data) != 1)
		data = 0;
	fclose(f);
	return (uint64_t)data * sysconf(_SC_PAGESIZE);
}

static void
limit_resources(uint64_t data)
{
	struct rlimit core;

	if (data != 0)
		limit_to(RLIMIT_DATA, data + CONFINE_MEMORY);
	// Of those that are open, none is lost; poll() of one must stay within the limit.
	limit_to(RLIMIT_NOFILE, 1);
	// Where cores are wanted, a process must be dumpable; else its memory is root's alone.
	if (getrlimit(RLIMIT_CORE, &core) != 0 || core.rlim_cur <= 1)
		prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

// --- Landlock -------------------------------------------------------------------------------------

// As <linux/landlock.h> has it since Linux 6.12; older kernels read less.
struct ruleset {
	uint64_t files;
	uint64_t ports;
	uint64_t scopes;
};

// No file is opened, executed, created, renamed or removed by this thread, no TCP port bound or
// connected to, no abstract socket connected to: a second wall behind the list of calls, on kernels
// that have it. Signals are left out: before Linux 6.15 that would keep the data thread from waking
// its watcher.
static int
close_off_files(void)
{
	static const int files[] = { 0, 13, 14, 15, 15, 16 };   // rights, by version
	long version = syscall(LANDLOCK_CREATE, NULL, 0, 1);
	struct ruleset rules = { 0 };
	size_t size = version < 4 ? 8 : version < 6 ? 16 : 24;
	int fd, ret = 0;

	if (version <= 0)
		return 0;
	rules.files = (1ULL << files[version < 5 ? version : 5]) - 1;
	rules.ports = version < 4 ? 0 : 3;
	rules.scopes = version < 6 ? 0 : 1;
	fd = syscall(LANDLOCK_CREATE, &rules, size, 0);
	if (fd < 0)
		return -errno;
	if (syscall(LANDLOCK_RESTRICT, fd, 0) != 0)
		ret = -errno;
	close(fd);
	return ret;
}

// --- system calls ---------------------------------------------------------------------------------

// Whatever their arguments are.
static const int allowed[] = {
	// Of files that are open: the log, what a plugin opened in its init.
	SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(pread64),
	SCMP_SYS(pwrite64), SCMP_SYS(lseek), SCMP_SYS(close), SCMP_SYS(fstat), SCMP_SYS(fsync),
	SCMP_SYS(fdatasync), SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(select), SCMP_SYS(pselect6),
	// Time, waiting, locks.
	SCMP_SYS(futex), SCMP_SYS(sched_yield), SCMP_SYS(nanosleep), SCMP_SYS(clock_nanosleep),
	SCMP_SYS(clock_gettime), SCMP_SYS(clock_getres), SCMP_SYS(gettimeofday), SCMP_SYS(time),
	SCMP_SYS(times), SCMP_SYS(restart_syscall), SCMP_SYS(membarrier),
	// Memory: malloc's; mmap and mprotect are below.
	SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise),
	// Itself.
	SCMP_SYS(getpid), SCMP_SYS(getppid), SCMP_SYS(gettid), SCMP_SYS(getuid), SCMP_SYS(geteuid),
	SCMP_SYS(getgid), SCMP_SYS(getegid), SCMP_SYS(getcpu), SCMP_SYS(getrusage), SCMP_SYS(uname),
	SCMP_SYS(getrandom), SCMP_SYS(sysinfo), SCMP_SYS(sched_getaffinity), SCMP_SYS(rseq),
	SCMP_SYS(set_robust_list),
	// Signals, the end.
	SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn), SCMP_SYS(sigaltstack), SCMP_SYS(pause),
	SCMP_SYS(exit), SCMP_SYS(exit_group),
};

// What Python tries on its own, for a late import or a traceback's lines of source.
static const int lookups[] = {
	SCMP_SYS(open), SCMP_SYS(openat), SCMP_SYS(stat), SCMP_SYS(lstat), SCMP_SYS(statx),
	SCMP_SYS(access), SCMP_SYS(faccessat), SCMP_SYS(faccessat2), SCMP_SYS(readlink),
	SCMP_SYS(readlinkat), SCMP_SYS(getcwd),
};

// Those that are fine with some arguments only.
static int
add_conditional(scmp_filter_ctx ctx, bool looks_up)
{
	const uint64_t self = getpid();
	const struct {
		int call;
		struct scmp_arg_cmp when;
	} rules[] = {
		{ SCMP_SYS(mmap), SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0) },
		{ SCMP_SYS(mprotect), SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0) },
		// A spare goes to the core of its seat.
		{ SCMP_SYS(sched_setaffinity), SCMP_A0(SCMP_CMP_EQ, 0) },
		// abort(), the handler of a crash; and whether a process is there.
		{ SCMP_SYS(tgkill), SCMP_A0(SCMP_CMP_EQ, self) },
		{ SCMP_SYS(kill), SCMP_A0(SCMP_CMP_EQ, self) },
		{ SCMP_SYS(kill), SCMP_A1(SCMP_CMP_EQ, 0) },
		{ SCMP_SYS(prctl), SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME) },
		{ SCMP_SYS(prctl), SCMP_A0(SCMP_CMP_EQ, PR_GET_NAME) },
		// getrlimit() is this call too.
		{ SCMP_SYS(prlimit64), SCMP_A2(SCMP_CMP_EQ, 0) },
		{ SCMP_SYS(fcntl), SCMP_A1(SCMP_CMP_EQ, F_GETFL) },
		// printf() asks whether it writes to a terminal, and fstat() is newfstatat().
		{ SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_EQ, TCGETS) },
		{ SCMP_SYS(newfstatat), SCMP_A3(SCMP_CMP_EQ, AT_EMPTY_PATH) },
	};
	int ret = 0;

	for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]) && ret == 0; i++)
		ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, rules[i].call, 1, rules[i].when);
	if (ret == 0 && looks_up)
		ret = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(newfstatat), 1,
				       SCMP_A3(SCMP_CMP_NE, AT_EMPTY_PATH));
	// Nobody but watch.c has to do with the signal of a call that is refused. Its own wish to have the
	// signal's default ends the process as that would.
	if (ret == 0)
		ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(rt_sigaction), 1,
				       SCMP_A0(SCMP_CMP_NE, SIGSYS));
	if (ret == 0)
		ret = seccomp_rule_add(ctx, SCMP_ACT_KILL_PROCESS, SCMP_SYS(rt_sigaction), 1,
				       SCMP_A0(SCMP_CMP_EQ, SIGSYS));
	return ret;
}

static int
build(scmp_filter_ctx ctx, bool looks_up)
{
	int ret = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);

	// All threads: the watcher, and those that the plugin created.
	if (ret == 0)
		ret = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1);
	// Before Linux 5.16 a filter would turn off speculative loads after stores, which costs packets.
	if (ret == 0)
		ret = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_SSB, 1);
	for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]) && ret == 0; i++)
		ret = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, allowed[i], 0);
	for (size_t i = 0; i < sizeof(lookups) / sizeof(lookups[0]) && looks_up && ret == 0; i++)
		ret = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EACCES), lookups[i], 0);
	return ret != 0 ? ret : add_conditional(ctx, looks_up);
}

int
confine_calls(bool looks_up, char *why, size_t len)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_TRAP);
	uint64_t data = data_bytes();   // a file says it
	int ret = ctx == NULL ? -ENOMEM : build(ctx, looks_up);

	// A set of rules is a descriptor: while one can be had.
	if (ret == 0)
		ret = close_off_files();
	limit_resources(data);
	if (ret == 0)
		ret = seccomp_load(ctx);
	// Frees what it was built of; the kernel has its own copy.
	seccomp_release(ctx);
	if (ret == 0)
		return 0;
	snprintf(why, len, "this kernel takes no filter of system calls or files (%s): without it a plugin "
		 "may do all that the user may; confine = \"off\" in its group allows that",
		 strerror(-ret));
	return -1;
}
