//! Kinds of device and what they measure: a daily curve, noise around it, and rare spikes.
//!
//! A device's day does not follow the clock, since a message's content may depend only on seed,
//! device and sequence: every message is a minute later in the simulated day than the one before.

use crate::random::Random;

/// Messages in one simulated day.
const MINUTES_A_DAY: u64 = 1440;
/// How often a reading is a spike: about once in a simulated shift of eight hours.
const SPIKE_CHANCE: f64 = 1.0 / 500.0;
/// Values in every message.
pub const READINGS: usize = 4;

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// A road's counting loop: vehicles, speed, occupancy, queue.
    Traffic,
    /// An air quality station: particles, nitrogen dioxide, temperature, humidity.
    Air,
    /// An electricity meter: power, voltage, current, energy.
    Energy,
    /// A factory press: temperature, pressure, vibration, strokes.
    Press,
}

/// One measured value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// Name within the device.
    pub name: &'static str,
    /// `SenML` unit (RFC 8428 and RFC 8798).
    pub unit: &'static str,
    /// The value, rounded to `decimals`.
    pub value: f64,
    /// Digits behind the point, 0 to 3.
    pub decimals: u8,
}

impl Reading {
    fn new(name: &'static str, unit: &'static str, value: f64, decimals: u8) -> Self {
        let scale = f64::from(10_u16.pow(u32::from(decimals)));
        let value = (value * scale).round() / scale;
        Self {
            name,
            unit,
            value,
            decimals,
        }
    }
}

impl Profile {
    /// The name that device names and the `source` field are made of.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Traffic => "traffic",
            Self::Air => "air",
            Self::Energy => "energy",
            Self::Press => "press",
        }
    }

    /// What a device measures in its message number `sequence`.
    #[must_use]
    pub fn readings(self, seed: u64, device: u32, sequence: u64) -> [Reading; READINGS] {
        let mut random = Random::for_message(seed, device, sequence);
        let moment = Moment::new(seed, device, sequence, &mut random);
        match self {
            Self::Traffic => traffic(&moment, &mut random),
            Self::Air => air(&moment, &mut random),
            Self::Energy => energy(&moment, &mut random),
            Self::Press => press(&moment, &mut random),
        }
    }
}

/// Where in its simulated life a device is.
struct Moment {
    /// Part of the day that has passed, from midnight: 0 to 1.
    day: f64,
    /// How this device differs from the others of its kind: 0.8 to 1.2.
    character: f64,
    /// 1, or the factor of a rare spike.
    spike: f64,
    /// Minutes since the device's beginning.
    minutes: f64,
}

impl Moment {
    #[expect(clippy::cast_precision_loss, reason = "no device sends 2^53 messages")]
    fn new(seed: u64, device: u32, sequence: u64, random: &mut Random) -> Self {
        let mut device = Random::for_message(seed, device, u64::MAX);
        let start = device.bits() % MINUTES_A_DAY;
        let minute = (start + sequence % MINUTES_A_DAY) % MINUTES_A_DAY;
        let spike = if random.chance(SPIKE_CHANCE) {
            2.0 + 2.0 * random.unit()
        } else {
            1.0
        };
        Self {
            day: minute as f64 / MINUTES_A_DAY as f64,
            character: 0.8 + 0.4 * device.unit(),
            spike,
            minutes: sequence as f64,
        }
    }

    /// 0 to 1: a smooth daily wave, highest at `peak`, lowest half a day away.
    fn wave(&self, peak: f64) -> f64 {
        0.5 + 0.5 * (std::f64::consts::TAU * (self.day - peak)).cos()
    }

    /// 0 to 1: two rush hours, the wave of morning (8:00) and evening (17:30) narrowed.
    fn rush(&self) -> f64 {
        let morning = self.wave(8.0 / 24.0).powi(12);
        let evening = self.wave(17.5 / 24.0).powi(10);
        morning.max(evening)
    }
}

fn traffic(moment: &Moment, random: &mut Random) -> [Reading; READINGS] {
    let load = (0.08 + 0.25 * moment.wave(0.55) + 0.6 * moment.rush()) * moment.character;
    let vehicles = (40.0 * load * moment.spike + 2.0 * random.bell()).max(0.0);
    let occupancy = (load * 0.7 + 0.02 * random.bell()).clamp(0.0, 1.0);
    let speed = (58.0 - 38.0 * occupancy * moment.spike + 2.5 * random.bell()).clamp(3.0, 90.0);
    let queue = (120.0 * (occupancy - 0.45) * moment.spike).max(0.0);
    [
        Reading::new("vehicles", "1/min", vehicles, 0),
        Reading::new("speed", "km/h", speed, 1),
        Reading::new("occupancy", "/", occupancy, 3),
        Reading::new("queue", "m", queue, 0),
    ]
}

