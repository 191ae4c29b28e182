//! Stores that panic, hang and fail on each of their calls.

use std::collections::{BTreeMap, HashMap};
use std::sync::Condvar;

use super::super::devices::{Change, Device};
use super::super::store::{Store, StoreError, StoredDevice};
use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Call {
    Open,
    Load,
    Write,
    Close,
    Drop,
    Clear,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Panic,
    Fail,
    Hang,
}

/// A store in memory; clones share it.
#[derive(Clone, Default)]
struct Fake(Arc<(Mutex<Disk>, Condvar)>);

#[derive(Default)]
struct Disk {
    /// What happens on a call, how many times more.
    faults: HashMap<Call, (Fault, u32)>,
    calls: HashMap<Call, u32>,
    stored: BTreeMap<String, Device>,
}

impl Fake {
    fn with(call: Call, fault: Fault, times: u32) -> Self {
        let fake = Self::default();
        fake.disk().faults.insert(call, (fault, times));
        fake
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        lock(&self.0.0)
    }

    fn calls(&self, call: Call) -> u32 {
        self.disk().calls.get(&call).copied().unwrap_or(0)
    }

    fn holds(&self, device: &str) -> bool {
        self.disk().stored.contains_key(&format!("press\0{device}"))
    }

    /// Ends all faults, and wakes what hangs.
    fn heal(&self) {
        self.disk().faults.clear();
        self.0.1.notify_all();
    }

    fn enter(&self, call: Call) -> Result<(), StoreError> {
        let mut disk = self.disk();
        *disk.calls.entry(call).or_default() += 1;
        let fault = match disk.faults.get_mut(&call) {
            Some((fault, times)) if *times > 0 => {
                *times -= 1;
                *fault
            }
            Some(_) | None => return Ok(()),
        };
        match fault {
            Fault::Panic => {
                drop(disk);
                panic!("injected into {call:?}");
            }
            Fault::Fail => Err(StoreError::Damaged),
            Fault::Hang => {
                while disk.faults.contains_key(&call) {
                    disk = self.0.1.wait(disk).unwrap_or_else(PoisonError::into_inner);
                }
                Ok(())
            }
        }
    }
}

impl Place for Fake {
    fn open(&mut self) -> Result<Box<dyn Store>, StoreError> {
        self.enter(Call::Open)?;
        Ok(Box::new(OpenFake(self.clone())))
    }

    fn clear(&mut self) -> Result<(), StoreError> {
        self.enter(Call::Clear)?;
        self.disk().stored.clear();
        Ok(())
    }

