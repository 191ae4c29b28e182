//! Frames of the shim link (DESIGN §7), made independently of the code under test.

const VERSION_AND_OPAQUE: u8 = 0x12;

/// An OPAQUE frame of address 0, ready for the line.
#[must_use]
pub fn opaque(session: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    encode(&body(session, sequence, payload))
}

/// Like [`opaque`], with one bit of the payload flipped after the CRC was taken.
#[must_use]
pub fn opaque_damaged(session: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut body = body(session, sequence, payload);
    body[9] ^= 1;
    encode(&body)
}

/// The `sequence` in a payload as tests send it.
#[must_use]
pub fn sequence(payload: Option<&[u8]>) -> Option<u64> {
    let payload: serde_json::Value = serde_json::from_slice(payload?).ok()?;
    payload.get("sequence")?.as_u64()
}

fn body(session: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut body = vec![VERSION_AND_OPAQUE, 0];
    body.extend(session.to_le_bytes());
    body.extend(sequence.to_le_bytes());
    body.push(0);
    body.extend(payload);
    let crc = crc32c(&body);
    body.extend(crc.to_le_bytes());
    body
}

fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// COBS, with the delimiter.
fn encode(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 8);
    let mut rest = body;
    loop {
        let zero = rest
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(rest.len());
        let run = zero.min(254);
        out.push(u8::try_from(run + 1).expect("at most 255"));
        out.extend(&rest[..run]);
        if run == rest.len() {
            break;
        }
        // A full run of 254 stands for no zero.
        rest = &rest[if run == 254 { run } else { run + 1 }..];
    }
    out.push(0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_has_its_check_value() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn zeros_are_stuffed_and_long_runs_cut() {
        assert_eq!(encode(&[1, 0, 0, 2]), [2, 1, 1, 2, 2, 0]);
        assert_eq!(encode(&[]), [1, 0]);
        let long = encode(&[9; 300]);
        assert_eq!((long[0], long[255], long.len()), (255, 47, 303));
    }

    #[test]
    fn a_frame_is_the_one_of_the_wire_contract() {
        let frame = opaque(1, 2, &[0; 256]);
        assert_eq!(frame.len(), 271);
        assert_eq!(
            frame[frame.len() - 6..],
            [0x05, 0x8b, 0x5f, 0x7d, 0x6c, 0x00]
        );
        assert_eq!(
            frame[..10],
            [0x02, 0x12, 0x02, 0x01, 0x02, 0x02, 0x01, 0x01, 0x01, 0x01]
        );
    }
}
