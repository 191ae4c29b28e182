//! The registry with stores that fail in every way, and with sled's files damaged in every way.

mod damage;
mod disks;
mod faults;
mod process;

use std::time::{Duration, Instant};

use super::store::SledPlace;
use super::*;
use crate::forwarder::route::{Pattern, Route, Template};
use crate::metrics::ReasonLabel;
use crate::record::{NewRecord, Origin, PayloadKind, Stamp};

/// Longest wait for anything; reached only when something is broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// Writes and tries again at once.
const EAGER: Pacing = Pacing {
    write_interval: Duration::from_millis(5),
    write_interval_per_device: Duration::ZERO,
    retry_min: Duration::from_millis(1),
    retry_max: Duration::from_millis(50),
};

/// A registry under test, with one source.
struct Fixture {
    registry: Registry,
    watch: Watch,
    figures: RegistryFigures,
    source: SourceName,
}

impl Fixture {
    fn start(place: impl Place + 'static) -> Self {
        Self::start_paced(place, EAGER)
    }

    fn start_paced(place: impl Place + 'static, pacing: Pacing) -> Self {
        let figures = RegistryFigures::default();
        let pattern = Pattern::parse("city/+/{device}").expect("valid");
        let key = Template::parse("{device}", &[]).expect("valid");
        let router = Router::new(vec![Route::new(None, pattern)], "telemetry", key);
        let registry = Registry::with(Box::new(place), pacing, router, figures.clone());
        let source = SourceName::new("press").expect("valid");
        Self {
            watch: registry.watch(&source),
            registry,
            figures,
            source,
        }
    }

    fn note(&self, subject: &str, origin: Origin) {
        self.watch.note(&NewRecord {
            source: &self.source,
            subject,
            kind: PayloadKind::Opaque,
            origin,
            received: Stamp {
                wall_ms: 1_000,
                mono_ms: 1,
            },
            payload: b"12345",
        });
    }

    /// A record of a device on a line.
    fn hear(&self, device: &str) {
        self.note(&format!("press/{device}"), Origin::Line);
    }

    fn snapshot(&self) -> Snapshot {
        self.registry.view().snapshot(0, usize::MAX)
    }

    fn records_of(&self, device: &str) -> u64 {
        let devices = self.snapshot().devices;
        let found = devices.iter().find(|view| view.device == device);
        found.map_or(0, |view| view.records)
    }

    fn condition(&self) -> Condition {
        self.snapshot().store.condition()
    }

    fn wait_for(&self, condition: Condition) {
        until(&format!("{condition:?}"), || self.condition() == condition);
    }

    fn resets(&self, reason: &str) -> u64 {
        let reason = reason.to_owned();
        self.figures
            .resets
            .get_or_create(&ReasonLabel { reason })
            .get()
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn devices_are_named_by_routes_and_carry_counts_times_and_the_link() {
    let dir = tempfile::tempdir().expect("temp dir");
    let fixture = Fixture::start(SledPlace::new(dir.path().join("registry")));
    let mqtt = Origin::Mqtt {
        qos: 1,
        packet_id: 1,
        dup: false,
        settled: crate::record::Settled::default(),
    };
    fixture.note("city/north/a7", mqtt);
    fixture.note("city/south/a7", mqtt);
    fixture.note("elsewhere", mqtt);
    for sequence in 0..3 {
        let link = Origin::Link {
            address: 4,
            session: 9,
            sequence,
            crc: 0,
        };
        fixture.note("press/urn%2F4", link);
    }
    let snapshot = fixture.snapshot();
    let found = |device: &str| {
        let mut devices = snapshot.devices.iter();
        let view = devices.find(|view| view.device == device);
        view.unwrap_or_else(|| panic!("{device} in {snapshot:?}"))
    };
    assert_eq!(snapshot.count, 3);
    assert_eq!((found("a7").records, found("a7").bytes), (2, 10));
    assert_eq!(found("elsewhere").link, None);
    let link = found("urn/4").link.expect("a link device");
    assert_eq!((link.address, link.session, link.sequence), (4, 9, 2));
    assert_eq!(
        (found("urn/4").first_seen_ms, found("urn/4").last_seen_ms),
        (1000, 1000)
    );
}

#[test]
fn a_gap_is_no_message_of_a_device() {
    let dir = tempfile::tempdir().expect("temp dir");
    let fixture = Fixture::start(SledPlace::new(dir.path().join("registry")));
    fixture.watch.note(&NewRecord {
        source: &fixture.source,
        subject: "press/1",
        kind: PayloadKind::Gap,
        origin: Origin::Line,
        received: Stamp::default(),
        payload: b"",
    });
    assert_eq!(fixture.snapshot().count, 0);
}
