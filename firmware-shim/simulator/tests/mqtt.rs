//! Simulated devices that publish to a real Mosquitto, with a subscriber that counts.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rumqttc::{Client, Connection, Event, MqttOptions as SubscriberOptions, Packet, QoS};
use rustix::process::{Pid, Signal, kill_process};
use sensor_sim::SimError;
use sensor_sim::fleet::Fleet;
use sensor_sim::mqtt::connection::TlsFiles;
use sensor_sim::mqtt::wire::{Protocol, Qos};
use sensor_sim::mqtt::{MqttError, MqttOptions, publish};
use sensor_sim::profile::Profile;
use sensor_sim::progress::{Counters, Report};
use sensor_sim::run::Run;
use sensor_sim::schedule::Schedule;

const PATIENCE: Duration = Duration::from_secs(60);

/// A Mosquitto of our own; killed with the test.
struct Broker {
    directory: tempfile::TempDir,
    port: u16,
    process: Child,
}

impl Broker {
    fn start(extra: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let config = format!(
            "listener {port} 127.0.0.1\nuser root\npersistence true\n\
             persistence_location {}/\nmax_queued_messages 0\n{extra}\n",
            directory.path().display()
        );
        let path = directory.path().join("mosquitto.conf");
        std::fs::write(&path, config).unwrap();
        let process = spawn(path);
        let mut broker = Self {
            directory,
            port,
            process,
        };
        broker.wait_ready();
        broker
    }

    /// Stops it as a service manager does, and starts it again with what it has stored.
    fn restart(&mut self) {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, Signal::TERM).unwrap();
        self.process.wait().unwrap();
        self.process = spawn(self.directory.path().join("mosquitto.conf"));
        self.wait_ready();
    }

    fn wait_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < deadline, "mosquitto does not listen");
            assert!(
                self.process.try_wait().unwrap().is_none(),
                "mosquitto has ended"
            );
            std::thread::yield_now();
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.process.kill().unwrap_or_default();
        self.process.wait().map(drop).unwrap_or_default();
    }
}

fn spawn(config: PathBuf) -> Child {
    Command::new("mosquitto")
        .arg("-c")
        .arg(config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("mosquitto is installed (Debian package mosquitto)")
}

/// What arrived, per device, in order of arrival.
#[derive(Default)]
struct Arrivals(BTreeMap<String, Vec<u64>>);

impl Arrivals {
    fn note(&mut self, topic: &str, payload: &[u8]) {
        let json: serde_json::Value = serde_json::from_slice(payload).unwrap();
        let device = json["device"].as_str().unwrap().to_owned();
        assert!(topic.ends_with(&device), "{topic} carries {device}");
        let sequence = json["sequence"].as_u64().unwrap();
        self.0.entry(device).or_default().push(sequence);
    }

    /// Messages, each counted once.
    fn first_arrivals(&self) -> BTreeMap<&str, Vec<u64>> {
        self.0
            .iter()
            .map(|(device, sequences)| {
                let mut seen = std::collections::BTreeSet::new();
                let firsts = sequences
                    .iter()
                    .copied()
                    .filter(|&sequence| seen.insert(sequence));
                (device.as_str(), firsts.collect())
            })
            .collect()
    }

    fn distinct(&self) -> usize {
        self.first_arrivals().values().map(Vec::len).sum()
    }

    fn total(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    fn assert_complete(&self, devices: usize, each: u64) {
        let firsts = self.first_arrivals();
        assert_eq!(firsts.len(), devices);
        for (device, sequences) in firsts {
            assert_eq!(sequences, (0..each).collect::<Vec<_>>(), "{device}");
        }
    }
}

/// A subscriber with a session that outlives the broker's restart.
struct Subscriber {
    _client: Client,
    connection: Connection,
}

impl Subscriber {
    fn start(port: u16) -> Self {
        let mut options = SubscriberOptions::new("counter", "127.0.0.1", port);
        options.set_clean_session(false);
        let (client, mut connection) = Client::new(options, 16);
        client.subscribe("city/#", QoS::AtLeastOnce).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "no SUBACK");
            match connection.recv_timeout(PATIENCE).unwrap().unwrap() {
                Event::Incoming(Packet::SubAck(_)) => break,
                Event::Incoming(_) | Event::Outgoing(_) => {}
            }
        }
        Self {
            _client: client,
            connection,
        }
    }

    /// Counts until so many different messages have arrived.
    fn collect(mut self, distinct: usize) -> Arrivals {
        let mut arrivals = Arrivals::default();
        let deadline = Instant::now() + PATIENCE;
        // Counting the different ones costs; there are at least as many in total.
        while arrivals.total() < distinct || arrivals.distinct() < distinct {
            assert!(
                Instant::now() < deadline,
                "{} of {distinct}",
                arrivals.distinct()
            );
            // An error is the broker's restart: the next call connects again.
            if let Ok(Ok(Event::Incoming(Packet::Publish(publish)))) =
                self.connection.recv_timeout(Duration::from_millis(100))
            {
                arrivals.note(&publish.topic, &publish.payload);
            }
        }
        arrivals
    }
}

