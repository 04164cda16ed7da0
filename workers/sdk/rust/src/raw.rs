// SPDX-License-Identifier: BSD-3-Clause
//! dpsup_plugin.h, in Rust: the same names, layout and numbers. tests/unit/test_rust.py compares each
//! with what a C compiler makes of the header.
//!
//! Over 600 lines: all unsafe code of a plugin lies in this file, for these reasons:
//!
//! - A worker calls a plugin from one thread, and never from within itself: `Host::of` makes a
//!   reference to the plugin from the pointer that init left, and no other one exists meanwhile.
//! - The pointers of `dps_packet` and `dps_env` are valid for the time of a call. The references that
//!   are made of them borrow `Packet` or `Env`, which a plugin sees only for the time of that call:
//!   no lifetime lets it keep them.
//! - `data` has `len` readable bytes, of which only the first `rewrites` (and `prepends` before them)
//!   are handed out for writing: `Packet` remembers where they end. So a plugin changes no byte that a
//!   kill would not put back.
//! - A table's memory changes between bursts alone, so a record is borrowed from `Env`. Keys have the
//!   length that the worker's lookups read: `key_of` checks it.
//! - State is read by copies of values of any bits (`Plain`), and written by `touch` alone, which lets
//!   the worker save the bytes first. A piece lies within what the plugin declared: `piece` checks it.
#![allow(non_camel_case_types)]

use core::ffi::c_void;
use core::mem::{align_of, size_of};

/// Of C's texts, whose sign does not matter here.
pub type c_char = u8;

pub const DPS_PLUGIN_ABI: u32 = 4;
pub const DPS_PLUGIN_VLAN: u32 = 1;
pub const DPS_PLUGIN_TIMESTAMP: u32 = 2;
pub const DPS_PLUGIN_HASH: u32 = 4;
pub const DPS_PLUGIN_NO_BYTES: u32 = 8;
pub const DPS_PLUGIN_TOUCHES: u32 = 16;
pub const DPS_PLUGIN_REWRITES: u32 = 256;
pub const DPS_PLUGIN_REASONS: u32 = 16;
pub const DPS_PLUGIN_COUNTERS: u32 = 16;
pub const DPS_PLUGIN_BURST: u32 = 64;
pub const DPS_PLUGIN_BUCKETS: u32 = 512;
pub const DPS_PLUGIN_NOBODY: u32 = 255;
pub const DPS_PLUGIN_STATE: u32 = 64 << 20;
pub const DPS_PLUGIN_BUCKET_STATE: u32 = 65536;
pub const DPS_PLUGIN_TOUCHES_MOST: u32 = 4;
pub const DPS_PLUGIN_TOUCH_BYTES: u32 = 64;
pub const DPS_PLUGIN_EMITS: u32 = 8;
pub const DPS_PLUGIN_TICK_US: u32 = 1000;
pub const DPS_PLUGIN_BUCKET_TICK_US: u32 = 10000;
pub const DPS_PLUGIN_SPARE: u32 = 0xffffffff;
pub const DPS_TABLE_EXACT: u32 = 1;
pub const DPS_TABLE_IPV4: u32 = 2;

#[repr(C)]
pub struct dps_packet {
    pub data: *mut u8,
    pub len: u32,
    pub total: u32,
    pub hash: u32,
    pub port: u16,
    pub headroom: u16,
    pub vlan: u16,
    pub has_vlan: u8,
    pub pad: u8,
    pub tsc: u64,
    pub origin: *const c_void,
    pub bucket_state: *mut c_void,
    pub found: u64,
}

#[repr(C)]
pub struct dps_port_facts {
    pub mac: [u8; 8],
    pub up: u32,
    pub mbps: u32,
    pub mtu: u32,
    pub numa: i32,
}

#[repr(C)]
pub struct dps_group_facts {
    pub version: u64,
    pub workers: u32,
    pub places: u32,
    pub owner: [u8; DPS_PLUGIN_BUCKETS as usize],
}

#[repr(C)]
pub struct dps_bytes {
    pub name: *const c_char,
    pub at: *const c_void,
    pub len: u64,
}

