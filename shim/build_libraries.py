# SPDX-License-Identifier: BSD-3-Clause
"""Emit `dpsup._libraries`: what Python calls in C libraries that are loaded by name.

cffi's ABI mode, prepared at build time: the parser would cost each start 0.1 s. The declarations
are those of prctl(2), setns(2), syscall(2), capget(2), free(3), <seccomp.h>, <pcap/pcap.h> and
<pcap/bpf.h>.
"""

import sys

import cffi

ffi = cffi.FFI()
ffi.cdef("""
int prctl(int option, unsigned long, unsigned long, unsigned long, unsigned long);
int setns(int fd, int type);
long syscall(long number, unsigned long, unsigned long, unsigned long);
void free(void *);

struct capability_head { unsigned int version; int pid; };
struct capability_set { unsigned int effective, permitted, inheritable; };
int capget(struct capability_head *, struct capability_set *);
int capset(struct capability_head *, struct capability_set *);

unsigned int seccomp_arch_native(void);
char *seccomp_syscall_resolve_num_arch(unsigned int arch, int number);

typedef struct pcap pcap_t;
struct bpf_insn { unsigned short code; unsigned char jt, jf; unsigned int k; };
struct bpf_program { unsigned int bf_len; struct bpf_insn *bf_insns; };
pcap_t *pcap_open_dead(int link_type, int snap);
int pcap_compile(pcap_t *, struct bpf_program *, const char *text, int optimise, unsigned int mask);
char *pcap_geterr(pcap_t *);
void pcap_freecode(struct bpf_program *);
void pcap_close(pcap_t *);
""")
ffi.set_source("dpsup._libraries", None)
ffi.emit_python_code(sys.argv[1])
