//! The log on a disk that forgets, tears and fails.
//!
//! - `support`: a log under test and what it must hold
//! - `sim_fs`: the disk
//! - `basics`: append, sync, read, commit, retire
//! - `crashes`: a power cut, a kill or an error at every single call
//! - `surgery`: a closed log's files, changed by hand
//! - `damage`: what recovery must tell apart
//! - `reading`: what a reader must tell apart
//! - `formats`: batches in another format than ours
//! - `quarantine`: damaged files against the budget
//! - `budgets`: disk use, drops and age
//! - `wear`: loss window, compression, bytes written
//! - `model`: random operations against a simple model
//! - `offline`: the directory as somebody else reads it

mod basics;
mod budgets;
mod crashes;
mod damage;
mod formats;
mod model;
mod offline;
mod quarantine;
mod reading;
pub(crate) mod sim_fs;
mod support;
mod surgery;
mod wear;