fn air(moment: &Moment, random: &mut Random) -> [Reading; READINGS] {
    let dirt = (6.0 + 9.0 * moment.rush() + 4.0 * moment.wave(0.9)) * moment.character;
    let fine = (dirt * moment.spike + 0.8 * random.bell()).max(0.0);
    let nitrogen = (14.0 + 30.0 * moment.rush()) * moment.character + 1.5 * random.bell();
    let temperature = 9.0 + 9.0 * moment.wave(14.5 / 24.0) + 0.3 * random.bell();
    let humidity = 85.0 - 35.0 * moment.wave(14.5 / 24.0) + 1.2 * random.bell();
    [
        Reading::new("pm2_5", "ug/m3", fine, 1),
        Reading::new("no2", "ug/m3", nitrogen.max(0.0), 1),
        Reading::new("temperature", "Cel", temperature, 2),
        Reading::new("humidity", "%RH", humidity.clamp(5.0, 100.0), 1),
    ]
}

fn energy(moment: &Moment, random: &mut Random) -> [Reading; READINGS] {
    let load = 0.15 + 0.35 * moment.wave(0.5) + 0.5 * moment.rush();
    let power = (2_400.0 * load * moment.character * moment.spike + 40.0 * random.bell()).max(20.0);
    let voltage = 231.0 - power / 1_500.0 + 0.6 * random.bell();
    let mean_w = 1_100.0 * moment.character;
    let meter_wh = moment.minutes * mean_w / 60.0 + 5.0 * random.unit();
    [
        Reading::new("power", "W", power, 0),
        Reading::new("voltage", "V", voltage, 1),
        Reading::new("current", "A", power / voltage, 2),
        Reading::new("energy", "Wh", meter_wh, 0),
    ]
}

fn press(moment: &Moment, random: &mut Random) -> [Reading; READINGS] {
    let shift = moment.wave(0.55).powf(0.3);
    let temperature = 38.0 + 24.0 * shift * moment.character + 0.5 * random.bell();
    let pressure = (60.0 + 120.0 * shift) * moment.character + 3.0 * random.bell();
    let vibration = (0.4 + 1.8 * shift) * moment.spike + 0.15 * random.bell();
    let strokes = moment.minutes * 12.0;
    [
        Reading::new("temperature", "Cel", temperature, 2),
        Reading::new("pressure", "bar", pressure.max(0.0), 1),
        Reading::new("vibration", "m/s2", vibration.max(0.0), 3),
        Reading::new("strokes", "count", strokes, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Profile; 4] = [
        Profile::Traffic,
        Profile::Air,
        Profile::Energy,
        Profile::Press,
    ];

    #[test]
    fn readings_depend_on_seed_device_and_sequence_alone() {
        for profile in ALL {
            assert_eq!(profile.readings(1, 2, 3), profile.readings(1, 2, 3));
            assert_ne!(profile.readings(1, 2, 3), profile.readings(2, 2, 3));
            assert_ne!(profile.readings(1, 2, 3), profile.readings(1, 3, 3));
        }
    }

    #[test]
    fn a_day_of_readings_is_finite_and_not_negative() {
        for profile in ALL {
            for sequence in 0..2 * MINUTES_A_DAY {
                for reading in profile.readings(42, 5, sequence) {
                    assert!(
                        reading.value.is_finite() && reading.value >= -30.0,
                        "{reading:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn rush_hour_has_more_vehicles_than_the_night() {
        let mut by_hour = [0.0; 24];
        for sequence in 0..30 * MINUTES_A_DAY {
            let mut random = Random::for_message(1, 0, sequence);
            let moment = Moment::new(1, 0, sequence, &mut random);
            let hour = (moment.day * 24.0) as usize;
            by_hour[hour] += traffic(&moment, &mut random)[0].value;
        }
        assert!(by_hour[8] > 2.0 * by_hour[3], "{by_hour:?}");
        assert!(by_hour[17] > 2.0 * by_hour[3], "{by_hour:?}");
    }

    #[test]
    fn spikes_are_rare_but_there() {
        let spikes = (0..10_000_u64)
            .filter(|&sequence| {
                let mut random = Random::for_message(9, 1, sequence);
                Moment::new(9, 1, sequence, &mut random).spike > 1.0
            })
            .count();
        assert!((5..60).contains(&spikes), "{spikes}");
    }

    #[test]
    fn a_meter_never_runs_backwards() {
        let meter = |sequence| Profile::Energy.readings(3, 4, sequence)[3].value;
        assert!((0..1_000).all(|sequence| meter(sequence) <= meter(sequence + 1)));
    }
}
