//! Sender and receiver joined by a line that loses, damages, repeats and swaps frames, with
//! commits that come late, a gateway that forgets what it hasn't committed, and devices that boot.

use proptest::prelude::*;

use super::receiver::{Receiver, Take, Verdict};
use super::sender::{Action, Config, Heard, Sender};
use crate::decoder::{Decoder, Outcome};
use crate::frame::{FRAME_BYTES_MAX, Kind, encode};

const SLOTS: usize = 12;

/// What the line does to a frame.
#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    Lose,
    Repeat,
    Flip(u8),
    /// A byte goes missing; if it is the last, the frame and the next are one.
    Drop(u8),
    /// A byte comes in before another, a 0x00 as well as any.
    Insert(u8, u8),
    /// It arrives behind the next one.
    Swap,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Push,
    /// The device sends one frame, if it has one to send.
    Send(Fault),
    /// The gateway sends the ACK that is due, if one is.
    Ack(Fault),
    Advance(u16),
    /// Everything taken is synced.
    Commit,
    /// The gateway dies, and starts again from what is durable.
    Restart,
    /// The log loses what was taken.
    RollBack,
    /// The device loses its ring, and what was on the line, and begins another session.
    Reboot,
}

/// One direction of the line.
#[derive(Default)]
struct Line {
    held_back: Vec<u8>,
}

impl Line {
    fn carry(&mut self, mut bytes: Vec<u8>, fault: Fault) -> Vec<u8> {
        let held_back = std::mem::take(&mut self.held_back);
        match fault {
            Fault::None => {}
            Fault::Lose => bytes.clear(),
            Fault::Repeat => bytes.extend(bytes.clone()),
            Fault::Flip(at) => {
                let at = usize::from(at) % bytes.len();
                bytes[at] ^= 1 << (at % 8);
            }
            Fault::Drop(at) => {
                bytes.remove(usize::from(at) % bytes.len());
            }
            Fault::Insert(at, byte) => bytes.insert(usize::from(at) % bytes.len(), byte),
            Fault::Swap => {
                self.held_back = bytes;
                return held_back;
            }
        }
        bytes.extend(held_back);
        bytes
    }
}

struct World {
    now_ms: u64,
    sender: Sender<SLOTS, 8>,
    up: Line,
    down: Line,
    gateway_decoder: Decoder,
    device_decoder: Decoder,
    receiver: Receiver,
    taken: Vec<Take>,
    stored: Option<super::LinkState>,
    /// Sessions and sequences in the log, and messages marked as missing.
    log: Vec<(u16, u32)>,
    gaps: u64,
}

impl World {
    fn new(first: u32) -> Self {
        Self::with(Config::new(0, 7), first)
    }

    fn with(config: Config, first: u32) -> Self {
        let stored = Some(super::LinkState {
            session: 7,
            next: first,
            ..Default::default()
        });
        Self {
            now_ms: 0,
            sender: Sender::starting_at(config, first),
            up: Line::default(),
            down: Line::default(),
            gateway_decoder: Decoder::new(),
            device_decoder: Decoder::new(),
            receiver: Receiver::new(0, stored),
            taken: Vec::new(),
            stored,
            log: Vec::new(),
            gaps: 0,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Push => {
                let payload = self.sender.next_sequence().to_le_bytes();
                self.sender.push(Kind::Opaque, &payload).expect("fits");
            }
            Step::Send(fault) => self.send(fault),
            Step::Ack(fault) => self.ack(fault),
            Step::Advance(ms) => self.now_ms += u64::from(ms),
            Step::Commit => self.commit(),
            Step::Restart => {
                self.taken.clear();
                self.receiver = Receiver::new(0, self.stored);
                self.gateway_decoder.reset();
            }
            Step::RollBack => {
                self.taken.clear();
                self.receiver.rolled_back();
            }
            Step::Reboot => {
                self.up = Line::default();
                self.down = Line::default();
                self.gateway_decoder.push(0);
                let session = self.sender.session() + 1;
                self.sender = Sender::new(Config::new(0, session));
            }
        }
    }

