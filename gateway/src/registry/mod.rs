//! The devices seen: when first and last, how much, and where their link is. For people to look at.
//!
//! Nothing rests on it: it may be gone at any time, and begins anew. It is kept in sled, which
//! syncs nothing by itself, never shrinks its file, and may panic, hang or fail on a damaged file or
//! a full disk; it also has seven threads that never end and wake once a second each. So the truth is in
//! memory, sled is a copy of it, opened in a process of its own ([`process`]) while it is read or
//! written, and nothing that sled does reaches a record.
//!
//! ```text
//!  sources ── note() ──▶ a table each ── collect ──▶ devices ◀── load, ── keeper ──▶ sled, in a
//!  (one look-up a record) by subject    every 5 s    in memory    batches  thread    process
//!                                          ▲             └──▶ /api/status
//!                                     route → device
//! ```
//!
//! It is told of a record when the log has taken it, not by the forwarder: that stands still while
//! Kafka is away, which is when people want to know whether a device still sends, and reads records
//! again after a restart, which would count them twice. The device's name costs a look at the
//! routes, so it is found once for each subject and collection, not for each record.
//!
//! - **D1** A source never waits for the disk: its table's lock is held for one look-up, or to swap
//!   the table for an empty one. No lock of this module is held while sled works.
//! - **D2** Memory is bounded: subjects and bytes a table, devices, bytes a name. What doesn't fit is
//!   counted: an update dropped, or the device unseen for longest evicted.
//! - **D3** sled opens only files that it left itself, whole ([`seal`]). Else they are removed.
//! - **D4** After an error or a panic of sled its files are removed and all devices written anew from
//!   memory, after a pause that grows from nothing to an hour. So they are where its process ended.
//! - **D5** With little space left on the disk nothing is written: the log needs it more.
//!
//! What a crash takes with it is what was not written yet: five minutes, or with many devices more
//! ([`Pacing`]). A power cut may take all. Where sled hangs the keeper's thread waits for it, shown as
//! `stuck`; the rest goes on without it.

mod collect;
mod devices;
mod figures;
mod keeper;
pub(crate) mod process;
mod seal;
mod seen;
mod store;
#[cfg(test)]
mod tests;
mod wire;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use collect::Collector;
use devices::Devices;
pub use devices::{DeviceView, LinkPosition};
pub use figures::RegistryFigures;
pub use keeper::{Condition, StoreStatus};
use keeper::{Keeper, Pacing};
use process::ProcessPlace;
use seen::Table;
pub use seen::Watch;
use store::Place;

use crate::forwarder::route::Router;
use crate::record::SourceName;

/// How long after the first record of a quiet time tables are collected.
const COLLECT_INTERVAL: Duration = Duration::from_secs(5);
/// How long closing waits for sled.
const CLOSE_MAX: Duration = Duration::from_millis(if cfg!(test) { 500 } else { 3000 });

/// The registry and its two threads. Dropping it closes it.
#[derive(Debug)]
pub struct Registry {
    shared: Arc<Shared>,
    collector: Option<JoinHandle<()>>,
    keeper: Option<Receiver<()>>,
    stop_keeper: SyncSender<()>,
}

/// What threads, sources and status share.
#[derive(Debug)]
struct Shared {
    figures: RegistryFigures,
    collector: Mutex<Collector>,
    devices: Mutex<Devices>,
    store: Mutex<StoreStatus>,
    stopping: AtomicBool,
    wake: SyncSender<()>,
}

/// A look at the registry, for the status. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RegistryView(Arc<Shared>);

/// The registry at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Devices known.
    pub count: usize,
    /// Some of them, the last seen first.
    pub devices: Vec<DeviceView>,
    /// How the copy on disk is.
    pub store: StoreStatus,
}

