//! What the system tests and the demo are made of: real brokers and the real programs, each in a
//! process, a directory and on ports of its own, and an oracle that counts what arrived.
//!
//! Everything here panics where it cannot do its work, with the evidence in the message: its callers
//! are tests, and a test that goes on without its broker proves nothing. While a panic unwinds, the
//! guards end the processes, print the ends of their logs and remove their directories; where the test
//! itself is killed, a [`process`] watcher does so.
//!
//! | module | what |
//! |---|---|
//! | [`kafka`] | Apache Kafka, a single KRaft node |
//! | [`mock_kafka`] | librdkafka's mock cluster in a process of its own |
//! | [`mosquitto`] | Debian's Mosquitto |
//! | [`packet_gate`] | a TCP proxy that withholds chosen MQTT packets |
//! | [`mqtt_client`] | an MQTT publisher for payloads that no sensor sends |
//! | [`modbus`] | Modbus units that do as a test says |
//! | [`pty`] | a serial line that a test writes to byte by byte |
//! | [`mount`] | an ext4 file system of its own |
//! | [`fault_disk`] | a disk that forgets what is not synced when its power fails |
//! | [`random`] | chance that can be had again |
//! | [`board`] | a microcontroller board in QEMU, its UART a serial line |
//! | [`arm_board`] | an ARM board in QEMU, with Debian on a disk that forgets |
//! | [`qmp`] | QEMU's monitor and its guest agent |
//! | [`frame`] | frames of the shim link, whole and damaged |
//! | [`gateway`], [`sim`] | the programs under test |
//! | [`http`] | what a gateway says over HTTP |
//! | [`ce_ids`] | counts Kafka's records by the offset in the gateway's log |
//! | [`oracle`] | reads Kafka back: lost, duplicated, out of order |
//! | [`certs`] | a certificate authority for one test |

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that fails says where")
)]

pub mod arm_board;
pub mod board;
pub mod ce_ids;
pub mod certs;
pub mod clockless_board;
pub mod fault_disk;
pub mod frame;
pub mod gateway;
pub mod http;
pub mod kafka;
pub mod machine;
pub mod mock_kafka;
pub mod modbus;
pub mod mosquitto;
pub mod mount;
pub mod mqtt_client;
pub mod oracle;
pub mod packet_gate;
pub mod ports;
pub mod process;
pub mod pty;
pub mod qmp;
pub mod random;
pub mod sim;
pub mod tally;
pub mod wait;

use std::sync::{Condvar, Mutex, PoisonError};

/// Heavy tests that run at once in a test binary. They wait more than they compute: for leases, timers
/// and brokers that start; but with a third one two cores would be busy enough to stretch deadlines.
const TURNS: u32 = 2;

static TURNS_TAKEN: Mutex<u32> = Mutex::new(0);
static TURN_OVER: Condvar = Condvar::new();

/// The turn of a heavy test, until it is dropped.
#[derive(Debug)]
#[must_use = "it is over as soon as it is dropped"]
pub struct Turn(());

/// Waits until fewer than [`TURNS`] heavy tests of this test binary run. One that failed does not keep
/// the others from theirs.
pub fn turn() -> Turn {
    let taken = TURNS_TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let taken = TURN_OVER.wait_while(taken, |taken| *taken == TURNS);
    *taken.unwrap_or_else(PoisonError::into_inner) += 1;
    Turn(())
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TURNS_TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        TURN_OVER.notify_one();
    }
}

/// Whether tests that leave their instants to chance are to have many rounds
/// (`EDGE_GATEWAY_LONG=1`, `make test-long`).
#[must_use]
pub fn is_long() -> bool {
    std::env::var("EDGE_GATEWAY_LONG").is_ok_and(|value| value == "1")
}
