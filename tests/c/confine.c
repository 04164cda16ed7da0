/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A process that confines itself as a worker does, then makes one call.
 *
 * usage: confine CALL [python]; prints "CALL: refused NUMBER", "CALL: errno N" or "CALL: done".
 */

#define _GNU_SOURCE
#include <errno.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../workers/confine.c"

static const char *call;

static void
on_refused(int number, siginfo_t *info, void *context)
{
	char line[100];
	int len = snprintf(line, sizeof(line), "%s: refused %d\n", call, info->si_syscall);

	(void)number;
	(void)context;
	_exit(write(1, line, len) == len ? 0 : 1);
}

static void *
idle(void *arg)
{
	(void)arg;
	return NULL;
}

static int
is(const char *name)
{
	return strcmp(call, name) == 0;
}

static long
make(void)
{
	static char page[8192] __attribute__((aligned(4096)));
	pthread_t thread;
	struct stat st;
	cpu_set_t set;
	sigset_t all;

	CPU_ZERO(&set);
	CPU_SET(0, &set);
	sigfillset(&all);
	if (is("socket"))
		return socket(AF_INET, SOCK_DGRAM, 0);
	if (is("open"))
		return open("/etc/passwd", O_RDONLY);
	if (is("stat"))
		return stat("/etc/passwd", &st);
	if (is("exec"))
		return execl("/bin/true", "true", NULL);
	if (is("fork"))
		return fork();
	if (is("thread"))
		return pthread_create(&thread, NULL, idle, NULL);
	if (is("ptrace"))
		return ptrace(PTRACE_ATTACH, getppid(), NULL, NULL);
	if (is("mmap"))
		return mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			    0) == MAP_FAILED ? -1 : 0;
	if (is("mprotect"))
		return mprotect(page, 4096, PROT_READ | PROT_EXEC);
	if (is("kill"))
		return kill(getppid(), SIGCONT);
	if (is("tgkill"))
		return syscall(SYS_tgkill, getppid(), getppid(), SIGCONT);
	if (is("memfd"))
		return memfd_create("x", 0);
	if (is("setrlimit"))
		return setrlimit(RLIMIT_NOFILE, &(struct rlimit){ 1, 1 });
	if (is("affinity"))
		return sched_setaffinity(getppid(), sizeof(set), &set);
	if (is("setuid"))
		return setuid(1);
	if (is("dumpable"))
		return prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	if (is("handler"))
		return signal(SIGSYS, SIG_IGN) == SIG_ERR ? -1 : 0;
	if (is("blocked")) {
		sigprocmask(SIG_SETMASK, &all, NULL);
		return socket(AF_INET, SOCK_DGRAM, 0);
	}
	/* And what a worker may. */
	if (is("memory")) {
		for (int i = 0; i < 100; i++)
			memset(malloc(1 << 20), i, 1 << 20);
		return 0;
	}
	if (is("hoard")) {
		for (int i = 0; i < 1 << 16; i++)
			if (malloc(1 << 20) == NULL)
				return 0;
		return -1;
	}
	if (is("print"))
		return printf("%s\n", call) < 0 ? -1 : fflush(stdout);
	if (is("sleep"))
		return usleep(1);
	if (is("core"))
		return sched_setaffinity(0, sizeof(set), &set);
	if (is("limit"))
		return getrlimit(RLIMIT_CORE, &(struct rlimit){ 0 });
	if (is("here"))
		return kill(getppid(), 0);
	abort();
}

int
main(int argc, char **argv)
{
	struct sigaction action = { .sa_sigaction = on_refused, .sa_flags = SA_SIGINFO };
	char why[200];
	long ret;

	if (argc < 2)
		return 2;
	call = argv[1];
	confine_rights(0, true);
	if (is("files")) {
		/* Landlock alone. */
		close_off_files();
		printf("%s: %s\n", call, open("/etc/passwd", O_RDONLY) >= 0 ? "open" : strerror(errno));
		return 0;
	}
	sigaction(SIGSYS, &action, NULL);
	if (confine_calls(argc > 2, why, sizeof(why)) != 0) {
		puts(why);
		return 3;
	}
	if (is("status")) {
		/* Until the reader has seen it. */
		puts("status: confined");
		fflush(stdout);
		return read(0, why, 1) < 0;
	}
	ret = make();
	if (ret < 0)
		printf("%s: errno %d\n", call, errno);
	else
		printf("%s: done\n", call);
	return 0;
}
