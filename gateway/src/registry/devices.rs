//! All devices, in memory: the registry's truth.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::figures::RegistryFigures;
use super::seen::Seen;
use crate::record::Origin;

/// Devices kept. About 6 MB with names of 40 bytes; chosen by eye for a board of 512 MB.
const DEVICES_MAX: usize = if cfg!(test) { 64 } else { 32_768 };
/// Longest name of a device, with its source's before it.
pub(super) const KEY_BYTES_MAX: usize = 288;
/// Devices forgotten at once, so that looking for those unseen for longest is rare.
const EVICTED_AT_ONCE: usize = DEVICES_MAX / 16;

/// Where a link device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkPosition {
    /// Its address on the line.
    pub address: u8,
    /// Its last session.
    pub session: u16,
    /// Its last message in that session.
    pub sequence: u32,
}

/// What is known of one device, as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Device {
    first_ms: i64,
    last_ms: i64,
    records: u64,
    bytes: u64,
    link: Option<LinkPosition>,
}

/// One device, for the status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceView {
    /// The source it was heard through.
    pub source: String,
    /// Its name (DESIGN §4).
    pub device: String,
    /// First heard, in Unix milliseconds, as the clock was then.
    pub first_seen_ms: i64,
    /// Last heard, likewise.
    pub last_seen_ms: i64,
    /// Records taken from it, roughly: what a crash left unwritten is missing.
    pub records: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// For a device of the shim link.
    pub link: Option<LinkPosition>,
}

/// A device's new state for the store, or none if it was forgotten.
pub(super) type Change = (Arc<str>, Option<Device>);

/// What a store holds can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadDevice;

#[derive(Debug)]
struct Entry {
    device: Device,
    /// Its key is among the unwritten ones.
    is_unwritten: bool,
}

/// See the module. Keys are `<source> NUL <device>`.
#[derive(Debug)]
pub(super) struct Devices {
    by_key: HashMap<Arc<str>, Entry>,
    /// Keys of what the store does not know yet; one that is not in `by_key` was forgotten.
    unwritten: Vec<Arc<str>>,
    key: String,
    figures: RegistryFigures,
}

impl Device {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        serde_cbor::to_vec(&self).expect("numbers are always CBOR")
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, BadDevice> {
        serde_cbor::from_slice(bytes).map_err(|_| BadDevice)
    }

    fn of(seen: &Seen) -> Self {
        Self {
            first_ms: seen.first_ms,
            last_ms: seen.last_ms,
            records: seen.records,
            bytes: seen.bytes,
            link: link(seen.origin),
        }
    }

    /// Adds what came later. Which is later is not asked of the clock: it may have been wrong.
    fn add(&mut self, later: &Self) {
        self.last_ms = later.last_ms;
        self.records = self.records.saturating_add(later.records);
        self.bytes = self.bytes.saturating_add(later.bytes);
        self.link = later.link.or(self.link);
    }
}

fn link(origin: Origin) -> Option<LinkPosition> {
    match origin {
        Origin::Link {
            address,
            session,
            sequence,
            crc: _,
        } => Some(LinkPosition {
            address,
            session,
            sequence,
        }),
        Origin::Line | Origin::Mqtt { .. } => None,
    }
}

