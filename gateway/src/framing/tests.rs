//! Golden bytes of every framing, what is rejected and why, and finding one's place again.

use std::time::Duration;

use firmware_shim::decoder::Rejection as Link;
use firmware_shim::frame::{self, Header, Kind};
use proptest::prelude::*;

use super::*;

const BYTES_MAX: usize = 256;
const IDLE: Duration = Duration::from_millis(5);

/// A telegram as a DSMR P1 meter sends it.
const TELEGRAM: &[u8] = b"/ABC5\\2M999999999-1001\r\n\r\n1-3:0.2.8(50)\r\n\
    0-0:1.0.0(260301120000W)\r\n1-0:1.8.1(001234.567*kWh)\r\n1-0:1.7.0(00.431*kW)\r\n!D323";

fn format(framing: Framing, checksum: Option<Checksum>) -> Format {
    Format {
        framing,
        checksum,
        frame_bytes_max: BYTES_MAX,
        baud_rate: 115_200,
    }
}

fn delimited(start: &str, end: &str) -> Framing {
    Framing::Delimited {
        start: start.into(),
        end: end.into(),
    }
}

fn telegrams() -> Format {
    format(delimited("/", "!"), Some(Checksum::Dsmr))
}

/// What a stream comes to; its portions are a silence apart.
#[derive(Debug, Default, PartialEq)]
struct Decoded {
    frames: Vec<Vec<u8>>,
    rejections: Vec<Rejection>,
}

impl Decoded {
    fn note(&mut self, outcome: Outcome, decoder: &dyn FrameDecoder) {
        match outcome {
            Outcome::Pending => {}
            Outcome::Frame => self.frames.push(decoder.frame().to_vec()),
            Outcome::Rejected(rejection) => self.rejections.push(rejection),
        }
    }
}

fn decode(decoder: &mut dyn FrameDecoder, portions: &[&[u8]]) -> Decoded {
    let mut decoded = Decoded::default();
    for portion in portions {
        for &byte in *portion {
            let outcome = decoder.push(byte);
            decoded.note(outcome, decoder);
        }
        if decoder.silence().is_some() {
            let outcome = decoder.silent();
            decoded.note(outcome, decoder);
        }
    }
    decoded
}

fn decoded(format: &Format, portions: &[&[u8]]) -> Decoded {
    decode(decoder(format).as_mut(), portions)
}

fn expect(format: &Format, portions: &[&[u8]], frames: &[&[u8]], rejections: &[Rejection]) {
    let expected = Decoded {
        frames: frames.iter().map(|frame| frame.to_vec()).collect(),
        rejections: rejections.to_vec(),
    };
    assert_eq!(decoded(format, portions), expected, "{format:?}");
}

#[test]
fn lines_end_in_lf_or_crlf() {
    let lines = format(Framing::Lines, None);
    let stream = b"one\ntwo\r\n\n\r\n\xff\xfe\rx\nend";
    expect(&lines, &[stream], &[b"one", b"two", b"\xff\xfe\rx"], &[]);
}

#[test]
fn a_line_may_be_as_long_as_the_limit_whatever_ends_it() {
    let lines = format(Framing::Lines, None);
    let (most, over) = ([b'x'; BYTES_MAX], [b'x'; BYTES_MAX + 1]);
    let stream = [
        &most[..],
        b"\r\n",
        &over,
        b"\n",
        &most,
        b"\n",
        &over,
        b"\r\nok\n",
    ]
    .concat();
    let rejections = [Rejection::TooLong, Rejection::TooLong];
    expect(&lines, &[&stream], &[&most, &most, b"ok"], &rejections);
}

#[test]
fn cobs_frames_are_as_in_the_papers_examples() {
    let cobs = format(Framing::Cobs, None);
    expect(&cobs, &[&[1, 1, 0]], &[&[0]], &[]);
    expect(
        &cobs,
        &[&[3, 0x11, 0x22, 2, 0x33, 0]],
        &[&[0x11, 0x22, 0, 0x33]],
        &[],
    );
    expect(
        &cobs,
        &[&[0, 0, 2, 0x11, 1, 1, 1, 0, 0]],
        &[&[0x11, 0, 0, 0]],
        &[],
    );
    let run: Vec<u8> = (1..=254).collect();
    let coded = [&[0xff], &run[..], &[0]].concat();
    expect(&cobs, &[&coded], &[&run], &[]);
    let coded = [&[0xff], &run[..], &[2, 0xff, 0]].concat();
    expect(&cobs, &[&coded], &[&[&run[..], &[0xff]].concat()], &[]);
}