    fn send(&mut self, fault: Fault) {
        let mut out = [0; FRAME_BYTES_MAX];
        let Action::Send(used) = self.sender.poll(self.now_ms, &mut out).expect("fits") else {
            return;
        };
        self.sender.transmitted(self.now_ms);
        for byte in self.up.carry(out[..used].to_vec(), fault) {
            let Outcome::Frame(frame) = self.gateway_decoder.push(byte) else {
                continue;
            };
            if let Verdict::Take(take) = self.receiver.receive(&frame) {
                assert_eq!(frame.payload, take.sequence.to_le_bytes());
                self.receiver.taken(&take);
                self.taken.push(take);
            }
        }
    }

    fn ack(&mut self, fault: Fault) {
        let Some(header) = self.receiver.ack(self.now_ms) else {
            return;
        };
        let mut out = [0; FRAME_BYTES_MAX];
        let used = encode(header, &[], &mut out).expect("fits");
        for byte in self.down.carry(out[..used].to_vec(), fault) {
            let Outcome::Frame(frame) = self.device_decoder.push(byte) else {
                continue;
            };
            let held = u32::try_from(self.sender.held()).expect("at most 255");
            let oldest = self.sender.next_sequence().wrapping_sub(held);
            if let Heard::Acknowledged(count) = self.sender.hear(&frame, self.now_ms) {
                for at in 0..u32::from(count) {
                    let message = (self.sender.session(), oldest.wrapping_add(at));
                    assert!(self.log.contains(&message), "{message:?} is not durable");
                }
            }
        }
    }

    fn commit(&mut self) {
        for take in self.taken.drain(..) {
            self.receiver.committed(&take);
            let stored = self.stored.get_or_insert_default();
            stored.accept(take.session, take.sequence, take.crc);
            self.log.push((take.session, take.sequence));
            self.gaps += take.gap;
        }
    }

    /// Lets everything through, until the device holds nothing any more.
    fn drain(&mut self) {
        for _ in 0..1_000 {
            self.step(Step::Send(Fault::None));
            self.step(Step::Commit);
            self.step(Step::Ack(Fault::None));
            self.step(Step::Advance(100));
            if self.sender.held() == 0 {
                return;
            }
        }
        panic!("no progress on a good line: {} held", self.sender.held());
    }
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        4 => Just(Fault::None),
        1 => Just(Fault::Lose),
        1 => Just(Fault::Repeat),
        1 => any::<u8>().prop_map(Fault::Flip),
        1 => any::<u8>().prop_map(Fault::Drop),
        1 => (any::<u8>(), prop_oneof![Just(0), any::<u8>()])
            .prop_map(|(at, byte)| Fault::Insert(at, byte)),
        1 => Just(Fault::Swap),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Push),
        8 => fault().prop_map(Step::Send),
        4 => fault().prop_map(Step::Ack),
        3 => (0_u16..2_000).prop_map(Step::Advance),
        4 => Just(Step::Commit),
        1 => Just(Step::Restart),
        1 => Just(Step::RollBack),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_the_line_does_each_message_is_stored_once_in_order_or_counted_as_lost(
        first in prop_oneof![Just(0), Just(u32::MAX - 20), any::<u32>()],
        steps in proptest::collection::vec(step(), 0..400),
    ) {
        let mut world = World::new(first);
        for step in steps {
            world.step(step);
        }
        world.drain();
        let pushed = world.sender.next_sequence().wrapping_sub(first);
        let places: Vec<u32> = world.log.iter().map(|(_, s)| s.wrapping_sub(first)).collect();
        prop_assert!(places.is_sorted_by(|a, b| a < b), "{:?}", places);
        prop_assert_eq!(places.len() as u64 + world.gaps, u64::from(pushed));
    }

    #[test]
    fn nothing_is_lost_while_the_ring_is_never_overfilled(
        first in prop_oneof![Just(0), Just(u32::MAX - 20)],
        steps in proptest::collection::vec(step(), 0..400),
    ) {
        let mut world = World::new(first);
        for step in steps {
            if !(matches!(step, Step::Push) && world.sender.is_full()) {
                world.step(step);
            }
        }
        world.drain();
        prop_assert_eq!(world.gaps, 0);
        prop_assert_eq!(world.log.len() as u32, world.sender.next_sequence().wrapping_sub(first));
    }

    #[test]
    fn what_a_one_way_device_loses_is_counted_to_the_message(
        first in prop_oneof![Just(0), Just(u32::MAX - 20), any::<u32>()],
        faults in proptest::collection::vec(fault(), 0..400),
    ) {
        let one_way = Config { one_way: true, ..Config::new(0, 7) };
        let mut world = World::with(one_way, first);
        // A damaged end takes the next frame with it.
        for fault in faults.into_iter().chain([Fault::None; 2]) {
            world.step(Step::Push);
            world.step(Step::Send(fault));
            world.step(Step::Commit);
        }
        let pushed = world.sender.next_sequence().wrapping_sub(first);
        let places: Vec<u32> = world.log.iter().map(|(_, s)| s.wrapping_sub(first)).collect();
        prop_assert!(places.is_sorted_by(|a, b| a < b), "{:?}", places);
        prop_assert_eq!(places.last(), Some(&(pushed - 1)));
        prop_assert_eq!(places.len() as u64 + world.gaps, u64::from(pushed));
    }

    #[test]
    fn across_reboots_each_session_is_stored_once_and_in_order(
        steps in proptest::collection::vec(
            prop_oneof![20 => step(), 1 => Just(Step::Reboot)], 0..400),
    ) {
        let mut world = World::new(0);
        for step in steps {
            world.step(step);
        }
        world.step(Step::Push);
        world.drain();
        prop_assert!(world.log.is_sorted_by(|a, b| a < b), "{:?}", world.log);
        let last = (world.sender.session(), world.sender.next_sequence() - 1);
        prop_assert_eq!(world.log.last(), Some(&last));
    }
}