impl Devices {
    pub(super) fn new(figures: RegistryFigures) -> Self {
        Self {
            by_key: HashMap::new(),
            unwritten: Vec::new(),
            key: String::new(),
            figures,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Adds what a source has received from a device.
    pub(super) fn note(&mut self, source: &str, device: &str, seen: &Seen) {
        self.key.clear();
        self.key.push_str(source);
        self.key.push('\0');
        self.key.push_str(device);
        if self.key.len() > KEY_BYTES_MAX {
            self.figures.updates_dropped.inc_by(seen.records);
            return;
        }
        let news = Device::of(seen);
        match self.by_key.get_mut(self.key.as_str()) {
            Some(entry) => {
                entry.device.add(&news);
                if !entry.is_unwritten {
                    entry.is_unwritten = true;
                    self.tell_store(Arc::from(self.key.as_str()));
                }
            }
            None => {
                let key = Arc::from(self.key.as_str());
                self.make_room();
                self.insert(&key, news, true);
                self.tell_store(key);
            }
        }
    }

    /// Adds what the store knew from earlier runs. Devices of this run go first where there is no
    /// room for all.
    pub(super) fn recall(&mut self, key: &str, mut stored: Device) {
        if let Some(entry) = self.by_key.get_mut(key) {
            stored.add(&entry.device);
            entry.device = stored;
        } else if self.by_key.len() < DEVICES_MAX {
            self.insert(&Arc::from(key), stored, false);
        } else {
            self.figures.evicted.inc();
            self.tell_store(Arc::from(key));
        }
    }

    /// Lists a key as unwritten. While the store hangs, keys of forgotten devices would pile up:
    /// then they are dropped, and those devices come back at the next start.
    fn tell_store(&mut self, key: Arc<str>) {
        self.unwritten.push(key);
        if self.unwritten.len() > 2 * DEVICES_MAX {
            self.nothing_is_written();
        }
    }

    fn insert(&mut self, key: &Arc<str>, device: Device, is_unwritten: bool) {
        let entry = Entry {
            device,
            is_unwritten,
        };
        self.by_key.insert(Arc::clone(key), entry);
        self.count();
    }

    fn count(&self) {
        let devices = i64::try_from(self.by_key.len()).unwrap_or(i64::MAX);
        self.figures.devices.set(devices);
    }

    /// Forgets those unseen for longest if one more would be too many.
    fn make_room(&mut self) {
        if self.by_key.len() < DEVICES_MAX {
            return;
        }
        let mut times: Vec<i64> = self.by_key.values().map(|e| e.device.last_ms).collect();
        let (_, &mut limit, _) = times.select_nth_unstable(EVICTED_AT_ONCE - 1);
        let oldest = |(key, entry): (&Arc<str>, &Entry)| {
            (entry.device.last_ms <= limit).then(|| Arc::clone(key))
        };
        let evicted: Vec<Arc<str>> = self
            .by_key
            .iter()
            .filter_map(oldest)
            .take(EVICTED_AT_ONCE)
            .collect();
        for key in evicted {
            let entry = self.by_key.remove(&key).expect("it was found there");
            self.figures.evicted.inc();
            if !entry.is_unwritten {
                self.tell_store(key);
            }
        }
    }

    /// Whether there is anything that the store does not know yet.
    pub(super) fn has_unwritten(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// Takes up to `max` changes that the store does not know yet.
    pub(super) fn take_unwritten(&mut self, max: usize) -> Vec<Change> {
        let from = self.unwritten.len().saturating_sub(max);
        let keys = self.unwritten.drain(from..);
        let mut changes = Vec::with_capacity(keys.len());
        for key in keys {
            let entry = self.by_key.get_mut(&key);
            let device = entry.map(|entry| {
                entry.is_unwritten = false;
                entry.device
            });
            changes.push((key, device));
        }
        changes
    }

    /// The store is empty: it must be told everything.
    pub(super) fn nothing_is_written(&mut self) {
        self.unwritten.clear();
        for (key, entry) in &mut self.by_key {
            entry.is_unwritten = true;
            self.unwritten.push(Arc::clone(key));
        }
    }

    /// The last seen first, without the first `skip`, at most `limit`.
    pub(super) fn newest(&self, skip: usize, limit: usize) -> Vec<DeviceView> {
        let mut order: Vec<(i64, &str, &Device)> = self
            .by_key
            .iter()
            .map(|(key, entry)| (entry.device.last_ms, &**key, &entry.device))
            .collect();
        order.sort_unstable_by_key(|&(last_ms, key, _)| (std::cmp::Reverse(last_ms), key));
        let page = order.iter().skip(skip).take(limit);
        page.map(|(_, key, device)| view(key, device)).collect()
    }
}

fn view(key: &str, device: &Device) -> DeviceView {
    let (source, name) = key.split_once('\0').unwrap_or(("", key));
    DeviceView {
        source: source.to_owned(),
        device: name.to_owned(),
        first_seen_ms: device.first_ms,
        last_seen_ms: device.last_ms,
        records: device.records,
        bytes: device.bytes,
        link: device.link,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(at_ms: i64) -> Seen {
        Seen {
            first_ms: at_ms,
            last_ms: at_ms,
            records: 2,
            bytes: 10,
            origin: Origin::Line,
        }
    }

    fn names(devices: &Devices) -> Vec<String> {
        let views = devices.newest(0, usize::MAX);
        views.into_iter().map(|view| view.device).collect()
    }

    #[test]
    fn the_devices_unseen_for_longest_are_forgotten_and_the_store_is_told() {
        let figures = RegistryFigures::default();
        let mut devices = Devices::new(figures.clone());
        for at_ms in 0..DEVICES_MAX as i64 {
            devices.note("s", &at_ms.to_string(), &seen(at_ms));
        }
        assert_eq!(devices.take_unwritten(usize::MAX).len(), DEVICES_MAX);
        devices.note("s", "new", &seen(1000));
        assert_eq!(figures.evicted.get(), EVICTED_AT_ONCE as u64);
        assert_eq!(devices.len(), DEVICES_MAX - EVICTED_AT_ONCE + 1);
        assert_eq!(figures.devices.get(), devices.len() as i64);
        assert!(!names(&devices).contains(&"0".to_owned()));
        let changes = devices.take_unwritten(usize::MAX);
        let removed = changes.iter().filter(|(_, device)| device.is_none());
        assert_eq!(removed.count(), EVICTED_AT_ONCE);
        assert!(
            changes
                .iter()
                .any(|(key, device)| &**key == "s\0new" && device.is_some())
        );
    }

    #[test]
    fn what_a_hanging_store_is_to_be_told_is_bounded() {
        let mut devices = Devices::new(RegistryFigures::default());
        for at_ms in 0..100 * DEVICES_MAX as i64 {
            devices.note("s", &at_ms.to_string(), &seen(at_ms));
            assert!(devices.unwritten.len() <= 2 * DEVICES_MAX);
        }
        let told = devices.take_unwritten(usize::MAX);
        for view in devices.newest(0, usize::MAX) {
            let key = format!("s\0{}", view.device);
            assert!(
                told.iter().any(|(k, d)| **k == *key && d.is_some()),
                "{key}"
            );
        }
    }

    #[test]
    fn what_the_store_knew_comes_before_what_this_run_has_seen() {
        let mut devices = Devices::new(RegistryFigures::default());
        // A clock that was wrong when the device was first seen again.
        devices.note("s", "a", &seen(5));
        let stored = Device::of(&seen(1_000_000));
        devices.recall(
            "s\0a",
            Device::from_bytes(&stored.to_bytes()).expect("whole"),
        );
        let view = devices.newest(0, 9).remove(0);
        assert_eq!((view.first_seen_ms, view.last_seen_ms), (1_000_000, 5));
        assert_eq!((view.records, view.bytes), (4, 20));
    }

    #[test]
    fn a_name_too_long_is_counted_and_not_kept() {
        let figures = RegistryFigures::default();
        let mut devices = Devices::new(figures.clone());
        devices.note("s", &"x".repeat(KEY_BYTES_MAX), &seen(1));
        assert_eq!((devices.len(), figures.updates_dropped.get()), (0, 2));
    }

    #[test]
    fn pages_are_in_order_of_the_last_record() {
        let mut devices = Devices::new(RegistryFigures::default());
        for (name, at_ms) in [("b", 2), ("c", 3), ("a", 1), ("d", 4)] {
            devices.note("s", name, &seen(at_ms));
        }
        let page: Vec<String> = devices.newest(1, 2).into_iter().map(|v| v.device).collect();
        assert_eq!(page, ["c", "b"]);
    }
}
