//! The registry's own metrics.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::metrics::ReasonLabel;

pub(super) type Count = Counter<u64, AtomicU64>;

/// Figures of the device registry. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct RegistryFigures {
    /// Devices known.
    pub devices: Gauge<i64, AtomicI64>,
    /// Devices forgotten, the one unseen for longest first, because there are too many.
    pub evicted: Count,
    /// Updates that found no room, or whose device has too long a name.
    pub updates_dropped: Count,
    /// How often the copy on disk was removed to begin anew, by reason.
    pub resets: Family<ReasonLabel, Count>,
}

impl RegistryFigures {
    /// Adds the figures to what is exported.
    pub fn register(&self, to: &mut prometheus_client::registry::Registry) {
        to.register(
            "registry_devices",
            "Devices the registry knows",
            self.devices.clone(),
        );
        to.register(
            "registry_devices_evicted",
            "Devices the registry forgot because there are too many",
            self.evicted.clone(),
        );
        to.register(
            "registry_updates_dropped",
            "Updates of devices that found no room in the registry",
            self.updates_dropped.clone(),
        );
        to.register(
            "registry_resets",
            "Times the registry's copy on disk was removed to begin anew",
            self.resets.clone(),
        );
    }

    pub(super) fn reset(&self, reason: &str) {
        let label = ReasonLabel {
            reason: reason.to_owned(),
        };
        self.resets.get_or_create(&label).inc();
    }
}
