//! CRC-32C (Castagnoli), the checksum of every frame.
//!
//! Firmware computes it from a 1 KiB table in flash; a host has an instruction for it.

/// A checksum being computed.
#[derive(Clone)]
pub struct Crc32c(imp::State);

impl Crc32c {
    /// The checksum of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self(imp::start())
    }

    /// Takes `bytes` in.
    pub fn update(&mut self, bytes: &[u8]) {
        imp::update(&mut self.0, bytes);
    }

    /// The checksum of all that was taken in.
    #[must_use]
    pub fn finish(self) -> u32 {
        imp::finish(self.0)
    }
}

impl Default for Crc32c {
    fn default() -> Self {
        Self::new()
    }
}

impl core::fmt::Debug for Crc32c {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Crc32c({:#010x})", self.clone().finish())
    }
}

/// The checksum of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = Crc32c::new();
    crc.update(bytes);
    crc.finish()
}

#[cfg(feature = "std")]
mod imp {
    pub(super) type State = u32;

    pub(super) fn start() -> State {
        0
    }

    pub(super) fn update(state: &mut State, bytes: &[u8]) {
        *state = crc32c::crc32c_append(*state, bytes);
    }

    pub(super) fn finish(state: State) -> u32 {
        state
    }
}

#[cfg(not(feature = "std"))]
mod imp {
    use crc::{CRC_32_ISCSI, Crc, Digest, Table};

    static CASTAGNOLI: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&CRC_32_ISCSI);

    pub(super) type State = Digest<'static, u32, Table<1>>;

    pub(super) fn start() -> State {
        CASTAGNOLI.digest()
    }

    pub(super) fn update(state: &mut State, bytes: &[u8]) {
        state.update(bytes);
    }

    pub(super) fn finish(state: State) -> u32 {
        state.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_catalogue_comes_out_however_the_input_is_cut() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let mut crc = Crc32c::new();
        crc.update(b"1234");
        crc.update(b"");
        crc.update(b"56789");
        assert_eq!(crc.finish(), 0xe306_9283);
    }
}
