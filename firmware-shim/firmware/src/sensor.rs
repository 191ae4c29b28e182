//! A simulated thermometer in place of a real one.

/// Lowest and highest temperature, in hundredths of a degree Celsius.
const RANGE: (i32, i32) = (1_850, 2_650);
/// Change from sample to sample.
const STEP: i32 = 7;

/// A temperature that rises and falls.
pub(crate) struct Thermometer {
    hundredths: i32,
    step: i32,
}

impl Thermometer {
    /// At the lower end of its range.
    pub(crate) const fn new() -> Self {
        Self {
            hundredths: RANGE.0,
            step: STEP,
        }
    }

    /// The next sample, in hundredths of a degree Celsius.
    pub(crate) fn sample(&mut self) -> i32 {
        self.hundredths += self.step;
        if self.hundredths >= RANGE.1 || self.hundredths <= RANGE.0 {
            self.step = -self.step;
        }
        self.hundredths
    }
}
