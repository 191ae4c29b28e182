//! Base64 (RFC 4648), encoding only: two alphabets, appended to a buffer.

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL_SAFE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Section 4, with padding.
pub(crate) fn append_standard(bytes: &[u8], out: &mut Vec<u8>) {
    append(bytes, STANDARD, out);
    let padding = (3 - bytes.len() % 3) % 3;
    out.extend_from_slice(&b"=="[..padding]);
}

/// Section 5, without padding, as `SenML`'s data values are (RFC 8428, section 4.3).
pub(super) fn append_url_safe(bytes: &[u8], out: &mut Vec<u8>) {
    append(bytes, URL_SAFE, out);
}

fn append(bytes: &[u8], alphabet: &[u8; 64], out: &mut Vec<u8>) {
    for chunk in bytes.chunks(3) {
        let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for sextet in 0..=chunk.len() {
            out.push(alphabet[(bits >> (18 - 6 * sextet) & 0x3f) as usize]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_vectors_of_rfc_4648_come_out() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            let mut out = Vec::new();
            append_standard(plain.as_bytes(), &mut out);
            assert_eq!(out, encoded.as_bytes());
        }
    }

    #[test]
    fn the_url_alphabet_has_neither_plus_nor_slash_nor_padding() {
        let mut out = Vec::new();
        append_url_safe(&[0xfb, 0xff, 0xfe, 0xff], &mut out);
        assert_eq!(out, b"-__-_w");
    }
}
