//! Tells the program when it was built: a clock before that is wrong. `SOURCE_DATE_EPOCH` makes the
//! build reproducible. Tells it the switches, too, with which it was built.

use std::time::{SystemTime, UNIX_EPOCH};

/// Those that say what is in, in the order of `Cargo.toml`.
const SWITCHES: [&str; 8] = [
    "serial",
    "modbus",
    "mqtt",
    "tls",
    "registry",
    "http-page",
    "documents",
    "progress-bar",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let told = std::env::var("SOURCE_DATE_EPOCH").ok();
    let seconds = told.and_then(|text| text.parse().ok()).unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(0, |now| now.as_secs())
    });
    println!("cargo:rustc-env=EDGE_GATEWAY_BUILT={seconds}");
    let is_on = |switch: &&str| {
        let name = switch.to_uppercase().replace('-', "_");
        std::env::var_os(format!("CARGO_FEATURE_{name}")).is_some()
    };
    let on: Vec<&str> = SWITCHES.into_iter().filter(is_on).collect();
    println!("cargo:rustc-env=EDGE_GATEWAY_SWITCHES={}", on.join(" "));
}
