# SPDX-License-Identifier: BSD-3-Clause
"""Every error's code, once: for the errors themselves, `dpsup explain`, and docs/errors.md.

A code never changes its meaning. One that no longer occurs leaves the table, and its number stays
unused. The numbers of doctor's checks are `doctor`'s own (D01 to D28).

Over 600 lines: a table.
"""

from __future__ import annotations

from typing import NamedTuple

from dpsup.text import suggest


class Entry(NamedTuple):
    title: str
    why: str  # what it means, and what follows from it
    fix: str  # what to do, with commands where there are some
    wrong: str = ""  # an example that has it
    right: str = ""  # the same, put right


AREAS = {
    "E00": "dpsup and its commands",
    "E01": "What the topology file says",
    "E02": "CPUs",
    "E03": "Memory",
    "E04": "Devices, captures, and clients of the bus",
    "E05": "Plugins and what feeds them",
    "E06": "Instances and their runtime directories",
    "E07": "Orders to a running instance",
    "E08": "The processes of an instance",
    "E09": "The bus",
    "E10": "Tools",
}

CODES: dict[str, Entry] = {
    # --- dpsup and its commands -------------------------------------------------------------------
    "E0001": Entry(
        "dpsup itself failed",
        "An unforeseen exception: a bug of dpsup. One in the supervisor does not end forwarding:"
        " the supervisor leaves, and the next one adopts what runs.",
        "Run the command again with `dpsup --debug ...`, and report what it prints.",
    ),
    "E0002": Entry(
        "wrong usage",
        "The command line asks for something that the command cannot do; nothing was done.",
        "`dpsup COMMAND --help` shows what it takes, with an example.",
    ),
    "E0003": Entry(
        "no such instance is running",
        "The command talks to a running instance, found by its runtime directory. There is none, or"
        " none of that name, or it runs as another user with another runtime directory.",
        "`dpsup start FILE` starts one. Did it end? Run the start in the foreground to see why.",
    ),
    "E0004": Entry(
        "no such object",
        "The instance has nothing of the name that the command line gives.",
        "`dpsup status` lists what there is.",
    ),
    "E0005": Entry(
        "the command failed",
        "The command was understood and could not be carried out; the message says why.",
        "`dpsup logs` and `dpsup events` show what happened at that time.",
    ),
    "E0006": Entry(
        "the host cannot",
        "The machine lacks something that the command needs: hugepages, CPUs, a device, a kernel"
        " feature.",
        "`dpsup doctor FILE` says what is missing and how to get it.",
    ),
    "E0007": Entry(
        "not permitted",
        "The kernel does not permit this user to do it.",
        "Run it as root, or as the user who started the instance.",
    ),
    "E0008": Entry(
        "timed out",
        "The operation did not finish in time. It may still finish.",
        "`dpsup status` shows the present state, `dpsup logs` what the processes print.",
    ),
    "E0009": Entry(
        "DPDK refused",
        "A call into DPDK failed with the error number that the message names. The lines that EAL"
        " printed before it say more.",
        "`dpsup start FILE -v` shows EAL's output; `dpsup doctor FILE` looks for the usual causes.",
    ),
    "E0010": Entry(
        "several instances are running",
        "Without a name it is not clear which of them is meant.",
        "Name one: `dpsup -n NAME status`, or set DPSUP_NAME.",
    ),
    "E0011": Entry(
        "no room for what a command writes",
        "The disk is full, or a quota or limit on sizes was reached: what was written so far ends"
        " somewhere.",
        "Make room, and run the command again. One that changes an instance has changed it: look"
        " first.",
    ),
    # --- what the topology file says --------------------------------------------------------------
    "E0100": Entry(
        "the topology file cannot be read",
        "The file does not exist, is not readable for this user, is a directory, or is not UTF-8.",
        "Name an existing file; `dpsup init` writes one.",
    ),
    "E0101": Entry(
        "the file is not TOML",
        "TOML's own grammar is broken at that line. Nothing after it could be read, so there may"
        " be more.",
        "Mostly a text without quotes, a bracket that is not closed, or a key that appears twice.",
        "name = edge",
        'name = "edge"',
    ),
    "E0102": Entry(
        "unknown key",
        "dpsup does not know this key, so it would have no effect; it is refused. Most unknown keys"
        " are misspelt, or are in the wrong table.",
        "Correct or remove the key; `dpsup schema` prints all keys, for editors too.",
        '[[workers]]\nname = "fw"\nrestrat = { policy = "never" }',
        '[[workers]]\nname = "fw"\nrestart = { policy = "never" }',
    ),
    "E0104": Entry(
        "a value of the wrong type",
        'Nothing is converted silently: "4" is a text, not a number, and yes is neither.',
        "Write the type that the message names.",
        'count = "4"',
        "count = 4",
    ),
    "E0105": Entry(
        "a value beyond its limits",
        "The value has the right type, and lies outside what dpsup, DPDK or NICs can do.",
        "Write a value within the limits that the message names.",
        "burst = 0",
        "burst = 32",
    ),
    "E0106": Entry(
        "not one of the words that are allowed",
        "The key takes one of a few words.",
        "Write one of those that the message names.",
        'on_full = "wait"',
        'on_full = "hold"',
    ),
    "E0107": Entry(
        "a value that cannot be understood",
        "It is text where text belongs, and not in the form that the key takes: a duration, size,"
        " list of CPUs, PCI address, name.",
        "Write it as the message shows: durations as 250ms or 2s, sizes as 512MiB, CPUs as 3-6,8.",
        'period = "60"',
        'period = "60s"',
    ),
    "E0108": Entry(
        "an empty value",
        "The key has an empty value.",
        "Write a value, or remove the key to get its default.",
    ),
    "E0109": Entry(
        "a version of the format that this dpsup does not know",
        "The file was written for another dpsup.",
        "Write version = 1, and check the keys against `dpsup schema`.",
    ),
    "E0110": Entry(
        "a table or key is missing",
        "A topology needs a version, a name, and a mempool, port, io and workers table.",
        "Add what the message names; `dpsup init` writes a complete file.",
    ),
    "E0111": Entry(
        "a port or a group has no name",
        "Commands, maps and messages refer to it by name.",
        'Add name = "...".',
    ),
    "E0112": Entry(
        "a name is used twice",
        "A name stands for one port, or one group.",
        "Give each a name of its own.",
    ),
    "E0113": Entry(
        "a port has two devices",
        "A port is one device: PCI or virtual.",
        "Keep one of `pci` and `vdev`; a second device is a second [[ports]].",
    ),
    "E0114": Entry(
        "a port has no device",
        "The port has no device to receive from and send to.",
        'Add pci = "0000:3b:00.0" or vdev = "net_null0".',
    ),
    "E0115": Entry(
        "two ports use one device",
        "DPDK opens a device once.",
        "Use another device; virtual ones are numbered: net_null0, net_null1.",
    ),
    "E0116": Entry(
        "a name that refers to nothing in the file",
        "`mempool` and `input` name what the file defines elsewhere.",
        "Correct the name, or define what it names.",
    ),
    "E0117": Entry(
        "a port names no mempool",
        "There are several, and none of them is called `default`.",
        'Add mempool = "NAME" to the port.',
    ),
    "E0118": Entry(
        "a port feeds two groups",
        "A received packet goes to one group, and the file does not say to which.",
        "Name the port in the input of one group; that group's plugin can send packets on.",
    ),
    "E0119": Entry(
        "`max` is below `count`",
        "Slots, lanes and memory are reserved at start, for `max` workers.",
        "Raise max, or lower count.",
        "count = 4\nmax = 2",
        "count = 4\nmax = 8",
    ),
    "E0120": Entry(
        "a path or a device's arguments are too long",
        "Shared memory has room for a fixed number of bytes, and relative paths are made absolute.",
        "Use shorter paths, or move the topology file nearer to /.",
    ),
    "E0121": Entry(
        "the backoff begins above its end",
        "The waits between restarts grow from `initial` to `max`.",
        "Raise max, or lower initial.",
    ),
    "E0122": Entry(
        "a threshold beyond its queue",
        "A queue cannot have more free descriptors than it has descriptors.",
        "Write a smaller threshold, or remove it: the driver has a default.",
    ),
    "E0123": Entry(
        "an MTU that no NIC has",
        "Only virtual devices take frames that long.",
        "Write mtu = 9000 or less.",
    ),
    "E0124": Entry(
        "ports hash their packets in different ways",
        "io cores hash in software what a NIC did not, all of them with one key and one set of"
        " fields. With two, the packets of one flow could go to two workers.",
        "Write the same `rss` for all ports that feed workers, or none.",
    ),
    "E0125": Entry(
        "mempools with pages of different sizes",
        "This version reserves its memory in pages of one size.",
        "Use one page_size for all mempools.",
    ),
    "E0126": Entry(
        "more than shared memory has room for",
        "It is laid out before anything starts, for a fixed number of ports, groups, io cores,"
        " slots and spares.",
        "Use fewer, or start a second instance beside the first.",
    ),
    "E0128": Entry(
        "EAL gets arguments unchecked",
        "`eal_extra` can contradict what dpsup tells EAL itself. A warning.",
        "Use a key of the topology where one says the same.",
    ),
    "E0129": Entry(
        "a chain's path that leads nowhere",
        "A chain leads from a port over one or more groups to another port. A packet's input port"
        " says which chain it is on and in which direction, so a port is the end of one chain.",
        "Write the ports at the ends and each group once in between.",
    ),
    "E0130": Entry(
        "chains that disagree about a group",
        "A group has one rule for when none of its workers is up.",
        "Write the same on_down for all chains through the group, or one in the group itself, which"
        " then holds for all.",
    ),
    "E0131": Entry(
        "a map that leads off the chain",
        "The plugin's `map` says where packets leave; the chain says where they go on. A warning.",
        "Leave the map out: built-in plugins then follow the chain.",
    ),
    "E0132": Entry(
        "a bypass that leads nowhere",
        "Packets that bypass a group go where its chain, or the map of its built-in plugin, leads.",
        'Put the group on a chain, or write at_zero and on_down as "hold" or "drop".',
    ),
    "E0133": Entry(
        "limits of `scale` that cannot be kept",
        "The group starts with `count` workers and has room for `max`.",
        "Write scale's min and max so that count lies between them, and max at most the group's.",
        "max = 4\nscale = { min = 1, max = 9 }",
        "max = 9\nscale = { min = 1, max = 9 }",
    ),
    "E0134": Entry(
        "metrics are served beyond this machine",
        "Any peer that reaches the address can read the metrics: there is no password and no"
        " encryption. A warning.",
        'Write listen = "127.0.0.1:9464", or have a firewall or a proxy in front.',
    ),
    # --- CPUs -------------------------------------------------------------------------------------
    "E0150": Entry(
        "a log level, which has no effect",
        "`[log] level` is accepted for the sake of files that have it. Nothing reads it: all lines"
        " and events are kept.",
        "Leave it out, and choose when reading: dpsup logs NAME, dpsup events --type.",
    ),
    "E0201": Entry(
        "a CPU that the machine does not have",
        "The CPU does not exist, or is offline.",
        "`lscpu -e` shows those that are; `echo 1 > /sys/devices/system/cpu/cpuN/online` brings one"
        " back.",
    ),
    "E0202": Entry(
        "a CPU that dpsup may not use",
        "The CPU exists, but is outside this process's affinity or cpuset: taskset, a container,"
        " AllowedCPUs= of a systemd unit.",
        "Start dpsup without that limit, widen it, or name CPUs within it.",
    ),
    "E0203": Entry(
        "workers on the CPU of an io core",
        "An io core polls and never yields its CPU: a worker there runs when the kernel preempts"
        " it, some milliseconds at a time.",
        'Write cores = "auto", or name other CPUs; for tests, [host] shared_cores = true.',
        '[[io]]\ncores = "1"\n\n[[workers]]\nname = "fw"\ncores = "1-2"',
        '[[io]]\ncores = "1"\n\n[[workers]]\nname = "fw"\ncores = "2-3"',
    ),
    "E0204": Entry(
        "two io cores on one CPU",
        "Both poll, and each takes CPU time from the other.",
        "Give each a CPU of its own; [host] shared_cores = true allows it, for tests.",
    ),
    "E0205": Entry(
        "the supervisor shares its CPU with an io core",
        "Python and wardens then wait for an io core that polls, and slow it: deaths are noticed"
        " later. A warning.",
        "Free the CPU of one of them: supervisor_cores, or cores of [[io]].",
    ),
    "E0206": Entry(
        "workers share a CPU",
        "They take turns: each is slower, and packets wait for their turn. A warning.",
        "Name as many free CPUs as there are workers, or use fewer workers.",
    ),
    "E0207": Entry(
        "a NUMA node that does not exist",
        "A mempool asks for the memory of a node that this machine does not have.",
        "`numactl -H` or `dpsup doctor` show the nodes; most machines have node 0 alone.",
    ),
    # --- memory -----------------------------------------------------------------------------------
    "E0301": Entry(
        "a mempool is too small to work",
        "Descriptors of queues, bursts in hand, lanes and caches hold mbufs all the time. With"
        " fewer than that, ports receive no packets.",
        "Raise mbufs to what the message names; 2^n - 1 wastes nothing.",
    ),
    "E0302": Entry(
        "a mempool is smaller than full lanes",
        "When workers are slow their lanes fill, and then the pool is empty before the lanes are"
        " full: ports drop packets of every group. A warning.",
        "Raise mbufs, or shorten the rings.",
    ),
    "E0303": Entry(
        "caches larger than the pool",
        "Each io core keeps up to one and a half caches for itself, and none would be left.",
        "Write a smaller cache, or more mbufs.",
    ),
    "E0304": Entry(
        "`hugepages` is less than the topology needs",
        "All memory is reserved at start; none is added later.",
        'Write hugepages = "auto".',
    ),
    "E0305": Entry(
        "no hugepages of that size",
        "The processor or the kernel does not offer the page size.",
        'Write page_size = "2M", or boot with hugepagesz=1G.',
    ),
    "E0306": Entry(
        "too few free hugepages",
        "The start reserves them all at once. Other instances may hold them, or files that a dead"
        " process left in hugetlbfs.",
        "`dpsup clean` removes what dead instances left; then reserve more, as the message says."
        " `dpsup doctor FILE --fix-script` prints the commands.",
    ),
    "E0307": Entry(
        "too few free hugepages on a NUMA node",
        "Pools and drivers take memory of the node that they are on.",
        "Reserve them on that node, as the message says.",
    ),
    "E0308": Entry(
        "hugetlbfs is not mounted",
        "Processes share hugepages through the files of such a file system.",
        "mkdir -p /dev/hugepages && mount -t hugetlbfs -o pagesize=2M nodev /dev/hugepages",
    ),
    "E0309": Entry(
        "hugetlbfs is not writable",
        "It is mounted read-only, or belongs to another user.",
        "Run as root, or mount it with -o uid=UID,mode=0700.",
    ),
    "E0310": Entry(
        "a limit of the process is too low",
        "What starts dpsup sets limits for it (`ulimit -a`, Limit...= in a unit, a container's"
        " ulimits): the size of files, open files, addresses, data, processes, locked memory, CPU"
        " time. EAL names none of them where it fails.",
        "Raise the limit that the message names, for the process that starts dpsup.",
    ),
    # --- devices and captures ---------------------------------------------------------------------
    "E0401": Entry(
        "no such PCI device",
        "No device has that address.",
        "`dpdk-devbind.py --status-dev net` or `lspci -D` show those that are there; with"
        " required = false the instance starts without it, degraded.",
    ),
    "E0402": Entry(
        "the kernel drives the device",
        "DPDK reaches most NICs through vfio-pci alone. A few drivers share the NIC with the"
        " kernel's (mlx5 and others), so it is a warning.",
        "dpdk-devbind.py -b vfio-pci ADDRESS: the kernel loses the interface with it.",
    ),
    "E0403": Entry(
        "a driver of PCI devices, used as a virtual one",
        "This driver needs a PCI device.",
        'Name the device: pci = "0000:3b:00.0".',
    ),
    "E0404": Entry(
        "no driver for the virtual device",
        "A device's name begins with its driver's, and DPDK has none of that name installed.",
        "Correct the name (net_null0, net_pcap0, net_af_packet0, net_tap0), or install the driver.",
    ),
    "E0405": Entry(
        "a parameter that the driver does not list",
        "Most drivers refuse an unknown one at start. A warning.",
        "Correct or remove it.",
    ),
    "E0406": Entry(
        "no such network interface",
        "The port sends and receives through an interface of the kernel that is not there, or in"
        " another network namespace.",
        "`ip link` shows those that are there.",
    ),
    "E0407": Entry(
        "no such capture file",
        "The port reads its packets from it. Relative paths begin at the topology file's"
        " directory.",
        "Correct rx_pcap.",
    ),
    "E0408": Entry(
        "no directory for the capture",
        "The port writes its packets there.",
        "Create the directory, or correct tx_pcap.",
    ),
    "E0409": Entry(
        "a capture that cannot be read",
        "The kernel does not permit reading it.",
        "Make it readable for the user who starts dpsup.",
    ),
    "E0410": Entry(
        "not a capture file",
        "It begins neither as pcap nor as pcapng; compressed ones do not.",
        "Unpack it, or write it again with tcpdump -w.",
    ),
    "E0411": Entry(
        "packets without an Ethernet header",
        "Captures of the `any` interface or of tunnels have none; a port takes the first bytes for"
        " one all the same. A warning.",
        "Capture on one interface.",
    ),
    "E0412": Entry(
        "packets that were cut at capture",
        "They are forwarded as captured, shorter than they were. A warning.",
        "Capture whole packets: tcpdump -s 0.",
    ),
    "E0413": Entry(
        "packets too long for the port",
        "They are dropped, and counted as oversize. A warning.",
        "Raise the port's mtu.",
    ),
    "E0414": Entry(
        "a damaged capture",
        "Reading ends at the damage. A warning.",
        "Leave the damaged end out: tcpdump -r OLD -w NEW.",
    ),
    "E0430": Entry(
        "more queues than the driver or the io cores can serve",
        "net_pcap has room for 16 files in each direction. The kernel spreads the packets of a"
        " net_af_packet port over all its queues; those that no io core polls would lose theirs.",
        "Write one queue for each io core, or divide the files among several ports.",
    ),
    "E0431": Entry(
        "frames larger than the mempool's data room",
        "The driver copies each frame of its ring into one mbuf, and refuses to start where a frame"
        " may not fit.",
        "Write a larger data_room for the port's mempool, or a smaller framesz.",
    ),
    "E0432": Entry(
        "a mempool too small for the captures that it keeps",
        "With infinite_rx, net_pcap keeps the whole capture in mbufs of the port's mempool, a"
        " packet in each, and refuses to start if there are too few.",
        "Write more mbufs, or a shorter capture.",
    ),
    "E0433": Entry(
        "an empty capture, repeated forever",
        "With infinite_rx and no packet, net_pcap takes mbufs at each poll and gives none back:"
        " the pool is empty after some milliseconds, for all other ports too.",
        "Name a capture that has packets, or leave infinite_rx out.",
    ),
    "E0434": Entry(
        "a repeated packet that is longer than an mbuf",
        "With infinite_rx, net_pcap takes packets of a single mbuf only, and refuses to start.",
        "Write a larger data_room for the port's mempool.",
    ),
    "E0435": Entry(
        "a port that would sleep in its driver",
        "net_pcap writes to a FIFO as to a file: if its reader stops, the io core sleeps in the"
        " driver, and no port is served. An io core waits for no process, so FIFOs are refused.",
        "Write a file, or read the packets live with `dpsup capture`.",
    ),
    "E0436": Entry(
        "no place for the socket of net_memif",
        "Both sides of a net_memif link meet at a Unix socket. It needs an existing directory and a"
        " path of at most 107 bytes, and nothing else may lie there. A socket that a dead process"
        " left is removed; other files are not.",
        "Correct socket=, or create its directory.",
    ),
    "E0437": Entry(
        "no server of net_memif yet",
        "The port is a client, and no process listens at its socket. The instance starts"
        " degraded, and opens the port once the server is there. A warning.",
        "Start the other side, or write role=server.",
    ),
    "E0440": Entry(
        "an output that would overwrite a file in use",
        "A port empties the file that it writes to. This one is read by a port or a plugin, is the"
        " topology file or a plugin, holds the command's own output or a quarantined packet, or"
        " another port or instance writes to it; links to it count as well.",
        "Name another file in tx_pcap.",
    ),
    "E0441": Entry(
        "one interface, used twice",
        "An interface hands each packet to every port that listens: both ports would receive it, or"
        " either of them. A connection of net_memif or net_vhost has one port at each end. Between"
        " two instances it is a warning, as one of them may only look.",
        "Use another interface, or take packets through several groups by [[chains]].",
    ),
    "E0442": Entry(
        "an output that is no file",
        "A terminal, a disk or a device such as /dev/full takes packets, and no count can say what"
        " became of them; /dev/stdout is another file in each process.",
        "Name a file, or /dev/null.",
    ),
    "E0443": Entry(
        "net_af_packet's frames are too short for the port's mtu",
        "The kernel cuts packets that are longer than the ring's frames, and the driver hands on"
        " what is left of them as whole packets.",
        "Raise framesz (2048 is enough for an mtu of 1500), or lower the port's mtu.",
    ),
    "E0444": Entry(
        "packets that need several buffers, by a net_memif that cuts them",
        "Before DPDK 24.11.5 net_memif takes some packets that need more than one buffer for"
        " several packets.",
        "Raise bsize and the pool's data_room (mtu + 22 bytes; the pool: 128 more), lower the"
        " mtu, or use DPDK 24.11.5.",
    ),
    "E0445": Entry(
        "packets of a capture that would be passed over, or cut",
        "libpcap, with which net_pcap reads, knows one link type and one snapshot length in a file:"
        " packets of other interfaces of a pcapng file (mergecap writes such) are left out without"
        " a word. In a pcap file, packets that are longer than the snapshot length in its head are"
        " cut to that.",
        "editcap -F pcap OLD NEW, or capture on one interface; of a wrong head: mergecap -F pcap -w"
        " NEW OLD.",
    ),
    "E0446": Entry(
        "a driver that dpsup is not tested with",
        "dpsup opens net_af_xdp, and net_pcap that sends to an interface, as any driver. No test"
        " of dpsup runs with them: whether they lose packets, block an io core or work with"
        " processes that die is not known. A warning.",
        "Use net_af_packet, or try it with traffic that may be lost.",
    ),
    "E0447": Entry(
        "no TAP can be had for a port's way to the kernel",
        'kernel = "tap" creates a TAP beside the port. That takes the device /dev/net/tun and'
        " CAP_NET_ADMIN; in another network namespace (netns), that one, and CAP_SYS_ADMIN to enter"
        " it.",
        "`modprobe tun`; run as root, or give the process these rights; in a container, the device"
        " too. `ip netns add NAME` creates a namespace. Or root prepares a TAP that belongs to the"
        " user, with the port's MAC, MTU and mark: docs/security.md.",
    ),
    "E0448": Entry(
        "a TAP's name that is taken, or is none",
        "The kernel's interfaces have names of at most 15 bytes, each once in a network namespace."
        " dpsup attaches to a TAP that carries its own mark for this instance and port, and to no"
        " other interface.",
        "Give the TAP a name of its own, or remove the interface that has it.",
    ),
    "E0449": Entry(
        "mbufs that are too short for the kernel's frames",
        "The TAP has the port's mtu, and each frame that the kernel sends there is read into one"
        " mbuf. Received packets may need several; these may not.",
        "Raise the pool's data_room to mtu + 150, or lower the port's mtu.",
    ),
    "E0450": Entry(
        "a TAP in the network namespace of its port's own interface",
        "A port of net_af_packet, net_pcap or net_tap is an interface of the kernel's, which sees"
        " the same packets and answers them by itself once it has an address in that namespace:"
        " clients get two answers, or a reset. A warning.",
        "Put the TAP into a namespace of its own (netns), with the programs that use it.",
    ),
    "E0451": Entry(
        "a ring that the kernel cannot lay out",
        "net_af_packet shares a ring of framecnt frames, in blocks, with the kernel. It takes"
        " frames of a multiple of 16 bytes and blocks of whole pages, in which whole frames fit,"
        " and as many frames as fill the blocks.",
        "Write the framesz, blocksz and framecnt that the message says.",
    ),
    "E0452": Entry(
        "no network namespace whose routes a group can follow",
        "follow = \"kernel\" keeps a group's tables as the kernel's routes are, of the network"
        " namespace in which the ports' TAPs are. There are no TAPs, or they are in several.",
        'Write kernel = "tap" in [[ports]], with the same netns in all of them.',
    ),
    "E0453": Entry(
        "a group that is to follow the kernel's routes, without the tables for them",
        "The kernel's routes go into the tables of the plugin `route`: routes or routes6, and hops;"
        " and ecmp, neighbours and neighbours6 where they are declared.",
        "`dpsup init --template router` writes a topology that has all of them.",
    ),
    "E0454": Entry(
        "tables that are not as the kernel's routes are",
        "A table has no room for what the kernel has, the TAPs are not there, the kernel's routing"
        " cannot be read, or the builder does not answer. The message says which; it is tried again"
        " all the time. What has no next hop in a table goes by the kernel, at its rate.",
        "Give the table more `entries` and start again; `dpsup logs follow/GROUP`, `dpsup table`.",
    ),
    "E0455": Entry(
        "two ports of a switch that are one link",
        "The interfaces of two ports are the two ends of one veth, or ports of one bridge of the"
        " kernel's. What the switch floods by one of them comes back by the other, again and again."
        " It holds addresses that flap and limits storms, but what is flooded is wasted.",
        "Leave one of the two ports out of the group's `input`, or put them in different VLANs.",
    ),
    "E0485": Entry(
        "a command that dpsup-client does not have",
        "dpsup-client looks at instances and commands them, and has nothing of DPDK: it starts,"
        " checks and measures none.",
        "Run the command where dpsup itself is installed: docs/packages.md.",
    ),
    "E0486": Entry(
        "an address at which metrics cannot be served",
        "`dpsup metrics` listens at an address of this machine. It is not one with a port, or the"
        " kernel refuses it: the port is taken, or the address is another machine's.",
        "Choose another one: dpsup metrics --listen 127.0.0.1:9465.",
    ),
    "E0480": Entry(
        "a variable of the environment does not name the port's device",
        'pci = "env:NAME" takes the PCI address from the variable NAME, which a device plugin of'
        " Kubernetes sets in the container. It is not set, holds no PCI address, or holds fewer"
        " addresses than ports name it: the first port takes the first address, the next port the"
        " next.",
        "`env | grep PCIDEVICE` in the container shows what was set. Request the devices in the"
        " pod's resources, or write the name as it is set: the resource's, in upper case, with `_`"
        " for `/`, `.` and `-`.",
    ),
    "E0481": Entry(
        "too few CPUs to choose from",
        '`cores = "auto"` of [[io]] and `supervisor_cores = "auto"` take CPUs that the process may'
        " use and that the file gives to nothing else, one for each io core and one for the"
        " supervisor. There are fewer.",
        "Give the process more CPUs: in Kubernetes whole ones, with requests equal to limits and"
        " the CPU manager's policy `static`. [host] shared_cores = true lets io cores share a CPU,"
        " to try dpsup out.",
    ),
    "E0482": Entry(
        "the termination log cannot be written",
        "`--termination-log FILE` or DPSUP_TERMINATION_LOG names the file in which a start that"
        " fails says why, for Kubernetes to show. It cannot be written; the failure itself is told"
        " on stderr.",
        "Name the pod's terminationMessagePath, /dev/termination-log, or another file that the"
        " user of the container may write.",
    ),
    # --- who may connect to the bus ---------------------------------------------------------------
    "E0470": Entry(
        "the role does not allow it",
        "The user or key has no role on the instance, or the role `read`, which looks and changes"
        " nothing. The owner of an instance and root need no role.",
        "Have the owner write the user or group into `admin` of [bus], or add a key with the role"
        " admin: `dpsup keys add NAME --role admin`.",
    ),
    "E0471": Entry(
        "a key that the host does not accept",
        "A client on another host is known by its key. This one was never added on that host, or it"
        " was revoked.",
        "`dpsup keys list` on the host shows its keys, `dpsup keys add NAME` makes one.",
    ),
    "E0472": Entry(
        "keys that cannot be used",
        "The directory of keys, or the file of a client's key, is not there, is readable for other"
        " users, belongs to another user, or is damaged. No key is accepted from it.",
        "`dpsup keys init` creates the directory; its mode is 0700, that of its files 0600.",
    ),
    "E0473": Entry(
        "a user or group that has two roles",
        "It stands in `admin` and in `read` of [bus]. The role admin holds. A warning.",
        "Leave it out of one of the two.",
    ),
    "E0474": Entry(
        "a host that is not known",
        "hosts.toml, in ~/.config/dpsup or for root in /etc/dpsup, says which endpoint and which"
        " key a host has. It cannot be read, or what was named is no endpoint.",
        'Write a table for each host: [edge1], with endpoint = "tcp://10.0.0.1:9470" and key ='
        ' "edge1.key".',
    ),
    "E0475": Entry(
        "the bus cannot listen",
        "The address of [bus] endpoint is not one of this machine, or its port or the next one is"
        " in use. The instance runs; clients on other hosts cannot connect. It is tried again.",
        "`ip address` shows the addresses, `ss -ltnp` the ports.",
    ),
    "E0476": Entry(
        "a command for several hosts that was not given to this one",
        "A rollout over hosts goes from one to the next, and ends at the first that goes back, or"
        " does not answer: those after it are as they were. Or the command is for one instance.",
        "Look at the host that ended it, then give the command for the hosts that are left.",
    ),
    "E0477": Entry(
        "an order for another generation",
        "The request says for which generation of the instance it is meant (`Instance.only` in"
        " Python), and the primary was started again since. Nothing was done.",
        "Look at the status again, and decide anew.",
    ),
    "E0478": Entry(
        "a command that works on the instance's host alone",
        "It reads files of the instance, or asks its primary: the bus that other users and hosts"
        " reach has neither.",
        "Run it on that host, as the user that runs the instance, or as root.",
    ),
    "E0479": Entry(
        "a key that cannot be added or revoked",
        "A name is in use or not known, a public key is none, or there are keys already.",
        "`dpsup keys list` shows the keys.",
    ),
    "E0458": Entry(
        "a group that is to be probed, without the tables for it",
        "`probe` has a process ask each backend whether it answers. It connects to the IP address"
        " in the table `backends`, and marks what does not answer in the table `down`, which the"
        " plugins `balance` and `balance_tunnel` read.",
        'Write value = "mac+u16+ipv4" (or +ipv6) for tables.backends, and tables.down ='
        ' { kind = "exact", key = "text8", value = "text8", entries = 1000 }.',
    ),
    "E0459": Entry(
        "backends that cannot be probed",
        "The network namespace is not there, no socket can be had, the table `down` has no room,"
        " or the builder does not answer. The message says which; it is tried again all the time,"
        " and the marks stay as they are.",
        "Correct what the message says; `dpsup logs probe/GROUP`, `dpsup table`.",
    ),
    "E0483": Entry(
        "another container's instance has the same name and hugepages",
        "EAL names hugepage files after the instance. A file of this name is held by a process that"
        " is not seen from here, in another PID namespace: both instances would write to the same"
        " memory. Nothing was started.",
        "Give one of them another `name`, or mount a hugetlbfs of its own in each container; in"
        " Kubernetes an emptyDir with medium: HugePages instead of a hostPath.",
    ),
    # --- plugins ----------------------------------------------------------------------------------
    "E0460": Entry(
        "pyroute2 is not installed",
        'With follow = "kernel" the kernel\'s routes, neighbours and interfaces are read by the'
        " package pyroute2 of Python, which pip installs with dpsup. Here it is missing.",
        "`pip install 'pyroute2>=0.9.1'` into the environment that dpsup runs in.",
    ),
    "E0501": Entry(
        "no such plugin file",
        "The workers load it. Relative paths begin at the topology file's directory.",
        "Build it: cc -shared -fPIC -O2 $(dpsup version --cflags) NAME.c -o NAME.so; or correct the"
        " path of a source in Python, NAME.py",
    ),
    "E0502": Entry(
        "no such built-in plugin",
        "Without a /, .so or .py, `plugin` names a plugin that is part of dpsup.",
        'Correct the name, or write plugin = "./NAME.so" for one of your own.',
    ),
    "E0503": Entry(
        "`map` is not a table",
        "It says for each port where its packets leave.",
        'Write map = { wan = "lan", lan = "wan" }.',
    ),
    "E0504": Entry(
        "`map` names a port that does not exist",
        "Packets for that port could not be sent.",
        "Name a port of the file.",
    ),
    "E0505": Entry(
        "a port that leads nowhere",
        "No group takes its packets, and no map sends to it. A warning.",
        "Name it in a group's input, or in a map.",
    ),
    "E0506": Entry(
        "a group without input",
        "Its workers get packets only if another group's plugin sends them on. A warning.",
        'Add input = ["PORT"].',
    ),
    "E0510": Entry(
        "a plugin file that no worker can load",
        "It is no shared object of this machine, exports no `dps_plugin`, is built against another"
        " plugin ABI, or keeps more state than the topology reserves. A source in Python: it has a"
        " syntax error, no packet(p), or declares what is not possible.",
        "Build it again with this dpsup_plugin.h (docs/plugins/abi4.md says what changed), correct"
        " the line that the message names, or write the `state` or `bucket_state` that it names.",
    ),
    "E0511": Entry(
        "a file for a plugin cannot be read",
        "`files` of [[workers]] hands the plugin the contents of files. Paths begin at the topology"
        " file's directory. A private copy is taken at the start, and at each rollout and reload.",
        "Correct the path, or make the file readable.",
    ),
    "E0521": Entry(
        "a line of a table's file that cannot be read",
        "Each line is a key, a space and a value, of the types that the table has; in a file of"
        " operations one of add, replace, set, del and clear stands before them. A file is used"
        " whole or not at all.",
        "The message says what is wrong with the line and what to write; docs/tables.md has the"
        " types.",
    ),
    "E0522": Entry(
        "a key twice in a table's file",
        "An entry has one value, and dpsup does not guess which of the two lines is meant.",
        "Remove one of the lines that the message names.",
    ),
    "E0523": Entry(
        "a table that is too small",
        "Its memory is reserved at the start for `entries` entries. Nothing of the file or batch is"
        " used.",
        "Give the table more `entries` in the topology file, or the file fewer lines.",
    ),
    "E0524": Entry(
        "an operation that does not fit the table",
        "`add` is for a key that the table does not have, `replace` and `del` for one that it has."
        " A batch is applied whole or not at all: the table is as it was.",
        "Write `set`, which adds or replaces; leave out a `del` of what is not there.",
    ),
    "E0525": Entry(
        "no room for a live table",
        "Tables lie twice in the runtime directory, reserved as a whole at the start, and a log of"
        " their changes beside them. There is no room for it.",
        "Give the tables fewer `entries`, free space there, or set [host] runtime_dir to a"
        " directory with more room, as below /dev/shm.",
    ),
    "E0526": Entry(
        "a worker keeps a live table from being changed",
        "There are two copies, and a worker still reads the one that would be changed: it has been"
        " in one burst of packets since the change before. It is stopped, or its plugin hangs. The"
        " table is as it was.",
        "`dpsup workers` shows it; continue or end it, then try again.",
    ),
    "E0527": Entry(
        "no such live table",
        "[[workers]] declares a group's tables. The name fits none, or several groups have one of"
        " that name.",
        "`dpsup table` lists them; write GROUP/NAME where the name alone is not enough.",
    ),
    "E0528": Entry(
        "the builder of live tables ended, or is stopped",
        "No worker starts before the builder has laid out the tables, so a start ends where several"
        " builders end before that, or one is not ready in ten minutes. A command that names a file"
        " is not repeated where the builder ends while it carries it out: reading that file may be"
        " what ended it. Once three builders in a row have ended before they were ready, commands"
        " fail at once; dpsup goes on trying. One that is stopped answers nothing until it"
        " continues.",
        "`dpsup logs builder` shows what it said, `dpsup status` how the last one ended, `dpsup"
        " table` what the tables are. See that the machine has memory for the builder and the"
        " runtime directory has room; `dpsup check FILE` reads the tables' files.",
    ),
    "E0529": Entry(
        "a live table that changed while it was read",
        "It is read in parts, all of one version. The builder keeps the last few versions that were"
        " asked for, and this one is not among them.",
        "Read it again from its first line.",
    ),
    "E0534": Entry(
        "live tables that no plugin looks up",
        "A plugin asks for live tables by their names (docs/tables.md); a built-in one needs none."
        " Such a table takes its memory, can be changed, and has no effect on a packet.",
        "Leave `tables` out, or name a plugin that looks them up.",
    ),
    "E0535": Entry(
        "a live table that cannot persist",
        "persist = true keeps its changes in a file below [host] tables_dir, which is this user's"
        " alone and of one instance. The file cannot be written, or has more entries than the table"
        " has room for. One that is damaged, or does not fit the table's types, is set aside and"
        " said.",
        "Let the instance's user write there; give the table as many `entries` as it had, or remove"
        " the file.",
    ),
    "E0536": Entry(
        "words that no plugin can be told",
        "`dpsup tell` says 1 to 1016 bytes to a group whose [[workers]] has control = true: the"
        " room for them is reserved at the start.",
        "Shorten the text, or write control = true and start the instance again.",
    ),
    "E0537": Entry(
        "a plugin that takes no words",
        "None of the group's workers runs a plugin with control(), so nothing would come of the"
        " text, and it is not kept.",
        "Give the plugin a control(), and `dpsup rollout` it.",
    ),
    "E0538": Entry(
        "a change that the plugin does not take",
        'A table of the kind "own" is laid out by the plugin\'s table_apply, in a process of its'
        " own. It refused the batch, crashed or took longer than 20 s, so nothing has changed.",
        "Correct what the message says; `dpsup logs builder` shows what table_apply printed.",
    ),
    "E0539": Entry(
        "a plugin that does not fit a table of its own kind",
        "Such a table needs a plugin with table_apply, and, while an instance runs, one with the"
        " table_layout that the table began with.",
        "Give the plugin a table_apply; start the instance anew with one of another table_layout.",
    ),
    "E0541": Entry(
        "a plugin or a capture that `dpsup try` cannot read",
        "It takes a plugin's file (or the name of a built-in plugin) and a pcap or pcapng file of"
        " whole Ethernet packets.",
        "Correct the path, or write the capture again: `tcpdump -w in.pcap -s 0`, `dpsup capture`.",
    ),
    "E0542": Entry(
        "what `dpsup try` is to put around the plugin is not possible",
        "A plugin finds ports, groups, arguments and files: names and values as in a topology.",
        "Correct the option that the message names; `dpsup try --help` has examples.",
    ),
    "E0543": Entry(
        "a trial that ended early",
        "The program that runs the plugin could not go on. `--kill-sweep` traces a process of its"
        " own (ptrace), which some containers forbid.",
        "What it printed says why. Without --kill-sweep nothing is traced.",
    ),
    # --- instances --------------------------------------------------------------------------------
    "E0601": Entry(
        "the runtime directory's path is too long",
        "Its sockets' paths have room for 107 bytes.",
        "Write a shorter runtime_dir.",
    ),
    "E0602": Entry(
        "EAL's sockets would have paths too long",
        "They lie in /var/run/dpdk, $RUNTIME_DIRECTORY or $XDG_RUNTIME_DIR, in a directory with the"
        " instance's name, and have room for 107 bytes.",
        "Write a shorter name, or start with a shorter $RUNTIME_DIRECTORY.",
    ),
    "E0603": Entry(
        "not permitted to create the runtime directory",
        "Sockets, the lock and the state live there.",
        "Run as root, or set [host] runtime_dir to a directory below one that is yours alone.",
    ),
    "E0604": Entry(
        "the runtime directory holds other files",
        "An instance removes its runtime directory when it ends, and with it the other files.",
        "Set [host] runtime_dir to a directory of its own.",
    ),
    "E0605": Entry(
        "the instance is already running",
        "Two supervisors would control the same workers. The running one was not changed.",
        "`dpsup -n NAME status` shows it, `dpsup -n NAME stop` ends it.",
    ),
    "E0606": Entry(
        "not permitted to talk to the instance",
        "Its runtime directory belongs to the user who started it.",
        "Run the command as that user, or as root.",
    ),
    "E0607": Entry(
        "the instance has no supervisor",
        "It died. Forwarding and takeovers go on without it; commands are not carried out.",
        "`dpsup -n NAME stop` ends it, `dpsup start FILE` starts a supervisor that adopts it.",
    ),
    "E0608": Entry(
        "-n and the file name different instances",
        "The file contains the name of its instance.",
        "Remove -n, or name the other file.",
    ),
    "E0609": Entry(
        "processes of a dead instance do not end",
        "SIGKILL did not end them: the kernel holds them, mostly in a driver or in I/O.",
        "`ps -o pid,stat,wchan,cmd` shows where; a reboot ends what nothing else does.",
    ),
    "E0610": Entry(
        "the instance does not end in time",
        "It was told to end, and may still end.",
        "`dpsup status` in a moment; then `dpsup stop` again.",
    ),
    "E0611": Entry(
        "the supervisor ended before the instance was ready",
        "If it could, it printed the cause above.",
        "Run `dpsup start FILE` without --detach, and with -v, to see all that it prints.",
    ),
    "E0612": Entry(
        "a data plane forwards, but its primary does not answer",
        "The supervisor is dead, and the primary's Python does not answer, while its io cores still"
        " forward. Adopting it is not possible now; ending it would end forwarding.",
        "Try again. `dpsup -n NAME stop` ends the instance.",
    ),
    "E0613": Entry(
        "a file of the runtime directory is not what it should be",
        "A symbolic link, a directory, or a file of another user stands in place of one of dpsup's"
        " files. dpsup neither writes through it nor removes it.",
        "Look at it, then remove it.",
    ),
    "E0614": Entry(
        "the runtime directory is not safe",
        "Another user owns it, can write to it, or can replace it: a user that controls its files"
        " controls the instance. It must belong to the user that runs dpsup, be closed to others,"
        " be no symbolic link, and lie below directories of the same user or of root.",
        "`chmod 700` it if it is yours; otherwise set [host] runtime_dir to a directory below one"
        " that only you can write to.",
    ),
    "E0615": Entry(
        "the data plane runs in another PID namespace",
        "A primary holds its lock in the runtime directory, and is not visible here: it runs in a"
        " container, or this command does. Nothing of it was changed.",
        "Run the command where the supervisor ran.",
    ),
    "E0616": Entry(
        "a data plane forwards, and its files are gone",
        "Its runtime directory, or a file in it, was removed while it ran. Without them it cannot"
        " be adopted; ending it would end forwarding.",
        "If its supervisor still runs, send it SIGTERM; otherwise `kill -9` the primary that the"
        " message names; then start it again.",
    ),
    "E0617": Entry(
        "a socket cannot be created",
        "The disk of the runtime directory is full, or something that is no socket stands in its"
        " place.",
        "Free some space, and remove what stands there.",
    ),
    # --- orders -----------------------------------------------------------------------------------
    "E0701": Entry(
        "no such group", "The topology defines no group of that name.", "`dpsup status` lists them."
    ),
    "E0702": Entry(
        "no such worker",
        "Workers are named GROUP/NUMBER, from 0 up to the group's `max`.",
        "`dpsup status` lists them.",
    ),
    "E0703": Entry(
        "`workers` could be any group",
        "It names the only group, and there are several.",
        "Name the group.",
    ),
    "E0704": Entry(
        "a number of workers that was not reserved",
        "Rings, slots and memory are created at start for `max` workers, and are not extended.",
        "Raise max in [[workers]], then stop and start.",
    ),
    "E0705": Entry(
        "the instance is starting or stopping",
        "It accepts commands while its primary runs and its workers have started.",
        "Wait until `dpsup status` says running.",
    ),
    "E0706": Entry(
        "the worker has no process",
        "Its slot is not in use, or the worker is being restarted.",
        "`dpsup status` shows its state; `dpsup scale` brings slots into use.",
    ),
    "E0707": Entry(
        "workers did not get ready in time",
        "They were started, and are not ready: their plugin's init is slow, or they die at once.",
        "`dpsup logs GROUP/NUMBER` shows what they print.",
    ),
    "E0708": Entry(
        "no such signal",
        "Signals have names (KILL, TERM, SEGV, STOP) or numbers.",
        "`kill -l` lists them.",
    ),
    "E0709": Entry(
        "not a number of workers",
        "`scale` takes a number, or a number with a sign to add to what is there.",
        "`dpsup scale fw 4`, `dpsup scale fw +1`.",
    ),
    "E0710": Entry(
        "a group with a single worker",
        "`rebalance` moves buckets between workers that have some.",
        "`dpsup scale GROUP 2` first.",
    ),
    "E0711": Entry(
        "a measurement too short or too long",
        "A load is measured over 50 ms to a minute.",
        "`dpsup rebalance GROUP --over 1s`.",
    ),
    "E0712": Entry(
        "no such packet in quarantine",
        "It never existed, or it was removed to make room for newer ones.",
        "`dpsup quarantine` lists what is there.",
    ),
    "E0713": Entry(
        "packets in quarantine that may not be read",
        "They may contain private data, so only the directory's owner may read them.",
        "Read them as the user who runs the instance, or as root.",
    ),
    "E0714": Entry(
        "several instances with packets in quarantine",
        "Each has a directory of its own.",
        "Name the instance: `dpsup -n NAME quarantine`.",
    ),
    "E0715": Entry(
        "no packets in quarantine",
        "No instance is running, and none left packets in quarantine.",
        "`dpsup quarantine list --dir DIR` reads a directory by its path.",
    ),
    "E0716": Entry(
        "a rollout that is already under way",
        "A group changes over to one version at a time.",
        "`dpsup rollout status GROUP` shows it, `dpsup rollout undo GROUP` ends it.",
    ),
    "E0717": Entry(
        "nothing to go back to",
        "The group ran no other version before, or that version was loaded in place and its file"
        " has changed since.",
        "`dpsup rollout history GROUP`; roll out the file that you want.",
    ),
    "E0718": Entry(
        "the running version's file has changed",
        "A plugin with `$ORIGIN` in it is loaded in place: a worker that is started again, and an"
        " undo, would load the new contents.",
        "Give each version a file of its own: fw-2.so.",
    ),
    "E0719": Entry(
        "invalid options of a rollout",
        "Counts, times and margins have bounds; shared memory has room for 8 KiB of arguments.",
        "`dpsup rollout --help` has them.",
    ),
    "E0720": Entry(
        "a rollout that takes long",
        "It goes on; only the command that waited for it ended.",
        "`dpsup rollout status`.",
    ),
    "E0721": Entry(
        "a file of another instance",
        "`reload` takes the file that the instance was started with, or one of the same name.",
        "`dpsup start FILE` starts what another file says.",
    ),
    "E0722": Entry(
        "no such type of event",
        "`--type` takes types of events, with commas between them.",
        "`dpsup events -o jsonl | jq -r .type | sort -u` shows which there were.",
    ),
    "E0728": Entry(
        "a file that cannot be read in time",
        "A disk or a network's file system hangs. The instance runs on, and nothing was changed.",
        "Look at what is mounted at the path that the message names, then try again.",
    ),
    "E0730": Entry(
        "no such thing to capture",
        "`capture` takes a port, a worker, or a lane: an io core and a worker with a colon between"
        " them.",
        "`dpsup ports`, `dpsup workers` and `dpsup lanes` show what there is.",
    ),
    "E0731": Entry(
        "a capture is running already",
        "There is one capture at a time, so that its cost is bounded. A capture whose process"
        " was killed ends three seconds later.",
        "End the other one, or wait for it; the message says which process it is.",
    ),
    "E0732": Entry(
        "a filter that libpcap does not take",
        "What follows are libpcap's own words. Nothing was captured.",
        "It is written as for tcpdump: `man pcap-filter`; `tcpdump -d FILTER` tries it.",
    ),
    "E0733": Entry(
        "libpcap is missing",
        "It compiles the filters of `dpsup capture`. Captures without a filter work.",
        "`apt-get install libpcap0.8`.",
    ),
    "E0734": Entry(
        "a capture or measurement that was turned off",
        "Its process was stopped for more than three seconds, or the primary was restarted. What"
        " came before is in the file.",
        "Start it again.",
    ),
    "E0735": Entry(
        "a capture cannot be written",
        "The file cannot be created or written, or the instance reads or writes it itself; nothing"
        " more was captured.",
        "Give another, writable path, on a disk with free space.",
    ),
    "E0736": Entry(
        "pcapng on a terminal",
        "It is binary. Without -w, `capture` prints a line for each packet.",
        "`-w FILE`, or `-w - | tshark -r -`.",
    ),
    "E0737": Entry(
        "a worker is being measured already",
        "There is one measurement at a time, so that its cost is bounded. A `dpsup perf` that was"
        " killed ends three seconds later.",
        "End the other one, or wait for it; the message says which process it is.",
    ),
    "E0738": Entry(
        "no such reason of a drop",
        "A capture of drops is of dpsup's own reasons or of those that a running plugin names. What"
        " a driver took and failed to send is counted only: the packet is the driver's.",
        "`dpsup status -o json` shows the reasons that have counted something; `any` is all.",
    ),
    "E0745": Entry(
        "a window that is too short or too long",
        "`dpsup advise` and `dpsup report` look at an instance several times and say what happened"
        " in between. Less than a fifth of a second shows too little; more than an hour is"
        " refused.",
        "Choose one in between: `dpsup advise --for 5s`.",
    ),
    "E0746": Entry(
        "no document of chaos or bench",
        "`dpsup report --chaos FILE --bench FILE` shows what those commands wrote as JSON; the file"
        " cannot be read, or holds something else.",
        "Write one: `dpsup chaos -o json > chaos.json`, `dpsup bench -o json > bench.json`.",
    ),
    "E0747": Entry(
        "the report cannot be written",
        "The directory does not exist, or the user may not write there; no instance was queried.",
        "Name another file: `dpsup report -o /tmp/report.html`; `-o -` is standard output.",
    ),
    "E0760": Entry(
        "no mark",
        "`stats --since-mark` shows what was counted since a mark. None was set, or the instance"
        " was stopped since, or mark.json holds no mark.",
        "`dpsup mark`, then `dpsup stats --since-mark`.",
    ),
    "E0761": Entry(
        "not a flow, or not enough of one",
        "`dpsup where` takes source, destination and protocol as text. What is hashed must be in"
        " it: ports of TCP and UDP as a rule, MAC addresses where the topology hashes no IP.",
        '`dpsup where "10.0.0.1:1234 > 10.0.0.2:80 tcp"`; without ports: `dpsup where "10.0.0.1 >'
        ' 10.0.0.2 icmp"`.',
    ),
    "E0762": Entry(
        "no such port", "The topology defines no port of that name.", "`dpsup ports` lists them."
    ),
    # --- processes --------------------------------------------------------------------------------
    "E0801": Entry(
        "the primary does not start",
        "It owns EAL, memory and ports. EAL's output is above, or shown with -v.",
        "`dpsup doctor FILE` looks for the usual causes.",
    ),
    "E0802": Entry(
        "the primary died again and again",
        "It died more often than its restart policy allows, so it is not started again.",
        "`dpsup logs primary`; a core file tells more, where core_pattern lets one be written.",
    ),
    "E0803": Entry(
        "the seed refuses or is gone",
        "The seed forks workers. A new one attaches when it dies; workers live on meanwhile.",
        "`dpsup logs seed` has what it said.",
    ),
    "E0804": Entry(
        "the seed died again and again",
        "No worker can be started without it.",
        "`dpsup logs seed`; `dpsup doctor FILE` looks for the usual causes.",
    ),
    "E0805": Entry(
        "a worker refused to start",
        "Its plugin cannot be loaded, was built for another dpsup, or its init refused its"
        " arguments.",
        "Correct `plugin` or `args`, or rebuild the plugin with `dpsup version --cflags`.",
    ),
    "E0806": Entry(
        "a worker does not become ready",
        "It dies at each start.",
        "`dpsup start FILE` in the foreground shows what it says.",
    ),
    "E0807": Entry(
        "the primary does not answer",
        "It has just died, is being restarted, or is stuck.",
        "`dpsup status` shows its state.",
    ),
    "E0808": Entry(
        "an output file lacks packets that were sent to it",
        "The file system is full, or a limit was reached: the driver goes on as if nothing had"
        " happened. What is missing is counted as tx_failed.",
        "Make room, and run the job again.",
    ),
    "E0809": Entry(
        "a job read fewer packets than its captures hold",
        "`check` counted more packets in the files of rx_pcap than the driver handed out until the"
        " input was idle.",
        "Was --exit-when-idle too short, or the file changed meanwhile? `dpsup check FILE` says"
        " what else is odd about the capture.",
    ),
    # --- bus --------------------------------------------------------------------------------------
    "E0901": Entry(
        "a message that is not one of dpsup's",
        "It is too long, nested too deeply, not JSON, or lacks a part.",
        "Use dpsup.connect() or the command line, which use the bus's protocol.",
    ),
    "E0902": Entry(
        "too many requests",
        "A peer asks more often than the bus answers one peer.",
        "Ask less often, or subscribe to the events.",
    ),
    "E0903": Entry(
        "no such verb",
        "The instance knows no order of that name; an older one may not.",
        "Use the dpsup that the instance was started with.",
    ),
    "E0904": Entry(
        "no answer in time",
        "The supervisor is busy, stopped, or has no CPU.",
        "Try again; `ps -o stat` of its pid shows whether something stopped it.",
    ),
    "E0905": Entry(
        "another version of the bus",
        "The instance was started by a dpsup that speaks another version.",
        "Use that dpsup, or stop and start the instance.",
    ),
    "E0906": Entry(
        "the instance has ended",
        "It ended while the command was asking.",
        "`dpsup start FILE` starts it.",
    ),
    "E0907": Entry(
        "the connection is closed",
        "close() was called, or the `with` block that opened it has ended.",
        "Call dpsup.connect() again.",
    ),
    # --- tools ------------------------------------------------------------------------------------
    "E1001": Entry(
        "the file exists already",
        "`dpsup init` and `dpsup man` overwrite a file only with --force.",
        "Name another file, or add --force.",
    ),
    "E1002": Entry(
        "no such code",
        "Codes are E and four digits, as in error[E0203], or D and two, as in `dpsup doctor`.",
        "`dpsup explain` lists them all.",
    ),
    "E1003": Entry(
        "the file cannot be written",
        "The directory does not exist, this user may not write there, or the command reads that"
        " file and would overwrite it.",
        "Name another file, in a directory of your own.",
    ),
    "E1004": Entry(
        "no terminal to draw on",
        "`dpsup top` draws on a terminal and reads keys from it.",
        "`dpsup status -w` writes to pipes and files too.",
    ),
    "E1005": Entry(
        "graphviz is not installed",
        "DOT is written by the graphviz package of Python, laid out by the program `dot`.",
        "`pip install 'dpsup[graph]'` and `apt-get install graphviz`; `dpsup graph` alone draws in"
        " letters.",
    ),
}


