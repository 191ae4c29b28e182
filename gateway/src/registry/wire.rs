//! What the gateway and the store's process say to each other, over a pipe each way.
//!
//! ```text
//! u32 LE length │ CBOR       gateway: Request      store's process: Answer, one or more to each
//! ```
//!
//! Both ends are the same program file, so that the format needs no version.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::devices::Device;
use super::store::StoredDevice;

/// Above what [`BATCH_DEVICES`](super::keeper::BATCH_DEVICES) of the longest names take.
const FRAME_BYTES_MAX: u32 = 1 << 20;

/// What the gateway asks for. Before the first one the process says whether it has the store open.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Request {
    /// All devices.
    Load,
    /// New states of devices; those without one are removed.
    Write(Vec<(String, Option<Device>)>),
    /// The end.
    Close {
        /// As of `Store::close`.
        sync: bool,
    },
}

/// What comes of it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// Some devices; more answers follow.
    Devices(Vec<StoredDevice>),
    /// It is done.
    Done,
    /// It failed; the process ends.
    Failed {
        /// As of `StoreError::reason`.
        reason: String,
        /// For people.
        text: String,
    },
}

pub(super) fn send(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let bytes = serde_cbor::to_vec(message).map_err(io::Error::other)?;
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&bytes)?;
    to.flush()
}

/// # Errors
/// `UnexpectedEof` where the other end is gone, `InvalidData` for what is no message.
pub(super) fn receive<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > FRAME_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::new();
    from.take(u64::from(length)).read_to_end(&mut bytes)?;
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    serde_cbor::from_slice(&bytes).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::devices::KEY_BYTES_MAX;
    use super::super::keeper::BATCH_DEVICES;
    use super::*;

    fn device() -> Device {
        let entry = Device::from_bytes(&serde_cbor::to_vec(&longest()).expect("a map"));
        entry.expect("a device")
    }

    /// A device whose every number takes the most bytes.
    fn longest() -> serde_cbor::Value {
        let number = |n: i128| serde_cbor::Value::Integer(n);
        let link = [
            ("address", 255),
            ("session", 65_535),
            ("sequence", u32::MAX.into()),
        ];
        let map = |pairs: Vec<(&str, serde_cbor::Value)>| {
            let pairs = pairs.into_iter();
            serde_cbor::Value::Map(
                pairs
                    .map(|(k, v)| (serde_cbor::Value::Text(k.to_owned()), v))
                    .collect(),
            )
        };
        map(vec![
            ("first_ms", number(i64::MIN.into())),
            ("last_ms", number(i64::MIN.into())),
            ("records", number(u64::MAX.into())),
            ("bytes", number(u64::MAX.into())),
            ("link", map(link.map(|(k, n)| (k, number(n))).to_vec())),
        ])
    }

    #[test]
    fn a_full_batch_of_the_longest_devices_arrives_as_it_was_sent() {
        let devices = vec![("x".repeat(KEY_BYTES_MAX), device()); BATCH_DEVICES];
        let mut pipe = Vec::new();
        send(&mut pipe, &Answer::Devices(devices)).expect("room");
        send(&mut pipe, &Answer::Done).expect("room");
        let mut pipe = pipe.as_slice();
        let Ok(Answer::Devices(devices)) = receive(&mut pipe) else {
            panic!("no devices");
        };
        assert_eq!(devices.len(), BATCH_DEVICES);
        assert_eq!(devices[0].1, device());
        assert_eq!(receive::<Answer>(&mut pipe).expect("whole"), Answer::Done);
        let end = receive::<Answer>(&mut pipe).expect_err("the end");
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_or_a_message_and_no_more(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = receive::<Request>(&mut bytes.as_slice());
            let _ = receive::<Answer>(&mut bytes.as_slice());
        }
    }
}