#[repr(C)]
pub struct dps_live_table {
    pub name: *const c_char,
    pub kind: u32,
    pub key_bytes: u32,
    pub value_bytes: u32,
    pub learns: u32,
    pub entries: u64,
    pub at: *const c_void,
    pub version: u64,
}

#[repr(C)]
pub struct dps_env {
    pub group: *const c_char,
    pub worker: u32,
    pub n_args: u32,
    pub arg_keys: *const *const c_char,
    pub arg_values: *const *const c_char,
    pub n_ports: u32,
    pub n_groups: u32,
    pub port_names: *const *const c_char,
    pub group_names: *const *const c_char,
    pub tsc_hz: u64,
    pub counters: *mut u64,
    pub error: *mut c_char,
    pub error_len: u32,
    pub warm: u32,
    pub state: *mut c_void,
    pub next: *const u16,
    pub now: u64,
    pub ports: *const dps_port_facts,
    pub ports_version: *const u64,
    pub groups: *const dps_group_facts,
    pub group_index: u32,
    pub hash_key_len: u32,
    pub hash_key: *const u8,
    pub files: *const dps_bytes,
    pub n_files: u32,
    pub n_tables: u32,
    pub tables: *const dps_live_table,
}

#[repr(C)]
pub struct dps_plugin {
    pub abi: u32,
    pub size: u32,
    pub name: *const c_char,
    pub needs: u32,
    pub rewrites: u16,
    pub prepends: u16,
    pub reasons: *const *const c_char,
    pub counters: *const *const c_char,
    pub init: Option<unsafe extern "C" fn(*const dps_env, *mut *mut c_void) -> i32>,
    pub packet: Option<unsafe extern "C" fn(*mut c_void, *mut dps_packet) -> u16>,
    pub fini: Option<unsafe extern "C" fn(*mut c_void)>,
    pub state_size: u32,
    pub bucket_state_size: u32,
    pub state_version: u32,
    pub emits: u32,
    pub seated: Option<unsafe extern "C" fn(*mut c_void, *const dps_env)>,
    pub look: Option<unsafe extern "C" fn(*mut c_void, *mut dps_packet, u32)>,
    pub policy: u32,
    pub gauges: u32,
    pub tick_us: u32,
    pub bucket_tick_us: u32,
    pub tick: Option<unsafe extern "C" fn(*mut c_void)>,
    pub bucket_tick: Option<unsafe extern "C" fn(*mut c_void, u32, *mut c_void)>,
    pub migrate: Option<unsafe extern "C" fn(*const c_void, u32, u32, *mut c_void) -> i32>,
    pub bucket_migrate: Option<unsafe extern "C" fn(*const c_void, u32, u32, *mut c_void) -> i32>,
    pub control: Option<unsafe extern "C" fn(*mut c_void, *const c_char, u32)>,
    pub table_apply: Option<unsafe extern "C" fn(*const c_void) -> i32>,
    pub table_layout: u32,
    pub pad: u32,
}

// A worker reads it, and no thread writes it.
unsafe impl Sync for dps_plugin {}

extern "C" {
    fn dps_touch(at: *mut c_void, len: u32);
    fn dps_emit(verdict: u16, len: u32) -> *mut u8;
    fn dps_tell(env: *const dps_env, of: *const dps_live_table, key: *const c_void, value: u64) -> i32;
    fn dps_table_find(of: *const dps_live_table, key: *const c_void) -> u64;
    fn dps_table_record(of: *const dps_live_table, index: u64) -> *const u8;
}

/// The bytes of a C text.
unsafe fn text<'a>(from: *const c_char) -> &'a str {
    let mut len = 0;
    while *from.add(len) != 0 {
        len += 1;
    }
    let bytes = core::slice::from_raw_parts(from as *const u8, len);
    core::str::from_utf8(bytes).unwrap_or("")
}

unsafe fn nth<'a>(list: *const *const c_char, index: u32) -> &'a str {
    text(*list.add(index as usize))
}