#[test]
fn a_cobs_code_past_the_end_rejects_the_frame_and_the_next_is_read() {
    let cobs = format(Framing::Cobs, None);
    let rejection = Rejection::Link(Link::Cobs);
    expect(&cobs, &[&[5, 1, 2, 0, 2, 9, 0]], &[&[9]], &[rejection]);
}

#[test]
fn slip_frames_are_as_in_rfc_1055() {
    let slip = format(Framing::Slip, None);
    let stream = [
        0xc0, b'a', 0xdb, 0xdc, b'b', 0xdb, 0xdd, 0xc0, 0xc0, b'c', 0xc0,
    ];
    expect(&slip, &[&stream], &[&[b'a', 0xc0, b'b', 0xdb], b"c"], &[]);
}

#[test]
fn an_unknown_slip_escape_rejects_the_frame_and_the_next_is_read() {
    let slip = format(Framing::Slip, None);
    let stream = [b'a', 0xdb, b'x', b'y', 0xc0, b'b', 0xdb, 0xc0, b'c', 0xc0];
    let rejections = [Rejection::Escape, Rejection::Escape];
    expect(&slip, &[&stream], &[b"c"], &rejections);
}

#[test]
fn lengths_of_one_and_two_bytes_count_the_payload() {
    let short = format(Framing::LengthU8, None);
    expect(&short, &[b"\x03abc\x00\x01d"], &[b"abc", b"d"], &[]);
    let long = format(Framing::LengthU16Be, None);
    let payload = [7; BYTES_MAX];
    let stream = [&[1, 0], &payload[..], &[0, 1, b'x']].concat();
    expect(&long, &[&stream], &[&payload, b"x"], &[]);
}

#[test]
fn a_length_over_the_limit_is_rejected_and_passed_over() {
    let long = format(Framing::LengthU16Be, None);
    let stream = [&[1, 1], &[7; BYTES_MAX + 1][..], &[0, 1, b'x']].concat();
    expect(&long, &[&stream], &[b"x"], &[Rejection::TooLong]);
}

#[test]
fn a_silence_ends_a_frame_that_is_not_whole() {
    let short = format(Framing::LengthU8, None);
    expect(
        &short,
        &[b"\x05ab", b"\x01x"],
        &[b"x"],
        &[Rejection::Truncated],
    );
    let long = format(Framing::LengthU16Be, None);
    expect(
        &long,
        &[b"\xff", b"\0\x01x"],
        &[b"x"],
        &[Rejection::Truncated],
    );
    expect(
        &long,
        &[b"\xff\xffab", b"\0\x01x"],
        &[b"x"],
        &[Rejection::TooLong],
    );
}

#[test]
fn a_slow_line_is_given_more_time_between_bytes() {
    assert_eq!(frame_gap(115_200), FRAME_GAP_MIN);
    assert_eq!(frame_gap(300), Duration::from_micros(666_660));
}

#[test]
fn an_idle_line_ends_a_frame() {
    let idle = format(Framing::Idle(IDLE), None);
    let over = [1; BYTES_MAX + 1];
    let rejections = [Rejection::TooLong];
    expect(
        &idle,
        &[b"abc", b"", &over, b"d"],
        &[b"abc", b"d"],
        &rejections,
    );
    let mut decoder = decoder(&idle);
    assert_eq!(
        decoder.silence(),
        None,
        "silence before a frame says nothing"
    );
    decoder.push(1);
    assert_eq!(decoder.silence(), Some(IDLE));
}

