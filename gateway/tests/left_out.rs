//! Parts that are left out of the program: a configuration that asks for one is refused, with what is
//! missing, where it is asked for, and what to do. In a program that has the part it is no mistake, so
//! each case says something in every build; `make features` runs them on one without any part.

use std::fs;
use std::process::Command;

/// The switch, the sections that ask for it, the mistake's key, and what it says.
struct Case {
    switch: &'static str,
    is_in: bool,
    asked_by: &'static str,
    key: &'static str,
    what: &'static str,
}

const MQTT: &str = "[sources.a]\ntype = \"mqtt\"\nurl = \"mqtt://127.0.0.1\"\n\
    subscriptions = [{ filter = \"a/#\" }]\n";
const MQTTS: &str = "[sources.a]\ntype = \"mqtt\"\nurl = \"mqtts://127.0.0.1\"\n\
    subscriptions = [{ filter = \"a/#\" }]\n";
const SERIAL: &str =
    "[sources.a]\ntype = \"serial\"\ndevice = \"/dev/null\"\nframing = \"lines\"\n";
const MODBUS: &str = "[sources.a]\ntype = \"modbus\"\nbus = \"b\"\ninterval = \"1 s\"\n\
    units = [{ id = 1, device = \"d\" }]\nregisters = [{ name = \"t\", kind = \"input\", address = 0 }]\n\
    [buses.b]\ntype = \"tcp\"\naddress = \"127.0.0.1:502\"\n";

const HAS_TLS: bool = cfg!(feature = "tls");

#[rustfmt::skip]
const CASES: [Case; 7] = [
    Case { switch: "mqtt", is_in: cfg!(feature = "mqtt"), asked_by: MQTT,
        key: "sources.a.type", what: "sources of type \"mqtt\" are left out" },
    Case { switch: "serial", is_in: cfg!(feature = "serial"), asked_by: SERIAL,
        key: "sources.a.type", what: "sources of type \"serial\" are left out" },
    Case { switch: "modbus", is_in: cfg!(feature = "modbus"), asked_by: MODBUS,
        key: "sources.a.type", what: "sources of type \"modbus\" are left out" },
    Case { switch: "tls", is_in: HAS_TLS, asked_by: MQTTS,
        key: "sources.a.url", what: "TLS is left out" },
    Case { switch: "tls", is_in: HAS_TLS, asked_by: "[kafka.properties]\n\"security.protocol\" = \"ssl\"\n",
        key: "kafka.properties.security.protocol", what: "needs TLS, which is left out" },
    Case { switch: "tls", is_in: HAS_TLS, asked_by: "[kafka.properties]\n\"enable.ssl.certificate.verification\" = true\n",
        key: "kafka.properties.enable.ssl.certificate.verification", what: "needs TLS, which is left out" },
    Case { switch: "tls", is_in: HAS_TLS, asked_by: "[kafka.properties]\n\"security.protocol\" = \
        \"sasl_plaintext\"\n\"sasl.mechanisms\" = \"SCRAM-SHA-256\"\n\"sasl.username\" = \"u\"\n\
        \"sasl.password\" = \"p\"\n",
        key: "kafka", what: "SASL/SCRAM is left out" },
];

/// What `check` says of a configuration that asks for `case`'s part, on standard error.
fn said_of(case: &Case) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("gateway.toml");
    let text = format!(
        "[gateway]\nid = \"gw\"\ndata_dir = \"{}\"\n[kafka]\nbrokers = [\"k:9092\"]\n\
         topic = \"t\"\n{}",
        dir.path().display(),
        case.asked_by
    );
    fs::write(&file, text).expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_edge-gateway"))
        .args(["check", "--config"])
        .arg(&file)
        .output()
        .expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !case.is_in {
        assert_eq!(output.status.code(), Some(78), "{said}");
    }
    said
}

#[test]
fn a_part_that_is_left_out_is_a_mistake_that_says_where_and_which_switch_it_takes() {
    for case in &CASES {
        let said = said_of(case);
        let mistake = said.lines().zip(said.lines().skip(1)).find(|(line, _)| {
            line.contains(&format!(": {}: ", case.key)) && line.contains(case.what)
        });
        assert_eq!(mistake.is_some(), !case.is_in, "{}: {said}", case.what);
        if let Some((line, hint)) = mistake {
            assert!(
                line.starts_with('/') && line.contains("gateway.toml:"),
                "{line}"
            );
            let switch = format!("built with the switch {:?}", case.switch);
            assert!(hint.contains(&switch), "{said}");
        }
    }
}

#[test]
fn the_version_lists_what_is_in() {
    let output = Command::new(env!("CARGO_BIN_EXE_edge-gateway"))
        .arg("--version")
        .output()
        .expect("the binary runs");
    let version = String::from_utf8_lossy(&output.stdout).into_owned();
    let switches: Vec<&str> = version
        .lines()
        .filter_map(|line| line.strip_prefix("with:"))
        .flat_map(str::split_whitespace)
        .collect();
    for case in &CASES {
        assert_eq!(switches.contains(&case.switch), case.is_in, "{version}");
    }
}
