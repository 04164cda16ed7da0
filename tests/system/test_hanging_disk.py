# SPDX-License-Identifier: BSD-3-Clause
"""A disk that never answers. A process in state D cannot be had without such a disk; here the C
library's `open` does not return, in the process that writes the quarantine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from harness import PATIENCE, Run, wait_for
from jobs import IO, group, pcap_port
from traffic import Packet, flows, mix, save

pytestmark = pytest.mark.beside

HANGING = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int
opened(const char *name, const char *path, int flags, int mode)
{
	int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, name);

	if ((flags & O_CREAT) && strstr(path, "/quarantine/") != NULL) {
		close(real(getenv("HANGS"), O_WRONLY | O_CREAT, 0600));
		for (;;)
			pause();
	}
	return real(path, flags, mode);
}

#define OPEN(name) \\
	int name(const char *path, int flags, ...) \\
	{ \\
		va_list ap; \\
		int mode; \\
		va_start(ap, flags); \\
		mode = va_arg(ap, int); \\
		va_end(ap); \\
		return opened(#name, path, flags, mode); \\
	}

OPEN(open)
OPEN(open64)
"""


def preload(folder: Path) -> Path:
    source, target = folder / "hanging.c", folder / "hanging.so"
    source.write_text(HANGING)
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", str(source), "-o", str(target), "-ldl"], check=True
    )
    return target


@pytest.mark.fault(26)
def test_a_quarantine_on_a_disk_that_hangs_holds_up_no_stop(
    instance: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    packets = mix(flows(), 2000, seed=21)
    packets[500] = Packet(packets[500].flow, packets[500].frame + b"this one is poison")
    save(instance.folder / "wan.in.pcap", packets)
    hangs = instance.folder / "hangs"
    monkeypatch.setenv("HANGS", str(hangs))
    monkeypatch.setenv("LD_PRELOAD", str(preload(instance.folder)))
    process = instance.foreground(pcap_port() + IO + group("crash", 2, 'match = "is poison"'))
    monkeypatch.delenv("LD_PRELOAD")
    wait_for(hangs.exists)
    # All else goes on.
    instance.until(lambda s: s["ports"][0]["tx_packets"] == len(packets) - 1)
    instance.until(lambda s: s["recovery"]["quarantined"] == 1)
    instance.do("stop")
    out, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode in (0, 1), errors
    assert "Traceback" not in out + errors