#[test]
fn a_modbus_frame_is_taken_with_its_crc_and_noise_is_not() {
    let bus = format(Framing::Idle(IDLE), Some(Checksum::Modbus));
    // The answer of unit 17 to a request for three registers.
    let answer = [0x11, 3, 6, 0xae, 0x41, 0x56, 0x52, 0x43, 0x40, 0x49, 0xad];
    let mut damaged = answer;
    damaged[4] ^= 1;
    let rejections = [Rejection::Checksum; 3];
    // The CRC of nothing is 0xFFFF.
    expect(
        &bus,
        &[&answer, &damaged, &[0x49], &[0xff, 0xff], &answer],
        &[&answer, &answer],
        &rejections,
    );
}

#[test]
fn a_meters_telegram_is_taken_with_its_crc_and_a_damaged_one_is_not() {
    let mut damaged = TELEGRAM.to_vec();
    damaged[90] ^= 4;
    let stream = [
        b"noise\r\n",
        TELEGRAM,
        b"\r\n",
        &damaged,
        b"\r\n",
        TELEGRAM,
        b"\r\n",
    ]
    .concat();
    expect(
        &telegrams(),
        &[&stream],
        &[TELEGRAM, TELEGRAM],
        &[Rejection::Checksum],
    );
}

#[test]
fn a_telegram_without_its_digits_does_not_take_the_next_one_with_it() {
    for cut in ["/a!", "/a!1", "/a!12\r\n"] {
        let stream = [cut.as_bytes(), TELEGRAM].concat();
        expect(
            &telegrams(),
            &[&stream],
            &[TELEGRAM],
            &[Rejection::Checksum],
        );
    }
}

#[test]
fn what_lies_between_delimited_frames_is_passed_over() {
    let texts = format(delimited("\u{2}", "\u{3}"), None);
    expect(
        &texts,
        &[b"x\x02a\x03\r\n\x02\x03y\x02b\x02\x03"],
        &[b"\x02a\x03", b"\x02\x03", b"\x02b\x02\x03"],
        &[],
    );
    let long = format(delimited("<<", ">>"), None);
    expect(
        &long,
        &[b"<<<a>>>-<<>><<b>>"],
        &[b"<<<a>>", b"<<>>", b"<<b>>"],
        &[],
    );
}

#[test]
fn frames_with_an_end_alone_follow_upon_each_other() {
    let texts = format(delimited("", "\r"), None);
    let over = [b'x'; BYTES_MAX];
    let stream = [b"a\rb\r", &over[..], b"\rc\r"].concat();
    expect(
        &texts,
        &[&stream],
        &[b"a\r", b"b\r", b"c\r"],
        &[Rejection::TooLong],
    );
}

#[test]
fn an_end_that_lies_across_the_limit_is_seen() {
    let texts = format(delimited("", "\r\n"), None);
    let stream = [&[b'x'; BYTES_MAX - 1], &b"\r\nok\r\n"[..]].concat();
    expect(&texts, &[&stream], &[b"ok\r\n"], &[Rejection::TooLong]);
}

#[test]
fn a_delimited_frame_over_the_limit_is_rejected_once() {
    let texts = format(delimited("/", "!"), None);
    let stream = [b"/", &[b'x'; 1000][..], b"!/b!"].concat();
    expect(&texts, &[&stream], &[b"/b!"], &[Rejection::TooLong]);
}

#[test]
fn an_end_like_the_start_is_not_taken_for_both() {
    let texts = format(delimited("|", "|"), None);
    expect(&texts, &[b"|a||b|||"], &[b"|a|", b"|b|", b"||"], &[]);
    let texts = format(delimited("||", "||"), None);
    expect(&texts, &[b"|||a||||||"], &[b"|||a||", b"||||"], &[]);
}

#[test]
fn a_frame_far_over_the_limit_is_rejected_once_and_the_next_is_read() {
    for format in [
        format(Framing::Shim, None),
        format(Framing::Lines, None),
        format(Framing::Cobs, None),
        format(Framing::Slip, None),
        format(Framing::LengthU16Be, None),
        format(delimited("\u{2}", "\u{3}"), None),
        format(delimited("", "\r\n"), None),
        telegrams(),
        format(Framing::Idle(IDLE), None),
        format(Framing::Idle(IDLE), Some(Checksum::Modbus)),
    ] {
        let (_, long) = encode(&format, &[7; 3 * BYTES_MAX]);
        let (frame, good) = encode(&format, b"good");
        let decoded = decoded(&format, &[&long, &good]);
        assert_eq!(decoded.frames, [frame], "{format:?}");
        assert_eq!(decoded.rejections.len(), 1, "{format:?}: {decoded:?}");
    }
}