/// A value of which any bits are one: it may lie in state, whose bytes begin as zeroes.
///
/// # Safety
/// The type has no padding, no reference, no bit pattern that is not a value.
pub unsafe trait Plain: Copy + 'static {}
unsafe impl Plain for u8 {}
unsafe impl Plain for u16 {}
unsafe impl Plain for u32 {}
unsafe impl Plain for u64 {}
unsafe impl<const N: usize> Plain for [u8; N] {}
unsafe impl<const N: usize> Plain for [u16; N] {}
unsafe impl<const N: usize> Plain for [u32; N] {}
unsafe impl<const N: usize> Plain for [u64; N] {}

/// Bytes that outlive the process: of the place, or of a packet's bucket. Read at any time; changed
/// by `set`, which is put back if the packet in hand gets no verdict.
pub struct State<'a> {
    at: *mut u8,
    len: usize,
    of: core::marker::PhantomData<&'a ()>,
}

impl<'a> State<'a> {
    fn new(at: *mut c_void, len: u32) -> Self {
        let len = if at.is_null() { 0 } else { len as usize };
        State { at: at as *mut u8, len, of: core::marker::PhantomData }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn piece<T: Plain>(&self, offset: usize) -> *mut T {
        assert!(offset % align_of::<T>() == 0 && size_of::<T>() <= self.len);
        assert!(offset <= self.len - size_of::<T>());
        unsafe { self.at.add(offset) as *mut T }
    }

    /// The value at an offset.
    pub fn get<T: Plain>(&self, offset: usize) -> T {
        unsafe { *self.piece::<T>(offset) }
    }

    /// Touch, then change. At most 4 pieces of 64 bytes for each packet.
    pub fn set<T: Plain>(&mut self, offset: usize, value: T) {
        let at = self.piece::<T>(offset);
        unsafe {
            dps_touch(at as *mut c_void, size_of::<T>() as u32);
            at.write_volatile(value);
        }
    }
}

/// A table that the topology declares: `Env::table`.
#[derive(Clone, Copy)]
pub struct Table(u32);

/// What the plugin learns; of the packet in hand's worker.
pub struct Env {
    raw: *const dps_env,
}

impl Env {
    fn raw(&self) -> &dps_env {
        unsafe { &*self.raw }
    }

    pub fn group(&self) -> &str {
        unsafe { text(self.raw().group) }
    }

    /// None: a spare, which does not know its place yet.
    pub fn worker(&self) -> Option<u32> {
        let worker = unsafe { core::ptr::addr_of!((*self.raw).worker).read_volatile() };
        if worker == DPS_PLUGIN_SPARE { None } else { Some(worker) }
    }

    pub fn ports(&self) -> u32 {
        self.raw().n_ports
    }

    pub fn port_name(&self, port: u32) -> &str {
        assert!(port < self.raw().n_ports);
        unsafe { nth(self.raw().port_names, port) }
    }

    pub fn port(&self, name: &str) -> Option<u32> {
        (0..self.raw().n_ports).find(|&i| unsafe { nth(self.raw().port_names, i) } == name)
    }

    /// None: the topology declares no table of that name.
    pub fn table(&self, name: &str) -> Option<Table> {
        let raw = self.raw();
        let is_it = |i: &u32| unsafe { text((*raw.tables.add(*i as usize)).name) } == name;
        (0..raw.n_tables).find(is_it).map(Table)
    }

    fn live(&self, table: Table) -> &dps_live_table {
        assert!(table.0 < self.raw().n_tables);
        unsafe { &*self.raw().tables.add(table.0 as usize) }
    }

    fn key_of(&self, table: Table, key: &[u8]) -> *const c_void {
        let live = self.live(table);
        let len = match live.kind {
            DPS_TABLE_EXACT => live.key_bytes as usize,
            DPS_TABLE_IPV4 => 4,
            _ => 16,
        };
        assert!(key.len() == len);
        key.as_ptr() as *const c_void
    }