    fn has_space(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

struct OpenFake(Fake);

impl Drop for OpenFake {
    fn drop(&mut self) {
        let _ = self.0.enter(Call::Drop);
    }
}

impl Store for OpenFake {
    fn load(&mut self, take: &mut dyn FnMut(&mut Vec<StoredDevice>)) -> Result<(), StoreError> {
        let stored = self.0.disk().stored.clone();
        for device in stored {
            take(&mut vec![device]);
        }
        self.0.enter(Call::Load)
    }

    fn write(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        self.0.enter(Call::Write)?;
        for (key, device) in changes {
            match device {
                Some(device) => self.0.disk().stored.insert(key.to_string(), *device),
                None => self.0.disk().stored.remove(&**key),
            };
        }
        Ok(())
    }

    fn close(self: Box<Self>, _sync: bool) -> Result<(), StoreError> {
        self.0.enter(Call::Close)
    }
}

#[test]
fn a_panic_or_an_error_in_any_call_begins_the_store_anew_with_all_devices() {
    for call in [Call::Open, Call::Load, Call::Write, Call::Close] {
        for (fault, reason) in [(Fault::Panic, "panic"), (Fault::Fail, "damaged")] {
            let fake = Fake::with(call, fault, 3);
            let fixture = Fixture::start(fake.clone());
            fixture.hear("1");
            until("the device to be stored", || {
                fixture.snapshot();
                fake.holds("1") && fixture.condition() == Condition::Ready
            });
            // What could not be loaded is removed: there is nothing to load any more.
            let failures = if call == Call::Load { 1 } else { 3 };
            assert_eq!(fixture.resets(reason), failures, "{call:?}");
            assert_eq!(
                fake.calls(Call::Clear),
                u32::try_from(failures).expect("few")
            );
            assert_eq!(
                fixture.records_of("1"),
                1,
                "counted once, {call:?} {fault:?}"
            );
        }
    }
}

#[test]
fn a_panic_at_the_end_does_not_reach_the_gateway() {
    for call in [Call::Write, Call::Close, Call::Drop] {
        let fake = Fake::default();
        let mut fixture = Fixture::start_paced(fake.clone(), Pacing::default());
        fixture.wait_for(Condition::Ready);
        fixture.hear("1");
        fake.disk().faults.insert(call, (Fault::Panic, 1));
        fixture.registry.close();
        assert_eq!(fixture.condition(), Condition::Off, "{call:?}");
    }
}

#[test]
fn while_the_store_hangs_sources_and_status_go_on() {
    for call in [Call::Open, Call::Load, Call::Write, Call::Close] {
        let fake = Fake::with(call, Fault::Hang, 1);
        let mut fixture = Fixture::start(fake.clone());
        fixture.hear("0");
        fixture.snapshot();
        fixture.wait_for(Condition::Stuck);
        for device in 0..40 {
            fixture.hear(&device.to_string());
        }
        assert_eq!(fixture.snapshot().count, 40, "{call:?}");
        if call == Call::Write {
            // It comes back: as if nothing had been.
            fake.heal();
            until("all devices to be stored", || {
                fake.disk().stored.len() == 40
            });
            assert_eq!(fixture.resets("panic"), 0);
        } else {
            let begun = Instant::now();
            fixture.registry.close();
            assert!(begun.elapsed() < PATIENCE, "left behind");
            fake.heal();
        }
    }
}

#[test]
fn a_store_that_always_fails_is_tried_less_and_less_often() {
    let fake = Fake::with(Call::Open, Fault::Panic, u32::MAX);
    let pacing = Pacing {
        retry_max: Duration::from_secs(3600),
        ..EAGER
    };
    let fixture = Fixture::start_paced(fake.clone(), pacing);
    fixture.hear("1");
    until("some tries", || {
        fixture.snapshot();
        fake.calls(Call::Open) >= 5
    });
    fixture.wait_for(Condition::Waiting);
    let snapshot = fixture.snapshot();
    assert_eq!(snapshot.count, 1, "it lives in memory");
    let error = snapshot.store.last_error.expect("why it waits");
    assert_eq!(error, "the store panicked on open");
}

#[test]
fn what_could_not_be_removed_is_not_counted_again() {
    let fake = Fake::default();
    let fixture = Fixture::start(fake.clone());
    fixture.hear("1");
    until("the device to be stored", || {
        fixture.snapshot();
        fake.holds("1")
    });
    fake.disk().faults.insert(Call::Clear, (Fault::Fail, 2));
    fake.disk().faults.insert(Call::Write, (Fault::Fail, 1));
    fixture.hear("1");
    until("a new beginning", || {
        fixture.snapshot();
        fake.calls(Call::Clear) == 3 && fixture.condition() == Condition::Ready
    });
    assert_eq!(fixture.records_of("1"), 2);
    assert_eq!(fake.calls(Call::Load), 1);
}

#[test]
fn the_store_is_open_only_while_it_is_read_or_written() {
    let fake = Fake::default();
    let fixture = Fixture::start(fake.clone());
    fixture.hear("1");
    until("the device to be stored", || {
        fixture.snapshot();
        fake.holds("1") && fixture.condition() == Condition::Ready
    });
    let opened = fake.calls(Call::Open);
    assert_eq!(
        (opened, fake.calls(Call::Close)),
        (2, 2),
        "to load, to write"
    );
    fixture.snapshot();
    drop(fixture);
    assert_eq!(fake.calls(Call::Open), opened, "there was nothing to write");
}