fn options(port: u16, protocol: Protocol, qos: Qos) -> MqttOptions {
    MqttOptions {
        url: format!("mqtt://127.0.0.1:{port}"),
        tls: TlsFiles::default(),
        protocol,
        qos,
        topic: "city/{district}/{profile}/{device}".parse().unwrap(),
        connections: 2,
        in_flight_max: 20,
        client_id: "sim".to_owned(),
        login: None,
        connect_timeout: Duration::from_secs(10),
        payload_bytes_min: 200,
    }
}

fn simulate(
    options: &MqttOptions,
    schedule: Schedule,
    during: impl FnOnce(&Counters) + Send + 'static,
) -> (Result<(), SimError>, Report) {
    let fleet = Fleet {
        profile: Profile::Air,
        seed: 5,
        first: 0,
        devices: 5,
    };
    let run = Run::new(schedule);
    let work = async { Ok(publish(options, fleet, &run).await?) };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let counters = run.counters();
    let meanwhile = std::thread::spawn(move || during(&counters));
    let result = runtime.block_on(run.supervise(PATIENCE, work));
    meanwhile.join().unwrap();
    let acknowledging = options.qos != Qos::AtMostOnce;
    (
        result,
        Report::new(&run.counters(), 5, acknowledging, run.elapsed()),
    )
}

fn at_once(count: u64) -> Schedule {
    Schedule {
        rate: 0.0,
        count: Some(count),
        duration: None,
    }
}

#[test]
fn every_version_and_qos_delivers_everything_once_and_in_order() {
    let broker = Broker::start("allow_anonymous true");
    for protocol in [Protocol::V5, Protocol::V311] {
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
            let subscriber = Subscriber::start(broker.port);
            let collector = std::thread::spawn(move || subscriber.collect(2_000));
            let options = options(broker.port, protocol, qos);
            let (result, report) = simulate(&options, at_once(2_000), |_| {});
            result.unwrap();
            let arrivals = collector.join().unwrap();
            arrivals.assert_complete(5, 400);
            assert_eq!(arrivals.total(), 2_000, "{protocol:?} {qos:?}");
            assert_eq!(report.sent, 2_000);
            assert_eq!(
                report.acknowledged,
                (qos != Qos::AtMostOnce).then_some(2_000)
            );
            assert_eq!(report.resent, 0);
        }
    }
}

#[test]
fn a_broker_that_is_restarted_under_load_gets_everything_in_order() {
    for (protocol, qos) in [
        (Protocol::V5, Qos::AtLeastOnce),
        (Protocol::V311, Qos::AtLeastOnce),
        (Protocol::V5, Qos::ExactlyOnce),
        (Protocol::V311, Qos::ExactlyOnce),
    ] {
        let mut broker = Broker::start("allow_anonymous true");
        let options = options(broker.port, protocol, qos);
        let subscriber = Subscriber::start(broker.port);
        let collector = std::thread::spawn(move || subscriber.collect(3_000));
        let schedule = Schedule {
            rate: 2_000.0,
            count: Some(3_000),
            duration: None,
        };
        let (result, report) = simulate(&options, schedule, move |counters| {
            let deadline = Instant::now() + PATIENCE;
            for goal in [700, 1_900] {
                while Counters::get(&counters.acknowledged) < goal {
                    assert!(Instant::now() < deadline, "no progress to {goal}");
                    std::thread::yield_now();
                }
                broker.restart();
            }
            while Counters::get(&counters.acknowledged) < 3_000 {
                assert!(Instant::now() < deadline, "not all acknowledged");
                std::thread::yield_now();
            }
            collector.join().unwrap().assert_complete(5, 600);
        });
        result.unwrap();
        assert_eq!(report.acknowledged, Some(3_000), "{protocol:?} {qos:?}");
        assert!(report.reconnects >= 2, "{report}");
    }
}

