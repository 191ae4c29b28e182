//! What the registry's thread does with the store: opens it, loads it, writes to it, and begins it anew.
//!
//! Every call of it is made here, in a `catch_unwind`, with no lock held. It is open only while
//! there is something to read or write: an open one costs threads, wake-ups and memory.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::status::Condition;
use super::store::{Place, Store, StoreError};
use super::{Collecting, Shared, lock};
use crate::cli::chain;

/// Devices read or written at once: memory and the time the devices are locked.
pub(super) const BATCH_DEVICES: usize = 256;
/// How often the store is written, and tried again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pacing {
    /// Shortest time between two writes: what a crash takes with it.
    pub(super) write_interval: Duration,
    /// For each device written the next write waits as long, so that many of them do not wear out
    /// the flash: sled writes 200 to 300 bytes for each (measured with batches of 100 to 10,000),
    /// which makes 260 MB a day at most.
    pub(super) write_interval_per_device: Duration,
    /// First wait before the store is begun anew, after a failure that is not the first.
    pub(super) retry_min: Duration,
    /// Longest wait; also the time after which a failure counts as the first again.
    pub(super) retry_max: Duration,
}

impl Default for Pacing {
    fn default() -> Self {
        Self {
            write_interval: Duration::from_secs(300),
            write_interval_per_device: Duration::from_millis(100),
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(3600),
        }
    }
}

/// See the module.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    collecting: Collecting,
    place: Box<dyn Place>,
    pacing: Pacing,
    retry: Duration,
    /// Memory holds what the store did: it must not be loaded again, which would count it twice.
    is_loaded: bool,
    /// What is there could not be removed after a failure. It must not be written to.
    must_clear: bool,
    /// There was too little disk space, which was said.
    is_starved: bool,
}

impl Keeper {
    pub(super) fn new(collecting: Collecting, place: Box<dyn Place>, pacing: Pacing) -> Self {
        Self {
            shared: Arc::clone(&collecting.shared),
            collecting,
            place,
            pacing,
            retry: Duration::ZERO,
            is_loaded: false,
            must_clear: false,
            is_starved: false,
        }
    }

    /// Runs until the registry is closed.
    pub(super) fn run(mut self) {
        loop {
            let begun = Instant::now();
            let Err(error) = self.serve() else {
                break;
            };
            if begun.elapsed() >= self.pacing.retry_max {
                self.retry = Duration::ZERO;
            }
            let wait = self.failed(error);
            if self.collecting.sleep(wait) {
                break;
            }
        }
        self.becomes(Condition::Off);
    }

    /// Until the registry's end, or the store's first error.
    fn serve(&mut self) -> Result<(), StoreError> {
        self.becomes(Condition::Opening);
        if self.must_clear {
            self.clear()?;
        }
        if !self.is_loaded {
            self.visit(false, load)?;
            self.is_loaded = true;
        }
        loop {
            let written = self.write(false)?;
            let count = u32::try_from(written).unwrap_or(u32::MAX);
            let pause = self.pacing.write_interval_per_device.saturating_mul(count);
            if self.collecting.sleep(pause.max(self.pacing.write_interval)) {
                return self.write(true).map(drop);
            }
        }
    }

    /// Opens the store, has `work` done with it, and closes it, synced if `sync` is set.
    fn visit<T>(
        &mut self,
        sync: bool,
        work: impl FnOnce(&Shared, &dyn Place, &mut dyn Store) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let place = &mut self.place;
        let mut store = guarded("open", || place.open())?;
        match work(&self.shared, &**place, &mut *store) {
            Ok(done) => guarded("close", || store.close(sync)).map(|()| done),
            Err(error) => {
                // Dropping it writes, and may fail as well.
                let _ = guarded("drop", || {
                    drop(store);
                    Ok(())
                });
                Err(error)
            }
        }
    }

    /// Writes what the store does not know yet, unless there is too little disk space. Returns how
    /// many devices that were.
    fn write(&mut self, sync: bool) -> Result<usize, StoreError> {
        if let Err(error) = has_space(&*self.place) {
            self.starved(error)?;
            return Ok(0);
        }
        self.is_starved = false;
        let mut written = 0;
        if lock(&self.shared.devices).has_unwritten() {
            self.becomes(Condition::Writing);
            written = self.visit(sync, write)?;
        }
        self.becomes(Condition::Ready);
        Ok(written)
    }

    /// Says once that space is missing; any other error is given back.
    fn starved(&mut self, error: StoreError) -> Result<(), StoreError> {
        let StoreError::NoSpace { .. } = error else {
            return Err(error);
        };
        let text = chain(&error);
        if !std::mem::replace(&mut self.is_starved, true) {
            tracing::warn!(error = text, "the device registry is not written for now");
        }
        lock(&self.shared.store).becomes(Condition::Waiting, Some(text));
        Ok(())
    }

    /// Makes the place ready for a new beginning. Returns how long to wait for it.
    fn failed(&mut self, error: StoreError) -> Duration {
        let Err(error) = self.starved(error) else {
            return self.pacing.write_interval;
        };
        let wait = self.retry;
        self.retry = (self.retry * 4).clamp(self.pacing.retry_min, self.pacing.retry_max);
        lock(&self.shared.devices).nothing_is_written();
        let text = chain(&error);
        lock(&self.shared.store).becomes(Condition::Waiting, Some(text.clone()));
        self.shared.figures.reset(error.reason());
        let wait_seconds = wait.as_secs();
        tracing::warn!(
            error = text,
            wait_seconds,
            "the device registry's copy on disk begins anew; delivery does not depend on it"
        );
        if let Err(error) = self.clear() {
            let text = chain(&error);
            tracing::warn!(
                error = text,
                "the device registry's files cannot be removed"
            );
            lock(&self.shared.store).becomes(Condition::Waiting, Some(text));
        }
        wait
    }

    fn clear(&mut self) -> Result<(), StoreError> {
        let place = &mut self.place;
        self.is_loaded = true;
        self.must_clear = true;
        guarded("clear", || place.clear())?;
        self.must_clear = false;
        Ok(())
    }

    fn becomes(&self, condition: Condition) {
        lock(&self.shared.store).becomes(condition, None);
    }
}

/// Gives all that the store holds to the devices.
fn load(shared: &Shared, _: &dyn Place, store: &mut dyn Store) -> Result<(), StoreError> {
    guarded("load", || {
        store.load(&mut |loaded| {
            let mut devices = lock(&shared.devices);
            for (key, device) in loaded.drain(..) {
                devices.recall(&key, device);
            }
        })
    })
}

/// Writes until the store knows all, or space gets scarce.
fn write(shared: &Shared, place: &dyn Place, store: &mut dyn Store) -> Result<usize, StoreError> {
    let mut written = 0;
    while has_space(place).is_ok() {
        let changes = lock(&shared.devices).take_unwritten(BATCH_DEVICES);
        if changes.is_empty() {
            break;
        }
        guarded("write", || store.write(&changes))?;
        written += changes.len();
    }
    Ok(written)
}

fn has_space(place: &dyn Place) -> Result<(), StoreError> {
    guarded("space", || place.has_space())
}

/// Calls the store; a panic becomes an error.
fn guarded<T>(
    what: &'static str,
    call: impl FnOnce() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or(Err(StoreError::Panicked(what)))
}