def find(word: str, more: dict[str, Entry]) -> tuple[str, Entry] | None:
    """The entry of a code as people type it ("E0203", "e203", "error[E0203]", "D1"); `more` has
    the checks of `doctor`."""
    word = word.strip().upper().removeprefix("ERROR").removeprefix("WARNING").strip("[]: ")
    table = {**CODES, **more}
    number = word[1:]
    if number.isdigit():
        word = f"{word[0]}{number.zfill(4 if word[0] == 'E' else 2)}"
    return (word, table[word]) if word in table else None


def nearest(word: str, more: dict[str, Entry]) -> str:
    """The code that was probably meant by `word`, a code mistyped or words of a title; or ""."""
    table = {**CODES, **more}
    # Digits that changed places stay in their area.
    near = [code.lower() for code in table if code[:3].lower() == word[:3].lower()]
    close = (suggest(word, near) or suggest(word, [code.lower() for code in table])).upper()
    words = set(word.lower().split())
    by_title = [code for code, entry in table.items() if words <= set(entry.title.lower().split())]
    return by_title[0] if by_title else close


def text(code: str, entry: Entry) -> str:
    """An entry for a terminal."""
    out = [f"{code}: {entry.title}", "", entry.why, "", f"What to do: {entry.fix}"]
    if entry.wrong:
        out += ["", "Wrong:", "", *_indented(entry.wrong)]
        out += ["", "Right:", "", *_indented(entry.right)]
    return "\n".join(out)


def _indented(example: str) -> list[str]:
    return [f"    {line}".rstrip() for line in example.splitlines()]


def page(more: dict[str, Entry]) -> str:
    """docs/errors.md."""
    out = [
        "# Errors",
        "",
        "Written by `dpsup explain --markdown > docs/errors.md`; its source is"
        " `dpsup/error_codes.py`, and `dpsup/doctor`",
        "for the checks. Each error begins with `error[CODE]:`, each warning with"
        " `warning[CODE]:`;",
        "`dpsup explain CODE` prints what stands here. A code never changes its meaning. The"
        " process's exit",
        "code is another thing, and coarser: `docs/reference/exits.md` has its list.",
    ]
    area = ""
    for code, entry in {**CODES, **more}.items():
        heading = AREAS.get(code[:3], "What `dpsup doctor` looks at")
        if heading != area:
            area = heading
            out += ["", f"## {heading}"]
        out += ["", f"### {code}: {entry.title}", "", entry.why, "", f"*What to do:* {entry.fix}"]
        if entry.wrong:
            out += ["", "```toml", "# wrong", entry.wrong, "```", ""]
            out += ["```toml", "# right", entry.right, "```"]
    return "\n".join(out) + "\n"