#[test]
fn acks_that_are_lost_cost_time_and_nothing_else() {
    let mut world = World::new(u32::MAX - 3);
    for _ in 0..SLOTS {
        world.step(Step::Push);
        world.step(Step::Send(Fault::None));
        world.step(Step::Commit);
        world.step(Step::Ack(Fault::Lose));
        world.step(Step::Advance(700));
    }
    assert_eq!(world.sender.held(), SLOTS, "not one ACK was heard");
    assert!(world.sender.resent() > 0);
    world.drain();
    let stored: Vec<_> = (0..12)
        .map(|at| (7, (u32::MAX - 3).wrapping_add(at)))
        .collect();
    assert_eq!(world.log, stored);
    assert_eq!(world.gaps, 0);
}

/// A line of 9600 baud takes 8.6 s for eight messages of 1 KiB: far longer than the shortest timer.
#[test]
fn a_window_slower_on_the_line_than_the_timer_is_sent_once_however_late_its_ack() {
    const MESSAGES: u32 = 24;
    let config = Config {
        bits_per_second: 9_600,
        ..Config::new(0, 7)
    };
    let mut sender = Sender::<24, 1024>::new(config);
    for _ in 0..MESSAGES {
        sender.push(Kind::Opaque, &[0x55; 1024]).expect("fits");
    }
    let (mut receiver, mut decoder) = (Receiver::new(0, None), Decoder::<1037>::new());
    let (mut now_ms, mut taken) = (0, Vec::new());
    let mut out = [0; FRAME_BYTES_MAX];
    while sender.held() > 0 {
        match sender.poll(now_ms, &mut out).expect("fits") {
            Action::Send(used) => {
                now_ms += used as u64 * 10 * 1000 / 9_600;
                sender.transmitted(now_ms);
                for &byte in &out[..used] {
                    if let Outcome::Frame(frame) = decoder.push(byte)
                        && let Verdict::Take(take) = receiver.receive(&frame)
                    {
                        receiver.taken(&take);
                        taken.push(take);
                    }
                }
            }
            // The whole window is out: only now does the gateway commit.
            Action::Wait(until_ms) => {
                now_ms = until_ms - 1;
                for take in taken.drain(..) {
                    receiver.committed(&take);
                }
                let header = receiver.ack(now_ms).expect("a commit is acknowledged");
                let used = encode(header, &[], &mut out).expect("fits");
                let mut device = Decoder::<21>::new();
                let (_, Outcome::Frame(ack)) = device.take(&out[..used]) else {
                    panic!("an ACK is one frame");
                };
                assert!(matches!(sender.hear(&ack, now_ms), Heard::Acknowledged(_)));
            }
            Action::Idle => panic!("{} messages are held and none is due", sender.held()),
        }
    }
    assert_eq!(sender.resent(), 0);
    assert_eq!(sender.next_sequence(), MESSAGES);
}
