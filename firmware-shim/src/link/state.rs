//! What survives a restart of the gateway.

/// What a receiver must remember of one device across restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkState {
    /// The device's boot.
    pub session: u16,
    /// Next sequence expected; everything below is durable.
    pub next: u32,
    /// CRCs of the newest frames taken, that of sequence `next - 1` at index 0.
    pub crcs: [u32; 16],
    /// How many of `crcs` are set.
    pub crcs_len: u8,
}

impl LinkState {
    /// Notes that the frame with `sequence` of `session` has been made durable.
    pub fn accept(&mut self, session: u16, sequence: u32, crc: u32) {
        if session != self.session || sequence != self.next || self.crcs_len == 0 {
            self.crcs_len = 0;
        }
        self.crcs.rotate_right(1);
        self.crcs[0] = crc;
        self.crcs_len = (self.crcs_len + 1).min(16);
        self.session = session;
        self.next = sequence.wrapping_add(1);
    }
}
