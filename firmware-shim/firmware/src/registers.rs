//! Memory-mapped registers.
//!
//! A register is an address that the data sheet names, which the language cannot know: this is the
//! one module that must be believed. Everything else of the firmware is checked by the compiler.
//!
//! No crate takes the two `unsafe` away: `safe-mmio`, `tock-registers` and `volatile-register` ask for
//! one where an address becomes a reference, the crate of this part (`lm3s6965`) has its interrupts
//! alone, and crates generated from a part's description have one at each field that is written.

#![expect(
    unsafe_code,
    reason = "a register is reached by its address and in no other way"
)]

/// A register of 32 bits.
#[derive(Clone, Copy)]
pub(crate) struct Register(u32);

impl Register {
    /// The register at `offset` of a peripheral of this part. `block` is its base address from the
    /// memory map of the data sheet.
    pub(crate) const fn new(block: u32, offset: u32) -> Self {
        assert!(block >= 0x4000_0000 && block < 0x4010_0000, "no peripheral");
        assert!(offset < 0x1000 && offset.is_multiple_of(4), "no register");
        Self(block + offset)
    }

    /// Its value; for some, reading takes it.
    pub(crate) fn read(self) -> u32 {
        // SAFETY: `new` lets only aligned words of the peripherals' address space through, where
        // there is no memory that Rust owns, and a read has no effect but on the peripheral.
        unsafe { core::ptr::read_volatile(self.0 as *const u32) }
    }

    /// Sets it.
    pub(crate) fn write(self, value: u32) {
        // SAFETY: as in `read`; no peripheral that is written to here has access to memory (DMA).
        unsafe { core::ptr::write_volatile(self.0 as *mut u32, value) }
    }

    /// Whether any bit of `mask` is set.
    pub(crate) fn has(self, mask: u32) -> bool {
        self.read() & mask != 0
    }

    /// Sets the bits of `mask`.
    pub(crate) fn set(self, mask: u32) {
        self.write(self.read() | mask);
    }

    /// Clears the bits of `mask`.
    pub(crate) fn clear(self, mask: u32) {
        self.write(self.read() & !mask);
    }
}
