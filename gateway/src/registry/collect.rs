//! From the sources' tables to devices: names each subject's device by the routes.

use std::sync::{Arc, Mutex};

use super::devices::Devices;
use super::lock;
use super::seen::{Seen, Table};
use crate::forwarder::route::{Routed, Router};
use crate::record::{Offset, PayloadKind, RecordView, Stamp};

/// See the module. Held by one thread at a time, so that tables are applied in order.
#[derive(Debug)]
pub(super) struct Collector {
    router: Router,
    routed: Routed,
    tables: Vec<Arc<Table>>,
}

impl Collector {
    pub(super) fn new(router: Router) -> Self {
        Self {
            router,
            routed: Routed::default(),
            tables: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, table: Arc<Table>) {
        self.tables.push(table);
    }

    pub(super) fn collect(&mut self, devices: &Mutex<Devices>) {
        for table in &self.tables {
            let taken = table.take();
            if taken.is_empty() {
                continue;
            }
            let source = table.source.as_str();
            let mut devices = lock(devices);
            for (subject, seen) in &taken {
                let record = record(source, subject, seen);
                let device = self.router.device(&record, &mut self.routed);
                devices.note(source, device, seen);
            }
        }
    }
}

/// As much of a record as routes look at.
fn record<'a>(source: &'a str, subject: &'a str, seen: &Seen) -> RecordView<'a> {
    RecordView {
        offset: Offset::ZERO,
        source,
        subject,
        kind: PayloadKind::Opaque,
        origin: seen.origin,
        received: Stamp::default(),
        boot_id: 0,
        payload: b"",
    }
}
