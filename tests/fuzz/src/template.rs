//! A good log, made once: three segments, opened three times, half of it delivered.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use edge_gateway::commit_log::CommitLog;
use edge_gateway::record::Offset;

use crate::check::{self, Deaf};
use crate::format;
use crate::memory::MemoryFs;

const OPENINGS: u64 = 3;
const RECORDS_AN_OPENING: u64 = 10;
/// Few and large, so that there are several segments and every batch is within a fuzzer's reach.
const PAYLOAD_BYTES: usize = 20_000;

/// Path and content of the files of a good log.
pub(crate) static FILES: LazyLock<Vec<(PathBuf, Vec<u8>)>> = LazyLock::new(|| {
    let fs = MemoryFs::default();
    for opening in 0..OPENINGS {
        let shared = Arc::new(fs.clone());
        let opened = CommitLog::open(shared, check::options(), Box::new(Deaf), ())
            .expect("nothing is in the way of a new log");
        for number in 0..RECORDS_AN_OPENING {
            let payload = vec![(opening * RECORDS_AN_OPENING + number) as u8; PAYLOAD_BYTES];
            check::append_payload(&opened.log, &payload);
        }
        opened.log.commit(Offset::new(OPENINGS));
        opened.log.close();
    }
    let mut files = fs.files();
    for (path, content) in &mut files {
        // The same bytes in every process: a log's identity is random.
        match path.extension() {
            Some(_) => format::repair_segment(content),
            None => format::repair_slots(content),
        }
    }
    files
});

/// A file system with the good log on it.
pub(crate) fn fs() -> MemoryFs {
    let fs = MemoryFs::default();
    for (path, content) in FILES.iter() {
        fs.put(path, content.clone());
    }
    fs
}
