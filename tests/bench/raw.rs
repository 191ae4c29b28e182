//! The loop that the log is measured against: so many bytes written in place, behind the ones
//! before, in a file that holds them already, and synced.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::driver::SEGMENT_BYTES;
use crate::error::BenchError;

/// As much as a log in steady state goes over: two segments.
const FILE_BYTES: u64 = 2 * SEGMENT_BYTES;

/// The loop's file and place.
#[derive(Debug)]
pub(crate) struct Raw {
    file: File,
    block: Vec<u8>,
    position: u64,
}

impl Raw {
    /// Writes the file once, to have its blocks.
    pub(crate) fn start(path: &Path, block_bytes: usize) -> Result<Self, BenchError> {
        let failed = || BenchError::io("make the raw loop's file");
        let file = File::create(path).map_err(failed())?;
        let block: Vec<u8> = (0..block_bytes).map(|at| (at * 31) as u8).collect();
        let zeroes = vec![0; 1 << 20];
        for position in (0..FILE_BYTES).step_by(zeroes.len()) {
            file.write_all_at(&zeroes, position).map_err(failed())?;
        }
        file.sync_all().map_err(failed())?;
        Ok(Self {
            file,
            block,
            position: 0,
        })
    }

    /// Writes and syncs the block.
    pub(crate) fn commit(&mut self) -> Result<(), BenchError> {
        let failed = || BenchError::io("write and sync");
        if self.position + self.block.len() as u64 > FILE_BYTES {
            self.position = 0;
        }
        self.file
            .write_all_at(&self.block, self.position)
            .map_err(failed())?;
        self.file.sync_data().map_err(failed())?;
        self.position += self.block.len() as u64;
        Ok(())
    }
}
