//! The time that devices on a shim link are told, by a gateway on a board whose clock is set late.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::time::{SystemTime, UNIX_EPOCH};

use firmware_shim::decoder::{Decoder, Outcome};
use firmware_shim::frame::{Header, Kind};
use system_tests::clockless_board::ClocklessBoard;
use system_tests::gateway::{Gateway, Settings};
use system_tests::pty::Pty;
use system_tests::{frame, kafka, turn, wait};

use crate::SOON;

const HOUR_S: i64 = 3600;
/// What may lie between a time that is told and one that is looked at here.
const TOLERANCE_MS: u64 = 60_000;

/// A device that hears.
struct Device {
    line: Pty,
    end: File,
    decoder: Decoder,
    /// Frames heard and not looked at, with the time they tell.
    heard: Vec<(Header, u64)>,
}

impl Device {
    fn new() -> Self {
        let line = Pty::open();
        let end = line.device_end();
        Self {
            line,
            end,
            decoder: Decoder::new(),
            heard: Vec::new(),
        }
    }

    fn send(&mut self, session: u16, sequence: u32) {
        self.line.send(&frame::opaque(session, sequence, b"x"));
    }

    /// Frames up to the first that `is_last`; those behind it are kept.
    fn hear_until(
        &mut self,
        what: &str,
        is_last: impl Fn(&(Header, u64)) -> bool,
    ) -> Vec<(Header, u64)> {
        wait::until_some(what, SOON, || {
            self.listen();
            let at = self.heard.iter().position(&is_last)?;
            Some(self.heard.drain(..=at).collect())
        })
    }

    fn hear_ack(&mut self, session: u16, sequence: u32) -> Vec<(Header, u64)> {
        let ack = Header::ack(0, session, sequence);
        self.hear_until(&format!("ACK {sequence}"), |(header, _)| *header == ack)
    }

    /// The next time that is told.
    fn hear_time(&mut self) -> (Header, u64) {
        let is_time = |(header, _): &(Header, u64)| header.kind == Kind::Time;
        *self.hear_until("a time", is_time).last().unwrap()
    }

    fn listen(&mut self) {
        rustix::io::ioctl_fionbio(&self.end, true).unwrap();
        let mut bytes = [0; 256];
        let count = match self.end.read(&mut bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            other => other.unwrap(),
        };
        // Sending waits for room again.
        rustix::io::ioctl_fionbio(&self.end, false).unwrap();
        for &byte in &bytes[..count] {
            match self.decoder.push(byte) {
                Outcome::Pending => {}
                Outcome::Frame(frame) => {
                    let time = frame.payload.try_into().map_or(0, u64::from_le_bytes);
                    self.heard.push((frame.header, time));
                }
                Outcome::Rejected(rejection) => panic!("{rejection:?}"),
            }
        }
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

fn is_near(told_ms: u64, expected_ms: u64) -> bool {
    told_ms.abs_diff(expected_ms) < TOLERANCE_MS
}

#[test]
fn a_device_is_told_the_time_once_the_clock_is_set_until_it_speaks_and_again_after_a_step() {
    let _turn = turn();
    let kafka = kafka::shared();
    let topic = kafka.new_topic(1);
    let mut device = Device::new();
    let settings =
        Settings::new(&kafka.bootstrap(), &topic).serial("press", device.line.path(), "shim");
    let board = ClocklessBoard::new();
    let mut gateway = Gateway::start_on(&board, &settings);
    gateway.wait_ready();

    // A time would go out as soon as the device is heard; the ACK waits for the disk.
    device.send(7, 0);
    let heard = device.hear_ack(7, 1);
    assert!(
        heard.iter().all(|(header, _)| header.kind != Kind::Time),
        "told the time in 1970: {heard:?}"
    );

    board.set_clock();
    device.send(7, 1);
    for _ in 0..3 {
        let (header, told_ms) = device.hear_time();
        assert_eq!(header, Header::time(0, 7));
        assert!(is_near(told_ms, now_ms()), "{told_ms} is not the time");
    }
    // It has the time, or has lost it on the way; either way it is told no more.
    device.send(7, 2);
    device.hear_ack(7, 3);

    board.shift_clock(HOUR_S);
    let (header, told_ms) = device.hear_time();
    assert_eq!(header, Header::time(0, 7));
    let hour_ms = u64::try_from(HOUR_S * 1000).unwrap();
    assert!(
        is_near(told_ms, now_ms() + hour_ms),
        "{told_ms} was told between its DATA and the step, or is not the time"
    );

    // Booted again.
    device.send(8, 0);
    let is_new = |(header, _): &(Header, u64)| *header == Header::time(0, 8);
    device.hear_until("the time for the new session", is_new);
    assert_eq!(gateway.drain().code(), Some(0));
}
