//! A device whose boots all have the same session: no boot counter, and bad luck with randomness.
//!
//! Such a boot shows in its first message, which differs from the one that had its number. So two
//! things are taken for granted, and are why a session should be new at every boot: the first frame
//! of a boot arrives, and no ACK of an earlier boot is still on its way. Otherwise nothing tells the
//! two boots apart: a message that the device holds, and the gateway has, may just lack its ACK.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::receiver::{Receiver, Take, Verdict};
use super::sender::{Action, Config, Heard, Sender};
use crate::decoder::{Decoder, Outcome};
use crate::frame::{FRAME_BYTES_MAX, Kind, encode};

const SLOTS: usize = 12;
const SESSION: u16 = 7;

#[derive(Clone, Copy, Debug)]
enum Step {
    Push,
    Send { arrives: bool },
    Ack { arrives: bool },
    Commit,
    Advance(u16),
    Reboot,
}

struct World {
    now_ms: u64,
    sender: Sender<SLOTS, 8>,
    /// Messages that the device holds, and all of its last boot.
    held: VecDeque<u64>,
    pushed: Vec<u64>,
    next_id: u64,
    /// For a device that has learned that its session is taken.
    next_session: u16,
    receiver: Receiver,
    taken: Vec<(Take, u64)>,
    log: Vec<u64>,
    /// A frame of this boot has arrived.
    heard: bool,
}

impl World {
    fn new() -> Self {
        Self {
            now_ms: 0,
            sender: Sender::new(Config::new(0, SESSION)),
            held: VecDeque::new(),
            pushed: Vec::new(),
            next_id: 0,
            next_session: 100,
            receiver: Receiver::new(0, None),
            taken: Vec::new(),
            log: Vec::new(),
            heard: false,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Push if self.sender.is_full() => {}
            Step::Push => {
                let id = self.next_id;
                self.next_id += 1;
                let pushed = self.sender.push(Kind::Opaque, &id.to_le_bytes());
                assert_eq!(pushed.expect("fits").overwritten, None);
                self.held.push_back(id);
                self.pushed.push(id);
            }
            Step::Send { arrives } => self.send(arrives),
            Step::Ack { arrives } => self.ack(arrives),
            Step::Commit => {
                for (take, id) in self.taken.drain(..) {
                    self.receiver.committed(&take);
                    self.log.push(id);
                }
            }
            Step::Advance(ms) => self.now_ms += u64::from(ms),
            Step::Reboot => self.reboot(),
        }
    }

    fn reboot(&mut self) {
        self.step(Step::Commit);
        self.now_ms += 1000;
        while self.receiver.ack(self.now_ms).is_some() {
            self.now_ms += 1000;
        }
        self.sender = Sender::new(Config::new(0, SESSION));
        self.held.clear();
        self.pushed.clear();
        self.heard = false;
    }

    fn send(&mut self, arrives: bool) {
        let mut out = [0; FRAME_BYTES_MAX];
        let Action::Send(used) = self.sender.poll(self.now_ms, &mut out).expect("fits") else {
            return;
        };
        self.sender.transmitted(self.now_ms);
        let mut decoder = Decoder::<64>::new();
        let (_, Outcome::Frame(frame)) = decoder.take(&out[..used]) else {
            panic!("a frame that was encoded");
        };
        if !arrives && self.heard {
            return;
        }
        self.heard = true;
        if let Verdict::Take(take) = self.receiver.receive(&frame) {
            let id = *frame.payload.first_chunk().expect("an id");
            self.receiver.taken(&take);
            self.taken.push((take, u64::from_le_bytes(id)));
        }
    }

    fn ack(&mut self, arrives: bool) {
        let Some(header) = self.receiver.ack(self.now_ms).filter(|_| arrives) else {
            return;
        };
        let mut out = [0; FRAME_BYTES_MAX];
        let used = encode(header, &[], &mut out).expect("fits");
        let mut decoder = Decoder::<64>::new();
        let (_, Outcome::Frame(frame)) = decoder.take(&out[..used]) else {
            panic!("a frame that was encoded");
        };
        match self.sender.hear(&frame, self.now_ms) {
            Heard::Acknowledged(count) => {
                for _ in 0..count {
                    let id = self.held.pop_front().expect("it was held");
                    assert!(
                        self.log.contains(&id),
                        "{id} is acknowledged and not stored"
                    );
                }
            }
            Heard::SessionClash => {
                self.sender.restart(self.next_session);
                self.next_session += 1;
            }
            Heard::Time(_) | Heard::Ignored => {}
        }
    }

    fn drain(&mut self) {
        for _ in 0..1_000 {
            self.step(Step::Send { arrives: true });
            self.step(Step::Commit);
            self.step(Step::Ack { arrives: true });
            self.step(Step::Advance(100));
            if self.sender.held() == 0 {
                return;
            }
        }
        panic!("no progress on a good line: {} held", self.sender.held());
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Push),
        8 => prop::bool::weighted(0.7).prop_map(|arrives| Step::Send { arrives }),
        4 => prop::bool::weighted(0.7).prop_map(|arrives| Step::Ack { arrives }),
        4 => Just(Step::Commit),
        3 => (0_u16..2_000).prop_map(Step::Advance),
        1 => Just(Step::Reboot),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn a_boot_into_the_same_session_loses_nothing_once_its_first_message_was_heard(
        steps in proptest::collection::vec(step(), 0..400),
    ) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.drain();
        let mut first_places = Vec::new();
        for id in &world.pushed {
            let place = world.log.iter().position(|stored| stored == id);
            prop_assert!(place.is_some(), "{id} is lost");
            first_places.push(place);
        }
        prop_assert!(first_places.is_sorted(), "{first_places:?}");
    }
}