#[test]
fn a_line_is_taken_only_with_the_right_checksum_where_one_is_asked_for() {
    for (checksum, good, bad) in [
        (Checksum::Nmea, "$IIMTW,18.7,C*1D", "$IIMTW,18.8,C*1D"),
        (Checksum::Nmea, "!IIMTW,18.7,C*1d", "IIMTW,18.7,C*1D"),
        (Checksum::CsvXor, "T1,21.5,40,79", "T1,21.5,40,78"),
        (Checksum::CsvCrc16, "T1,21.5,40,7D3E", "T1,21.5,40,7D3F"),
    ] {
        let lines = format(Framing::Lines, Some(checksum));
        let stream = format!("{good}\r\n{bad}\r\n*1D\n,\n$*\n{good}\n");
        let rejections = [Rejection::Checksum; 4];
        expect(
            &lines,
            &[stream.as_bytes()],
            &[good.as_bytes(); 2],
            &rejections,
        );
    }
}

#[test]
fn the_check_values_of_the_catalogue_come_out() {
    assert_eq!(checksum::crc16(0, b"123456789"), 0xbb3d);
    assert_eq!(checksum::crc16(0xffff, b"123456789"), 0x4b37);
}

#[test]
fn a_frame_cut_by_a_lost_port_is_noticed_and_not_joined_to_the_next() {
    for (format, head, whole) in [
        (format(Framing::Lines, None), &b"ha"[..], &b"a\n"[..]),
        (format(Framing::Cobs, None), &[9, 1], &[2, b'a', 0]),
        (format(Framing::Slip, None), &[0xdb], b"a\xc0"),
        (format(Framing::LengthU8, None), &[200], b"\x01a"),
        (format(Framing::LengthU16Be, None), &[0], b"\0\x01a"),
        (format(Framing::Idle(IDLE), None), b"x", b"a"),
        (format(delimited("/", "!"), None), b"/x", b"/a!"),
    ] {
        let mut decoder = decoder(&format);
        assert!(!decoder.cut(), "{format:?}: nothing has begun");
        for &byte in head {
            assert_eq!(decoder.push(byte), Outcome::Pending);
        }
        assert!(decoder.cut(), "{format:?}");
        let decoded = decode(decoder.as_mut(), &[whole]);
        assert_eq!((decoded.frames.len(), decoded.rejections.len()), (1, 0));
        assert!(!decoder.cut(), "{format:?}: the frame was whole");
    }
    let mut decoder = decoder(&format(delimited("<<", ">>"), None));
    decoder.push(b'<');
    assert!(
        !decoder.cut(),
        "a frame has begun only with all of its start"
    );
}

fn encode_cobs(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, part) in payload.split(|&byte| byte == 0).enumerate() {
        let mut part = part;
        if at > 0 && payload.is_empty() {
            break;
        }
        while part.len() >= 254 {
            out.push(0xff);
            out.extend(&part[..254]);
            part = &part[254..];
        }
        out.push(u8::try_from(part.len() + 1).expect("at most 254"));
        out.extend(part);
    }
    out.push(0);
    out
}

fn encode_slip(payload: &[u8]) -> Vec<u8> {
    let escaped = payload.iter().flat_map(|&byte| match byte {
        0xc0 => vec![0xdb, 0xdc],
        0xdb => vec![0xdb, 0xdd],
        _ => vec![byte],
    });
    escaped.chain([0xc0]).collect()
}

fn encode_shim(payload: &[u8]) -> Vec<u8> {
    let header = Header {
        kind: Kind::Opaque,
        address: 0,
        session: 1,
        sequence: 2,
        backlog: 0,
    };
    let mut out = vec![0; frame::FRAME_BYTES_MAX];
    let used = frame::encode(header, payload, &mut out).expect("fits");
    out.truncate(used);
    out
}

