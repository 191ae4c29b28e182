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
//!  (one look-up a record) by subject    every 5 s    in memory    batches            process
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
//! - **D3** sled opens only files that it left itself, whole, and must find as many devices in them as it
//!   said it left ([`seal`]). Else they are removed.
//! - **D4** After an error or a panic of sled its files are removed and all devices written anew from
//!   memory, after a pause that grows from nothing to an hour. So they are where its process ended.
//! - **D5** With little space left on the disk nothing is written: the log needs it more.
//!
//! What a crash takes with it is what was not written yet: five minutes, or with many devices more
//! ([`Pacing`]). A power cut may take all. Where sled hangs the registry's thread waits for it, shown as
//! `stuck`: tables are then collected when the status is asked for, and the rest goes on without it.

mod collect;
mod devices;
mod figures;
#[cfg(feature = "registry")]
mod keeper;
#[cfg(feature = "registry")]
pub(crate) mod process;
#[cfg(feature = "registry")]
mod seal;
mod seen;
mod status;
#[cfg(feature = "registry")]
mod store;
#[cfg(all(test, feature = "registry"))]
mod tests;
#[cfg(feature = "registry")]
mod wire;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use collect::Collector;
use devices::Devices;
pub use devices::{DeviceView, LinkPosition};
pub use figures::RegistryFigures;
#[cfg(feature = "registry")]
use keeper::{Keeper, Pacing};
#[cfg(feature = "registry")]
use process::ProcessPlace;
use seen::Table;
pub use seen::Watch;
pub use status::{Condition, StoreStatus};
#[cfg(feature = "registry")]
use store::Place;

use crate::forwarder::route::Router;
use crate::record::SourceName;

/// How long after the first record of a quiet time tables are collected.
const COLLECT_INTERVAL: Duration = Duration::from_secs(5);
/// How long closing waits for sled.
const CLOSE_MAX: Duration = Duration::from_millis(if cfg!(test) { 500 } else { 3000 });

/// The registry and its thread. Dropping it closes it.
#[derive(Debug)]
pub struct Registry {
    shared: Arc<Shared>,
    /// Says that the thread has ended.
    ended: Option<Receiver<()>>,
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
    #[cfg(feature = "registry")]
    pub fn start(dir: PathBuf, router: Router, figures: RegistryFigures) -> Self {
        let place = Box::new(ProcessPlace::new(dir));
        Self::with(place, Pacing::default(), router, figures)
    }

    /// Starts a registry that lives in memory: its copy on disk is left out.
    #[must_use]
    #[cfg(not(feature = "registry"))]
    pub fn start(_: PathBuf, router: Router, figures: RegistryFigures) -> Self {
        Self::spawn(
            router,
            figures,
            |mut collecting| {
                while !collecting.sleep(Duration::MAX) {}
            },
        )
    }

    #[cfg(feature = "registry")]
    fn with(
        place: Box<dyn Place>,
        pacing: Pacing,
        router: Router,
        figures: RegistryFigures,
    ) -> Self {
        Self::spawn(router, figures, move |collecting| {
            Keeper::new(collecting, place, pacing).run();
        })
    }

    fn spawn(
        router: Router,
        figures: RegistryFigures,
        life: impl FnOnce(Collecting) + Send + 'static,
    ) -> Self {
        let (wake, woken) = sync_channel(1);
        let shared = Arc::new(Shared {
            devices: Mutex::new(Devices::new(figures.clone())),
            figures,
            collector: Mutex::new(Collector::new(router)),
            store: Mutex::new(StoreStatus::off()),
            stopping: AtomicBool::new(false),
            wake,
        });
        let collecting = Collecting {
            shared: Arc::clone(&shared),
            woken,
            due: None,
        };
        let (ended, is_ended) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("registry".to_owned())
            .spawn(move || {
                life(collecting);
                // Nobody may be waiting any more.
                let _ = ended.try_send(());
            });
        if let Err(error) = &thread {
            tracing::warn!(%error, "no thread for the device registry");
        }
        Self {
            shared,
            ended: thread.ok().map(|_thread| is_ended),
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

    /// Writes what is not written yet and ends the thread. Blocks for a few seconds at most: one that
    /// waits for a store that hangs is left behind.
    pub fn close(&mut self) {
        self.shared.collect();
        self.shared.stopping.store(true, Ordering::Release);
        // Full means that a message is there already.
        let _ = self.shared.wake.try_send(());
        if let Some(ended) = self.ended.take() {
            match ended.recv_timeout(CLOSE_MAX) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => {
                    tracing::warn!("the device registry's store hangs; left behind");
                }
                Err(RecvTimeoutError::Disconnected) => {
                    tracing::error!("the device registry's thread panicked");
                }
            }
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

/// What the registry's thread does while it has nothing else to do.
struct Collecting {
    shared: Arc<Shared>,
    woken: Receiver<()>,
    /// When tables are to be collected, once a source has something to tell: an idle gateway is not
    /// woken.
    due: Option<Instant>,
}

impl Collecting {
    /// Collects for so long; true if the registry is being closed.
    fn sleep(&mut self, time: Duration) -> bool {
        let end = Instant::now().checked_add(time);
        loop {
            if self.shared.stopping.load(Ordering::Acquire) {
                return true;
            }
            let now = Instant::now();
            if self.due.is_some_and(|due| due <= now) {
                self.due = None;
                self.shared.collect();
            }
            if end.is_some_and(|end| end <= now) {
                return false;
            }
            let woken = match end.into_iter().chain(self.due).min() {
                Some(until) => self
                    .woken
                    .recv_timeout(until.saturating_duration_since(now)),
                None => self.woken.recv().map_err(RecvTimeoutError::from),
            };
            if woken.is_ok() {
                self.due
                    .get_or_insert_with(|| Instant::now() + COLLECT_INTERVAL);
            }
        }
    }
}
