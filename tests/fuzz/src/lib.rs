//! What edge-gateway reads from disks and wires, given to a fuzzer (G6, G8).
//!
//! Each target is a plain function of bytes in [`targets`]: libFuzzer calls it from a program of
//! `targets/`, and `tests/corpus.rs` calls it with every input that was worth keeping, as an ordinary
//! test. A log lives on a file system in memory ([`memory::MemoryFs`]) and is opened through its
//! public interface alone. A checksum stops a fuzzer at the door, so the inputs are repaired, or
//! composed of batches that are sealed ([`format`]); what must hold then is in [`check`].

pub mod check;
pub mod format;
pub mod input;
mod line;
pub mod memory;
pub mod targets;
mod template;
