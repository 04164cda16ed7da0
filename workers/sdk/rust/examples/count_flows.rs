// SPDX-License-Identifier: BSD-3-Clause
//! Counts the packets of flows, exactly: a worker that is killed at any instruction loses no packet
//! and counts none twice, and a flow's count goes with the flow when the group is scaled.
//!
//!     [[workers]]
//!     plugin = "count_flows.so"
//!     state = 64
//!     bucket_state = "2KiB"
#![deny(unsafe_code)]

use dpsup_plugin::{dpsup_plugin, out, Env, Packet, Plugin};

const FLOWS: usize = 63;
const FLOW: usize = 32; // bytes: packets, then addresses, ports and protocol
const KEY: usize = 24;

enum Counter {
    Packets,
    Untold,
}

struct CountFlows;

/// Addresses, ports and protocol of an IPv4 packet that is no fragment.
fn key_of(data: &[u8]) -> Option<[u8; KEY]> {
    let ip = data.get(14..34)?;
    if data[12..14] != [0x08, 0x00] || ip[0] >> 4 != 4 {
        return None;
    }
    let mut key = [0; KEY];
    key[..8].copy_from_slice(&ip[12..20]);
    key[12] = ip[9];
    let header = 14 + (ip[0] & 0xf) as usize * 4;
    if (ip[9] == 6 || ip[9] == 17) && ip[6] & 0x3f == 0 && ip[7] == 0 {
        if let Some(ports) = data.get(header..header + 4) {
            key[8..12].copy_from_slice(ports);
        }
    }
    Some(key)
}

impl Plugin for CountFlows {
    const STATE_SIZE: u32 = 8;
    const BUCKET_STATE_SIZE: u32 = (8 + FLOWS * FLOW) as u32;
    const STATE_VERSION: u32 = 1;

    fn init(_: &Env) -> Result<Self, &'static str> {
        Ok(CountFlows)
    }

    fn packet(&mut self, _: &Env, packet: &mut Packet) -> u16 {
        let key = key_of(packet.data());
        let mut bucket = packet.bucket();
        let free_or_same = |at: &usize| {
            bucket.get::<u64>(*at) == 0 || Some(bucket.get::<[u8; KEY]>(*at + 8)) == key
        };
        let found = key.and_then(|_| (0..FLOWS).map(|i| 8 + i * FLOW).find(free_or_same));
        match (key, found) {
            (Some(key), Some(at)) => {
                let packets: u64 = bucket.get(at);
                if packets == 0 {
                    bucket.set(at + 8, key);
                }
                bucket.set(at, packets + 1);
            }
            _ => bucket.set(0, bucket.get::<u64>(0) + 1),
        }
        let mut place = packet.place();
        place.set(0, place.get::<u64>(0) + 1);
        let told = if found.is_some() { Counter::Packets } else { Counter::Untold };
        packet.count(told as u32, 1);
        out(packet.port())
    }
}

dpsup_plugin!(CountFlows, "count_flows", reasons = [], counters = ["packets", "untold"]);