/// Locks; a panic elsewhere leaves figures for people, which are fit to be read on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// Starts a registry whose copy lies in `dir`; devices are named by `router`. It never fails:
    /// without a thread or a disk it lives in memory.
    #[must_use]
    pub fn start(dir: PathBuf, router: Router, figures: RegistryFigures) -> Self {
        let place = Box::new(ProcessPlace::new(dir));
        Self::with(place, Pacing::default(), router, figures)
    }

    fn with(
        place: Box<dyn Place>,
        pacing: Pacing,
        router: Router,
        figures: RegistryFigures,
    ) -> Self {
        let (wake, woken) = sync_channel(1);
        let (stop_keeper, stopped) = sync_channel(1);
        let shared = Arc::new(Shared {
            devices: Mutex::new(Devices::new(figures.clone())),
            figures,
            collector: Mutex::new(Collector::new(router)),
            store: Mutex::new(StoreStatus::opening()),
            stopping: AtomicBool::new(false),
            wake,
        });
        let for_collector = Arc::clone(&shared);
        let collector = spawn("registry", move || {
            collect_until_stopped(&for_collector, &woken)
        });
        let (ended, keeper_ended) = sync_channel(1);
        let keeper = Keeper::new(Arc::clone(&shared), place, pacing, stopped);
        let keeper = spawn("registry-store", move || {
            keeper.run();
            // Nobody may be waiting any more.
            let _ = ended.try_send(());
        });
        if keeper.is_none() {
            lock(&shared.store).becomes(Condition::Off, Some("no thread".to_owned()));
        }
        Self {
            shared,
            collector,
            keeper: keeper.map(|_thread| keeper_ended),
            stop_keeper,
        }
    }

    /// What a source tells of its records.
    #[must_use]
    pub fn watch(&self, source: &SourceName) -> Watch {
        let shared = &self.shared;
        let dropped = shared.figures.updates_dropped.clone();
        let table = Arc::new(Table::new(source.clone(), shared.wake.clone(), dropped));
        lock(&shared.collector).add(Arc::clone(&table));
        Watch::new(table)
    }

    /// For the status.
    #[must_use]
    pub fn view(&self) -> RegistryView {
        RegistryView(Arc::clone(&self.shared))
    }

    /// Writes what is not written yet and ends the threads. Blocks for a few seconds at most: a
    /// thread that hangs in sled is left behind.
    pub fn close(&mut self) {
        self.shared.collect();
        self.shared.stopping.store(true, Ordering::Release);
        // Full means that a message is there already.
        let _ = self.shared.wake.try_send(());
        let _ = self.stop_keeper.try_send(());
        if let Some(collector) = self.collector.take()
            && collector.join().is_err()
        {
            tracing::error!("the device registry's thread panicked");
        }
        if let Some(ended) = self.keeper.take()
            && ended.recv_timeout(CLOSE_MAX) == Err(RecvTimeoutError::Timeout)
        {
            tracing::warn!("the device registry's store hangs; left behind");
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.close();
    }
}

impl RegistryView {
    /// The devices last seen, without the first `skip`, at most `limit`; collected this moment.
    #[must_use]
    pub fn snapshot(&self, skip: usize, limit: usize) -> Snapshot {
        self.0.collect();
        let store = lock(&self.0.store).clone();
        let devices = lock(&self.0.devices);
        Snapshot {
            count: devices.len(),
            devices: devices.newest(skip, limit),
            store,
        }
    }
}

impl Shared {
    fn collect(&self) {
        lock(&self.collector).collect(&self.devices);
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Option<JoinHandle<()>> {
    let thread = std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body);
    thread
        .inspect_err(|error| tracing::warn!(%error, name, "no thread for the device registry"))
        .ok()
}

/// Sleeps until a source has something to tell: an idle gateway is not woken.
fn collect_until_stopped(shared: &Shared, woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        let due = Instant::now() + COLLECT_INTERVAL;
        while !shared.stopping.load(Ordering::Acquire) {
            let left = due.saturating_duration_since(Instant::now());
            if woken.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
                break;
            }
        }
        shared.collect();
        if shared.stopping.load(Ordering::Acquire) {
            return;
        }
    }
}