/// A payload that the framing can carry, made of `bytes`, and its bytes on the line.
fn encode(format: &Format, bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let printable = || -> Vec<u8> { bytes.iter().map(|byte| b'0' + byte % 60).collect() };
    let length = u16::try_from(bytes.len()).expect("short").to_be_bytes();
    match &format.framing {
        Framing::Shim => (bytes.to_vec(), encode_shim(bytes)),
        Framing::Lines => (printable(), [&printable()[..], b"\r\n"].concat()),
        Framing::Cobs => (bytes.to_vec(), encode_cobs(bytes)),
        Framing::Slip => (bytes.to_vec(), encode_slip(bytes)),
        Framing::LengthU8 => (bytes.to_vec(), [&length[1..], bytes].concat()),
        Framing::LengthU16Be => (bytes.to_vec(), [&length[..], bytes].concat()),
        Framing::Delimited { start, end } => {
            let mut whole = [start, &printable()[..], end].concat();
            if format.checksum == Some(Checksum::Dsmr) {
                let crc = checksum::crc16(0, &whole);
                whole.extend(format!("{crc:04X}").bytes());
            }
            (whole.clone(), whole)
        }
        Framing::Idle(_) => {
            let mut whole = bytes.to_vec();
            if format.checksum == Some(Checksum::Modbus) {
                whole.extend(checksum::crc16(0xffff, bytes).to_le_bytes());
            }
            (whole.clone(), whole)
        }
    }
}

fn any_format() -> impl Strategy<Value = Format> {
    prop_oneof![
        Just(format(Framing::Shim, None)),
        Just(format(Framing::Lines, None)),
        Just(format(Framing::Cobs, None)),
        Just(format(Framing::Slip, None)),
        Just(format(Framing::LengthU8, None)),
        Just(format(Framing::LengthU16Be, None)),
        Just(format(delimited("\u{2}", "\u{3}"), None)),
        Just(format(delimited("\u{2}\u{2}", "\r\n"), None)),
        Just(format(delimited("", "\r\n"), None)),
        Just(telegrams()),
        Just(format(Framing::Idle(IDLE), None)),
        Just(format(Framing::Idle(IDLE), Some(Checksum::Modbus))),
    ]
}

/// Bytes that mean something to one framing or another, and any.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        2 => any::<u8>(),
        1 => prop::sample::select(&b"\0\x01\x02\x03\r\n\xc0\xdb\xdc/!0\xff"[..]),
    ];
    prop::collection::vec(byte, 0..3 * BYTES_MAX)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn after_any_garbage_at_most_one_good_frame_is_lost(
        format in any_format(),
        garbage in garbage(),
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..BYTES_MAX - 8), 2..5),
    ) {
        let mut decoder = decoder(&format);
        for &byte in &garbage {
            decoder.push(byte);
        }
        let (frames, coded): (Vec<_>, Vec<_>) =
            payloads.iter().map(|bytes| encode(&format, bytes)).unzip();
        let portions: Vec<&[u8]> = coded.iter().map(Vec::as_slice).collect();
        let decoded = decode(decoder.as_mut(), &portions);
        prop_assert!(
            decoded.frames.ends_with(&frames[1..]),
            "{:?} does not end in {:?}", decoded, &frames[1..]
        );
    }

    #[test]
    fn good_frames_come_out_as_they_are_however_they_follow(
        format in any_format(),
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..BYTES_MAX - 8), 0..5),
    ) {
        let (frames, coded): (Vec<_>, Vec<_>) =
            payloads.iter().map(|bytes| encode(&format, bytes)).unzip();
        let portions: Vec<&[u8]> = coded.iter().map(Vec::as_slice).collect();
        let decoded = decoded(&format, &portions);
        prop_assert_eq!(decoded, Decoded { frames, rejections: Vec::new() });
    }

    #[test]
    fn no_frame_is_larger_than_allowed_nor_empty_and_nothing_panics(
        format in any_format(),
        portions in prop::collection::vec(garbage(), 0..4),
    ) {
        let portions: Vec<&[u8]> = portions.iter().map(Vec::as_slice).collect();
        for frame in decoded(&format, &portions).frames {
            let trailer = if format.checksum == Some(Checksum::Dsmr) { 4 } else { 0 };
            prop_assert!(!frame.is_empty() || format.framing == Framing::Shim);
            prop_assert!(frame.len() <= BYTES_MAX + trailer);
        }
    }
}