    /// The value of a key, or of the longest prefix of an address, as it stands in a packet.
    pub fn find(&self, table: Table, key: &[u8]) -> Option<u64> {
        let at = self.key_of(table, key);
        let value = unsafe { dps_table_find(self.live(table), at) };
        if value == u64::MAX { None } else { Some(value) }
    }

    /// A record of an array.
    pub fn record(&self, table: Table, index: u64) -> Option<&[u8]> {
        let live = self.live(table);
        let at = unsafe { dps_table_record(live, index) };
        if at.is_null() {
            return None;
        }
        Some(unsafe { core::slice::from_raw_parts(at, live.value_bytes as usize) })
    }

    /// Another number after each change.
    pub fn version(&self, table: Table) -> u64 {
        unsafe { core::ptr::addr_of!(self.live(table).version).read_volatile() }
    }

    /// Tell the other workers, by way of a table with learn = true: advice, see dpsup_plugin.h.
    /// False: it was lost, or the table does not learn.
    pub fn tell(&self, table: Table, key: &[u8], value: u64) -> bool {
        let at = self.key_of(table, key);
        unsafe { dps_tell(self.raw, self.live(table), at, value) > 0 }
    }

    pub fn find_group(&self, name: &str) -> Option<u32> {
        (0..self.raw().n_groups).find(|&i| unsafe { nth(self.raw().group_names, i) } == name)
    }

    pub fn arg(&self, key: &str) -> Option<&str> {
        (0..self.raw().n_args)
            .find(|&i| unsafe { nth(self.raw().arg_keys, i) } == key)
            .map(|i| unsafe { nth(self.raw().arg_values, i) })
    }

    /// Nanoseconds, the clock of all workers.
    pub fn now(&self) -> u64 {
        unsafe { core::ptr::addr_of!((*self.raw).now).read_volatile() }
    }

    /// Where the chain leads, by input port.
    pub fn next(&self, packet: &Packet) -> u16 {
        unsafe { *self.raw().next.add(packet.port() as usize) }
    }
}

/// The tick in hand: what a plugin may change because time has passed.
pub struct Tick<'a> {
    bucket: *mut c_void,
    bucket_size: u32,
    place: *mut c_void,
    place_size: u32,
    counters: *mut u64,
    touches: bool,
    of: core::marker::PhantomData<&'a mut ()>,
}

impl<'a> Tick<'a> {
    fn of<P: Plugin>(env: &'a Env, bucket: *mut c_void) -> Self {
        Tick {
            bucket,
            bucket_size: P::BUCKET_STATE_SIZE,
            place: env.raw().state,
            place_size: P::STATE_SIZE,
            counters: env.raw().counters,
            touches: P::STATE_SIZE + P::BUCKET_STATE_SIZE > 0
                || P::NEEDS & DPS_PLUGIN_TOUCHES != 0,
            of: core::marker::PhantomData,
        }
    }

    /// The state of the bucket that the tick is for; of the worker's tick, empty.
    pub fn bucket(&mut self) -> State<'_> {
        State::new(self.bucket, self.bucket_size)
    }

    /// The state of this worker's place.
    pub fn place(&mut self) -> State<'_> {
        State::new(self.place, self.place_size)
    }

    /// Add to a counter; exactly, in a plugin that touches.
    pub fn count(&mut self, counter: u32, n: u64) {
        assert!(counter < DPS_PLUGIN_COUNTERS);
        unsafe {
            let at = self.counters.add(counter as usize);
            if self.touches {
                dps_touch(at as *mut c_void, 8);
            }
            at.write_volatile(at.read_volatile().wrapping_add(n));
        }
    }

    /// A packet of the plugin's own: `len` zero bytes, which leave with that verdict.
    pub fn emit(&mut self, verdict: u16, len: u32) -> Option<&mut [u8]> {
        let at = unsafe { dps_emit(verdict, len) };
        if at.is_null() {
            return None;
        }
        Some(unsafe { core::slice::from_raw_parts_mut(at, len as usize) })
    }
}

/// The packet in hand.
pub struct Packet<'a> {
    raw: &'a mut dps_packet,
    end: *mut u8,
    kept: Tick<'a>,
}

