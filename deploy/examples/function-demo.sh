# SPDX-License-Identifier: BSD-3-Clause
# shellcheck shell=bash disable=SC2154
#
# The end of deploy/quickstart --function NAME, which reads this file: a function that dpsup ships between two hosts
# of the kernel's (network namespaces), whose worker is killed while one host pings the other.

# A host at the end of a veth. Checksums are computed and frames cut before dpsup sees them: docs/frames.md.
# add_host SIDE ADDRESS
add_host() {
	local name=$stem$1 offload off=()
	for offload in rx tx sg tso gso gro rxvlan txvlan; do off+=("$offload" off); done
	ip netns add "$name"
	ip link add "$name" type veth peer name eth0 netns "$name"
	ip link set "$name" addrgenmode none
	ethtool -K "$name" "${off[@]}" >/dev/null 2>&1
	ip netns exec "$name" ethtool -K eth0 "${off[@]}" >/dev/null 2>&1
	ip link set "$name" up
	ip -n "$name" link set lo up
	ip -n "$name" addr add "$2" dev eth0
	ip -n "$name" link set eth0 up
}
mac_of() { cat "/sys/class/net/$1/address"; }
inner_mac_of() { ip netns exec "$stem$1" cat /sys/class/net/eth0/address; }

# What is the same in all: two ports, and a group.
# write_topology GROUP PLUGIN: the rest of the group comes from standard input
write_topology() {
	cat >function.toml <<-EOF
		version = 1
		name = "$DPSUP_NAME"
		[host]
		supervisor_cores = "$("$python" -c 'import os; print(min(os.sched_getaffinity(0)))')"
		[mempools.default]
		mbufs = 8191
		[[ports]]
		name = "lan"
		vdev = "net_af_packet0,iface=${stem}a"
		[[ports]]
		name = "wan"
		vdev = "net_af_packet1,iface=$wan"
		[[io]]
		cores = "$("$python" -c 'import os; print(max(os.sched_getaffinity(0)))')"
		[[workers]]
		name = "$1"
		plugin = "$2"
		on_full = "hold"
		$(cat)
	EOF
}

wan=${stem}b
add_host a 10.8.0.1/16
case $function in
route)
	add_host b 10.9.0.1/16
	target=10.9.0.1
	ip -n "${stem}a" route add default via 10.8.0.254
	ip -n "${stem}b" route add default via 10.9.0.254
	ip -n "${stem}a" neigh add 10.8.0.254 lladdr "$(mac_of "${stem}a")" dev eth0
	ip -n "${stem}b" neigh add 10.9.0.254 lladdr "$(mac_of "${stem}b")" dev eth0
	printf '10.8.0.0/16 0\n10.9.0.0/16 1\n' >routes.txt
	printf '0 lan,%s\n1 wan,%s\n' "$(inner_mac_of a)" "$(inner_mac_of b)" >hops.txt
	write_topology router route <<-'EOF'
		input = ["lan", "wan"]
		state = "auto"
		args = { address = { lan = "10.8.0.254", wan = "10.9.0.254" } }
		tables.routes = { kind = "ipv4", value = "hop", entries = "1k", file = "routes.txt" }
		tables.hops = { kind = "array", value = "port+mac", entries = "16", file = "hops.txt" }
	EOF
	say 'A router' 'Two hosts of the kernel, in networks of their own; dpsup routes between them by a live table.'
	;;
nat)
	add_host b 10.8.0.2/16
	target=10.8.0.2
	ip -n "${stem}b" neigh add 10.8.0.77 lladdr "$(inner_mac_of a)" dev eth0
	write_topology nat nat <<-'EOF'
		input = ["lan", "wan"]
		bucket_state = "auto"
		args = { inside = "lan", outside = "wan", address = "10.8.0.77" }
	EOF
	say 'NAT' 'Two hosts of the kernel; the second one sees the first as 10.8.0.77.'
	;;
firewall)
	add_host b 10.8.0.2/16
	target=10.8.0.2
	echo '10 permit icmp in lan keep' >rules.txt
	write_topology firewall acl <<-'EOF'
		state = "auto"
		bucket_state = "auto"
		tables.rules = { kind = "own", key = "be32", value = "words200", entries = "1k", bytes = "4MiB", file = "rules.txt" }
		[[chains]]
		name = "line"
		path = ["lan", "firewall", "wan"]
	EOF
	say 'A firewall' 'Two hosts of the kernel. The first may ping the second; nothing may begin from there.'
	;;
