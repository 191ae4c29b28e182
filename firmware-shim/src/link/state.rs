//! What survives a restart of the gateway.

/// What a receiver must remember of one device across restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkState {
    /// The device's boot.
    pub session: u16,
    /// Next sequence expected; everything below is durable.
    pub next: u32,
    /// CRCs of the newest messages taken, that of sequence `next - 1` at index 0. (See
    /// [`Frame::message_crc`](crate::frame::Frame::message_crc).)
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

    /// The CRC kept for the frame with `sequence`, if it is one of the newest.
    #[must_use]
    pub fn crc_of(&self, sequence: u32) -> Option<u32> {
        let behind = self.next.wrapping_sub(sequence).wrapping_sub(1);
        let at = usize::try_from(behind).ok()?;
        self.crcs
            .get(..usize::from(self.crcs_len))?
            .get(at)
            .copied()
    }
}