impl<'a> Packet<'a> {
    pub fn port(&self) -> u32 {
        self.raw.port as u32
    }

    pub fn total(&self) -> u32 {
        self.raw.total
    }

    pub fn hash(&self) -> u32 {
        self.raw.hash
    }

    pub fn vlan(&self) -> Option<u16> {
        if self.raw.has_vlan != 0 { Some(self.raw.vlan) } else { None }
    }

    /// All bytes of the first segment.
    pub fn data(&self) -> &[u8] {
        unsafe { core::slice::from_raw_parts(self.raw.data, self.raw.len as usize) }
    }

    /// The bytes that the plugin declared to change: `REWRITES`.
    pub fn head(&mut self) -> &mut [u8] {
        let len = (self.end as usize).saturating_sub(self.raw.data as usize);
        let len = core::cmp::min(len, self.raw.len as usize);
        unsafe { core::slice::from_raw_parts_mut(self.raw.data, len) }
    }

    /// The state of the packet's bucket.
    pub fn bucket(&mut self) -> State<'_> {
        self.kept.bucket()
    }

    /// The state of this worker's place.
    pub fn place(&mut self) -> State<'_> {
        self.kept.place()
    }

    /// Add to a counter; exactly, in a plugin that touches.
    pub fn count(&mut self, counter: u32, n: u64) {
        self.kept.count(counter, n)
    }

    /// A packet of the plugin's own: `len` zero bytes, which leave with that verdict before this one.
    pub fn emit(&mut self, verdict: u16, len: u32) -> Option<&mut [u8]> {
        self.kept.emit(verdict, len)
    }
}

/// What a plugin is. Constants are 0 or none where they are not given.
pub trait Plugin: Sized + 'static {
    const REWRITES: u16 = 0;
    const STATE_SIZE: u32 = 0;
    const BUCKET_STATE_SIZE: u32 = 0;
    const STATE_VERSION: u32 = 0;
    const EMITS: u32 = 0;
    const NEEDS: u32 = 0;
    /// Microseconds between two ticks of the worker, and of each bucket with state.
    const TICK_US: u32 = 0;
    const BUCKET_TICK_US: u32 = 0;
    /// `migrate` and `bucket_migrate` are there; without them a rollout refuses to forget state.
    const MIGRATES: bool = false;
    /// Whether `control` is there for an operator's words.
    const CONTROL: bool = false;

    /// Err: why the worker must not start.
    fn init(env: &Env) -> Result<Self, &'static str>;

    /// The packet's verdict.
    fn packet(&mut self, env: &Env, packet: &mut Packet) -> u16;

    /// Time has passed, for this worker: every `TICK_US`.
    fn tick(&mut self, _env: &Env, _tick: &mut Tick) {}

    /// Time has passed, for this bucket: every `BUCKET_TICK_US`.
    fn bucket_tick(&mut self, _env: &Env, _bucket: u32, _tick: &mut Tick) {}

    /// Make of a block of another `STATE_VERSION` the bytes of a new one, which are zero at first.
    /// false: this plugin does not know that version.
    fn migrate(_old: &[u8], _version: u32, _fresh: &mut [u8]) -> bool {
        false
    }

    /// Likewise, of a bucket's block.
    fn bucket_migrate(_old: &[u8], _version: u32, _fresh: &mut [u8]) -> bool {
        false
    }
    /// What an operator says with `dpsup tell`, between two bursts: see dpsup_plugin.h.
    fn control(&mut self, _env: &Env, _text: &[u8]) {}
}

/// The plugin of this process, in a static of the shared object: no allocator is needed.
pub struct Host<P> {
    plugin: core::cell::UnsafeCell<Option<P>>,
    env: core::cell::UnsafeCell<Env>,
}

unsafe impl<P> Sync for Host<P> {}

