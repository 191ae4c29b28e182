//! What the figures were measured on.

use std::fmt;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::disk;
use crate::error::BenchError;

/// The machine.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cpus: usize,
    kernel: String,
    disk: String,
    file_system: String,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cpu,
            cpus,
            kernel,
            disk,
            file_system,
        } = self;
        writeln!(f, "{cpu}, {cpus} cores, Linux {kernel}")?;
        write!(f, "{disk}, {file_system}")
    }
}

/// Describes this machine and the disk that holds `on`.
pub(crate) fn describe(on: &Path) -> Result<Machine, BenchError> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("a CPU without a name", |(_, name)| name.trim());
    let on = on.to_string_lossy();
    let mount = |column| -> Result<String, BenchError> {
        let found = disk::call("findmnt", &["-no", column, "--target", &on])?;
        Ok(found.trim().to_owned())
    };
    let device = mount("SOURCE")?;
    Ok(Machine {
        cpu: model.to_owned(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        kernel: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        disk: format!("disk {device} ({})", cache(&device)),
        file_system: mount("FSTYPE")?,
    })
}

/// Whether a flush means anything to this disk.
fn cache(device: &str) -> String {
    let name = device.trim_start_matches("/dev/");
    fs::read_to_string(format!("/sys/block/{name}/queue/write_cache"))
        .map_or("cache unknown".to_owned(), |cache| cache.trim().to_owned())
}