balance)
	# Two servers that have the address 10.8.0.200, in one Ethernet segment with dpsup's port.
	target=10.8.0.200
	add_host b 10.8.0.2/16
	add_host c 10.8.0.3/16
	ip link add "${stem}w" type veth peer name "${stem}x"
	ip link add "${stem}y" type bridge
	for end in w x y; do ip link set "$stem$end" addrgenmode none; done
	for end in x b c; do ip link set "$stem$end" master "${stem}y"; done
	for end in w x y; do ip link set "$stem$end" up; done
	for side in b c; do
		ip netns exec "$stem$side" sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
		ip -n "$stem$side" addr add "$target/32" dev lo
		name=$([ "$side" = b ] && echo web1 || echo web2)
		mkdir "$name"
		echo "$name" >"$name/index.html"
		ip netns exec "$stem$side" "$python" -m http.server -b "$target" -d "$name" 80 >/dev/null 2>&1 &
		servers="$servers $!"
		disown # its end is no news
		printf '%s %s,10\n' "$name" "$(inner_mac_of "$side")" >>backends.txt
	done
	ip -n "${stem}a" neigh add "$target" lladdr "$(inner_mac_of b)" dev eth0
	wan=${stem}w
	write_topology balance balance <<-'EOF'
		state = "auto"
		bucket_state = "auto"
		args = { vips = "10.8.0.200:80/tcp", port = "wan" }
		tables.backends = { kind = "own", key = "text8", value = "mac+u16", entries = 9, bytes = "256KiB", file = "backends.txt" }
		[[chains]]
		name = "line"
		path = ["lan", "balance", "wan"]
	EOF
	say 'A load balancer' 'Two web servers of the kernel have one address, 10.8.0.200, and answer the client themselves.'
	;;
esac
typed 'cat function.toml'
cat function.toml
typed 'dpsup start function.toml &'
setsid dpsup start function.toml >account 2>log &
instance=$!
until_is 'it was running' 's["state"] == "running"'

say 'Kill its worker' 'SIGKILL while 200 pings are under way, 100 a second.'
typed "ping -c 200 -i 0.01 $target"
ip netns exec "${stem}a" ping -n -q -c 200 -i 0.01 -W 5 "$target" >pings 2>&1 &
pings=$!
sleep 1
run kill -9 "$(of 's["groups"][0]["workers"][0]["pid"]')"
wait "$pings" || true # what it received is judged at the end, when all has been shown
tail -n +2 pings | grep -v '^$'
until_is 'the worker was back' 's["state"] == "running"'
run dpsup stats
if [ "$function" = firewall ]; then
	typed "ping -c 1 -W 1 10.8.0.1    # from the second host"
	# No answer is what it is to show.
	ip netns exec "${stem}b" ping -n -q -c 1 -W 1 10.8.0.1 | tail -n +2 | grep -v '^$' || true
fi
# ask: 20 requests of the first host, each a connection of its own; how many each server answered
ask() {
	typed "curl http://10.8.0.200/    # 20 times"
	ip netns exec "${stem}a" "$python" -c '
import collections, urllib.request
url = "http://10.8.0.200/"
names = [urllib.request.urlopen(url, timeout=30).read().decode().strip() for _ in range(20)]
print(*(f"{name}: {n}" for name, n in sorted(collections.Counter(names).items())))'
}
if [ "$function" = balance ]; then
	ask
	say 'Drain a server' 'It gets no new connections; those that it has go on.'
	run dpsup table backends set web1 "$(inner_mac_of b),0"
	ask
fi
run dpsup stop
code=0
wait "$instance" || code=$?
instance=
cat account
if [ "$code" != 0 ]; then fail "the instance ended with exit code $code" "$code"; fi
if ! grep -q '200 received' pings; then fail 'not all pings were answered'; fi
printf '\n%s200 of 200 pings, and the worker was killed. Its page: docs/functions/%s.md%s\n' "$bold" \
	"${function/firewall/acl}" "$plain"