impl<P: Plugin> Host<P> {
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Host {
            plugin: core::cell::UnsafeCell::new(None),
            env: core::cell::UnsafeCell::new(Env { raw: core::ptr::null() }),
        }
    }

    /// # Safety
    /// From a worker's init alone.
    pub unsafe fn init(&self, env: *const dps_env) -> i32 {
        (*self.env.get()).raw = env;
        match P::init(&*self.env.get()) {
            Ok(plugin) => {
                *self.plugin.get() = Some(plugin);
                0
            }
            Err(why) => {
                let raw = &*env;
                let n = core::cmp::min(why.len(), (raw.error_len as usize).saturating_sub(1));
                core::ptr::copy_nonoverlapping(why.as_ptr(), raw.error as *mut u8, n);
                *raw.error.add(n) = 0;
                -1
            }
        }
    }

    /// # Safety
    /// From a worker's packet alone, after init.
    pub unsafe fn packet(&self, packet: *mut dps_packet) -> u16 {
        let env = &*self.env.get();
        let raw = &mut *packet;
        let end = raw.data.add(core::cmp::min(raw.len, P::REWRITES as u32) as usize);
        let kept = Tick::of::<P>(env, raw.bucket_state);
        let mut packet = Packet { raw, end, kept };
        match &mut *self.plugin.get() {
            Some(plugin) => plugin.packet(env, &mut packet),
            None => 0x3000,
        }
    }

    /// # Safety
    /// From a worker's tick alone, after init.
    pub unsafe fn tick(&self) {
        let env = &*self.env.get();
        if let Some(plugin) = &mut *self.plugin.get() {
            plugin.tick(env, &mut Tick::of::<P>(env, core::ptr::null_mut()));
        }
    }

    /// # Safety
    /// From a worker's control alone, after init.
    pub unsafe fn control(&self, text: *const c_char, len: u32) {
        if let Some(plugin) = &mut *self.plugin.get() {
            plugin.control(&*self.env.get(), core::slice::from_raw_parts(text, len as usize));
        }
    }

    /// # Safety
    /// From a worker's bucket_tick alone, after init.
    pub unsafe fn bucket_tick(&self, bucket: u32, bucket_state: *mut c_void) {
        let env = &*self.env.get();
        if let Some(plugin) = &mut *self.plugin.get() {
            plugin.bucket_tick(env, bucket, &mut Tick::of::<P>(env, bucket_state));
        }
    }

    /// # Safety
    /// From a worker's migrate alone: blocks of that many bytes.
    pub unsafe fn migrate(old: *const c_void, len: u32, version: u32, fresh: *mut c_void) -> i32 {
        let old = core::slice::from_raw_parts(old as *const u8, len as usize);
        let fresh = core::slice::from_raw_parts_mut(fresh as *mut u8, P::STATE_SIZE as usize);
        P::migrate(old, version, fresh) as i32 - 1
    }

    /// # Safety
    /// Likewise, from bucket_migrate.
    pub unsafe fn bucket_migrate(old: *const c_void, len: u32, version: u32, fresh: *mut c_void) -> i32 {
        let old = core::slice::from_raw_parts(old as *const u8, len as usize);
        let fresh = core::slice::from_raw_parts_mut(fresh as *mut u8, P::BUCKET_STATE_SIZE as usize);
        P::bucket_migrate(old, version, fresh) as i32 - 1
    }
}

/// C texts, NULL at the end.
#[repr(transparent)]
pub struct Names<const N: usize>(pub [*const c_char; N]);
unsafe impl<const N: usize> Sync for Names<N> {}