#[test]
fn a_login_that_the_broker_refuses_ends_the_run_at_once() {
    let broker = Broker::start("allow_anonymous false");
    for protocol in [Protocol::V5, Protocol::V311] {
        let options = options(broker.port, protocol, Qos::AtLeastOnce);
        let (result, report) = simulate(&options, at_once(10), |_| {});
        assert!(
            matches!(
                result,
                Err(SimError::Mqtt(MqttError::Refused {
                    permanent: true,
                    ..
                }))
            ),
            "{result:?}"
        );
        assert_eq!(report.acknowledged, Some(0));
    }
}

#[test]
fn a_broker_that_is_never_there_ends_the_run_and_is_named() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut options = options(port, Protocol::V5, Qos::AtLeastOnce);
    options.connect_timeout = Duration::ZERO;
    let (result, _report) = simulate(&options, at_once(10), |_| {});
    let Err(SimError::Mqtt(MqttError::NeverConnected { source })) = result else {
        panic!("{result:?}");
    };
    assert!(source.to_string().contains(&port.to_string()), "{source}");
}

/// Runs openssl in `directory`.
fn openssl(directory: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(directory)
        .output()
        .expect("openssl is installed");
    assert!(output.status.success(), "{arguments}: {output:?}");
}

/// Makes an authority, and certificates of it for a server on 127.0.0.1 and for a client.
fn make_certificates(directory: &Path) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(
        directory,
        &format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=ca -days 2"),
    );
    std::fs::write(directory.join("san"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    for name in ["server", "client"] {
        openssl(
            directory,
            &format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"),
        );
        openssl(
            directory,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
                 -extfile san -out {name}.pem"
            ),
        );
    }
}

#[test]
fn tls_with_a_client_certificate_and_a_password_delivers() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    make_certificates(directory.path());
    let made = Command::new("mosquitto_passwd")
        .args(["-b", "-c"])
        .arg(path("passwords"))
        .args(["sim", "secret"])
        .status();
    assert!(made.expect("mosquitto_passwd is installed").success());
    let broker = Broker::start(&format!(
        "allow_anonymous false\npassword_file {0}/passwords\ncafile {0}/ca.pem\n\
         certfile {0}/server.pem\nkeyfile {0}/server.key\nrequire_certificate true",
        directory.path().display()
    ));
    let secure = MqttOptions {
        url: format!("mqtts://127.0.0.1:{}", broker.port),
        tls: TlsFiles {
            ca: Some(path("ca.pem")),
            cert: Some(path("client.pem")),
            key: Some(path("client.key")),
        },
        login: Some(("sim".to_owned(), "secret".to_owned())),
        ..options(broker.port, Protocol::V5, Qos::AtLeastOnce)
    };
    let (result, report) = simulate(&secure, at_once(1_000), |_| {});
    result.unwrap();
    assert_eq!(report.acknowledged, Some(1_000));

    let distrustful = MqttOptions {
        tls: TlsFiles::default(),
        connect_timeout: Duration::ZERO,
        ..secure
    };
    let (result, report) = simulate(&distrustful, at_once(10), |_| {});
    assert!(matches!(
        result,
        Err(SimError::Mqtt(MqttError::NeverConnected { .. }))
    ));
    assert_eq!(report.acknowledged, Some(0));
}

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sensor-sim"));
    command
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

#[test]
fn sigterm_ends_an_endless_run_once_all_is_acknowledged() {
    let broker = Broker::start("allow_anonymous true");
    let subscriber = Subscriber::start(broker.port);
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    let arguments = [
        "mqtt",
        "--url",
        &url,
        "--rate",
        "500",
        "--devices",
        "3",
        "--json",
    ];
    let process = program(&arguments).spawn().unwrap();
    subscriber.collect(200);
    kill_process(Pid::from_child(&process), Signal::TERM).unwrap();
    let output = process.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["sent"].as_u64().unwrap() >= 200);
    assert_eq!(report["sent"], report["acknowledged"]);
    assert_eq!(report["devices"], 3);
}

#[test]
fn exit_codes_tell_usage_from_failure() {
    let code = |arguments: &[&str]| program(arguments).status().unwrap().code();
    assert_eq!(code(&["--help"]), Some(0));
    assert_eq!(
        code(&["mqtt", "--url", "mqtt://127.0.0.1", "--qos", "7"]),
        Some(64)
    );
    assert_eq!(
        code(&["serial", "--pty", "/tmp/unused", "--devices", "300"]),
        Some(64)
    );
    assert_eq!(code(&["mqtt", "--url", "http://127.0.0.1"]), Some(1));
}
