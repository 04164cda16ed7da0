// SPDX-License-Identifier: BSD-3-Clause
//! Plugins for dpsup in Rust: `dpsup_plugin.h` without unsafe code of the plugin's own.
//!
//! ```ignore
//! struct Fw;
//!
//! impl Plugin for Fw {
//!     fn init(_: &Env) -> Result<Self, &'static str> {
//!         Ok(Fw)
//!     }
//!     fn packet(&mut self, env: &Env, packet: &mut Packet) -> u16 {
//!         if packet.data().len() < 60 { drop(0) } else { env.next(packet) }
//!     }
//! }
//!
//! dpsup_plugin!(Fw, "fw", reasons = ["runt"], counters = []);
//! ```
//!
//! A panic ends the worker as a crash of the packet in hand: build with `panic = "abort"`.
#![no_std]

pub mod raw;

pub use raw::{Env, Host, Packet, Plain, Plugin, State, Table, Tick};

/// Out of a port.
pub const fn out(port: u32) -> u16 {
    (0x1000 | (port & 0xfff)) as u16
}

/// Drop, for the reason with this index.
pub const fn drop(reason: u32) -> u16 {
    (reason & 0xf) as u16
}

/// On to another group, by the packet's hash.
pub const fn on(group: u32) -> u16 {
    (0x2000 | (group & 0xfff)) as u16
}

/// On to a group, its own too, steered by this hash instead of the packet's.
pub const fn on_hash(group: u32, hash: u32) -> u16 {
    if group > 0xf {
        0xffff
    } else {
        (0x6000 | group << 9 | bucket(hash)) as u16
    }
}

/// To the kernel, at the port that it came in by; without a way there it is dropped as `no_kernel`.
pub const fn punt() -> u16 {
    0xc000
}

/// Take it out of the traffic as evidence.
pub const fn quarantine() -> u16 {
    0x3000
}

/// The same, and a copy out of that port too.
pub const fn also(verdict: u16, port: u32) -> u16 {
    if verdict & 0xcff0 != 0 || port > 0xff {
        0xffff
    } else {
        verdict | 0x8000 | (port << 4) as u16
    }
}

/// The bucket of a flow, by its hash.
pub const fn bucket(hash: u32) -> u32 {
    hash % raw::DPS_PLUGIN_BUCKETS
}