/// Exports the plugin: the one symbol that a worker looks for.
#[macro_export]
macro_rules! dpsup_plugin {
    ($plugin:ty, $name:literal, reasons = [$($reason:literal),*], counters = [$($counter:literal),*]) => {
        static DPSUP_HOST: $crate::Host<$plugin> = $crate::Host::new();

        unsafe extern "C" fn dpsup_init(
            env: *const $crate::raw::dps_env,
            _: *mut *mut core::ffi::c_void,
        ) -> i32 {
            DPSUP_HOST.init(env)
        }

        unsafe extern "C" fn dpsup_packet(
            _: *mut core::ffi::c_void,
            packet: *mut $crate::raw::dps_packet,
        ) -> u16 {
            DPSUP_HOST.packet(packet)
        }

        unsafe extern "C" fn dpsup_tick(_: *mut core::ffi::c_void) {
            DPSUP_HOST.tick()
        }

        unsafe extern "C" fn dpsup_control(
            _state: *mut core::ffi::c_void,
            text: *const $crate::raw::c_char,
            len: u32,
        ) {
            DPSUP_HOST.control(text, len)
        }

        unsafe extern "C" fn dpsup_bucket_tick(
            _: *mut core::ffi::c_void,
            bucket: u32,
            bucket_state: *mut core::ffi::c_void,
        ) {
            DPSUP_HOST.bucket_tick(bucket, bucket_state)
        }

        unsafe extern "C" fn dpsup_migrate(
            old: *const core::ffi::c_void,
            len: u32,
            version: u32,
            fresh: *mut core::ffi::c_void,
        ) -> i32 {
            $crate::Host::<$plugin>::migrate(old, len, version, fresh)
        }

        unsafe extern "C" fn dpsup_bucket_migrate(
            old: *const core::ffi::c_void,
            len: u32,
            version: u32,
            fresh: *mut core::ffi::c_void,
        ) -> i32 {
            $crate::Host::<$plugin>::bucket_migrate(old, len, version, fresh)
        }

        static DPSUP_REASONS: $crate::raw::Names<{ 1 $(+ { let _ = $reason; 1 })* }> =
            $crate::raw::Names([
                $(concat!($reason, "\0").as_ptr() as *const $crate::raw::c_char,)*
                core::ptr::null(),
            ]);
        static DPSUP_COUNTERS: $crate::raw::Names<{ 1 $(+ { let _ = $counter; 1 })* }> =
            $crate::raw::Names([
                $(concat!($counter, "\0").as_ptr() as *const $crate::raw::c_char,)*
                core::ptr::null(),
            ]);

        #[no_mangle]
        #[used]
        #[allow(non_upper_case_globals)]
        pub static dps_plugin: $crate::raw::dps_plugin = $crate::raw::dps_plugin {
            abi: $crate::raw::DPS_PLUGIN_ABI,
            size: core::mem::size_of::<$crate::raw::dps_plugin>() as u32,
            name: concat!($name, "\0").as_ptr() as *const $crate::raw::c_char,
            needs: <$plugin as $crate::Plugin>::NEEDS,
            rewrites: <$plugin as $crate::Plugin>::REWRITES,
            prepends: 0,
            reasons: DPSUP_REASONS.0.as_ptr(),
            counters: DPSUP_COUNTERS.0.as_ptr(),
            init: Some(dpsup_init),
            packet: Some(dpsup_packet),
            fini: None,
            state_size: <$plugin as $crate::Plugin>::STATE_SIZE,
            bucket_state_size: <$plugin as $crate::Plugin>::BUCKET_STATE_SIZE,
            state_version: <$plugin as $crate::Plugin>::STATE_VERSION,
            emits: <$plugin as $crate::Plugin>::EMITS,
            seated: None,
            look: None,
            policy: 0,
            gauges: 0,
            tick_us: <$plugin as $crate::Plugin>::TICK_US,
            bucket_tick_us: <$plugin as $crate::Plugin>::BUCKET_TICK_US,
            tick: if <$plugin as $crate::Plugin>::TICK_US > 0 { Some(dpsup_tick) } else { None },
            bucket_tick: if <$plugin as $crate::Plugin>::BUCKET_TICK_US > 0 {
                Some(dpsup_bucket_tick)
            } else {
                None
            },
            migrate: if <$plugin as $crate::Plugin>::MIGRATES { Some(dpsup_migrate) } else { None },
            bucket_migrate: if <$plugin as $crate::Plugin>::MIGRATES {
                Some(dpsup_bucket_migrate)
            } else {
                None
            },
            control: if <$plugin as $crate::Plugin>::CONTROL { Some(dpsup_control) } else { None },
            table_apply: None,
            table_layout: 0,
            pad: 0,
        };
    };
}
