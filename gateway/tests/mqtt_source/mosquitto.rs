//! Against Debian's Mosquitto.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use edge_gateway::config::{MqttProtocol, MqttTls, Subscription};

use crate::fixture::{Gateway, config, soon, until};

const COUNT: usize = 2000;

/// A Mosquitto of the test's own, in a directory of its own. Killed when dropped.
struct Mosquitto {
    process: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Mosquitto {
    fn start(listener_options: &str, prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        prepare(dir.path());
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|free| free.local_addr())
            .expect("a free port")
            .port();
        let options = listener_options.replace("{dir}", &dir.path().display().to_string());
        let config = format!(
            "user root\nlistener {port} 127.0.0.1\nallow_anonymous true\n\
             max_inflight_messages 500\nmax_queued_messages 0\n{options}"
        );
        let path = dir.path().join("mosquitto.conf");
        std::fs::write(&path, config).expect("the configuration");
        let process = Command::new("mosquitto")
            .arg("-c")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .spawn()
            .expect("mosquitto must be installed: apt-get install mosquitto");
        Self {
            process,
            port,
            _dir: dir,
        }
    }

    async fn is_up(&self) {
        let port = self.port;
        until("mosquitto listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        })
        .await;
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Publishes `COUNT` messages, with the numbers from 0 as payloads, and returns when the broker has
/// them all: one more is sent at quality of service 2, and its PUBCOMP awaited.
async fn publish_all(options: rumqttc::MqttOptions, qos: u8) {
    let completions = if qos == 2 { COUNT + 1 } else { 1 };
    let qos = rumqttc::qos(qos).expect("0 to 2");
    let (client, mut events) = rumqttc::AsyncClient::new(options, 100);
    let feeder = async {
        for number in 0..COUNT {
            let topic = format!("city/{}", number % 10);
            let sent = client.publish(topic, qos, false, number.to_string());
            sent.await.expect("the event loop runs");
        }
        let last = client.publish("end", rumqttc::QoS::ExactlyOnce, false, "");
        last.await.expect("the event loop runs");
    };
    let poller = async {
        let mut completed = 0;
        while completed < completions {
            let event = events.poll().await.expect("the broker is there");
            if let rumqttc::Event::Incoming(rumqttc::Packet::PubComp(_)) = event {
                completed += 1;
            }
        }
    };
    soon("all published", async { tokio::join!(feeder, poller) }).await;
}

fn publisher(port: u16) -> rumqttc::MqttOptions {
    let mut options = rumqttc::MqttOptions::new("publisher", "127.0.0.1", port);
    options.set_inflight(100);
    options
}

async fn every_message_arrives_once_in_order(protocol: MqttProtocol) {
    let broker = Mosquitto::start("", |_| {});
    broker.is_up().await;
    for qos in 0..3 {
        let gateway = Gateway::new();
        let mut config = config(protocol, broker.port);
        config.client_id = format!("gw-{qos}");
        config.subscriptions[0].qos = qos;
        let mut source = gateway.start(config, false);
        source.is_ready().await;
        publish_all(publisher(broker.port), qos).await;
        until("all committed", || {
            gateway.figures.committed.get() == COUNT as u64
        })
        .await;
        source.stop();
        source.ended().await.expect("an orderly end");
        let expected: Vec<String> = (0..COUNT).map(|number| number.to_string()).collect();
        assert_eq!(gateway.payloads(), expected, "quality of service {qos}");
    }
}

#[tokio::test]
async fn every_message_arrives_once_in_order_over_mqtt_5() {
    every_message_arrives_once_in_order(MqttProtocol::V5).await;
}

#[tokio::test]
async fn every_message_arrives_once_in_order_over_mqtt_3_1_1() {
    every_message_arrives_once_in_order(MqttProtocol::V311).await;
}

#[tokio::test]
async fn what_is_published_while_the_source_is_away_comes_when_it_returns() {
    for protocol in [MqttProtocol::V5, MqttProtocol::V311] {
        let broker = Mosquitto::start("", |_| {});
        broker.is_up().await;
        let gateway = Gateway::new();
        let mut source = gateway.start(config(protocol, broker.port), false);
        source.is_ready().await;
        source.stop();
        source.ended().await.expect("an orderly end");
        publish_all(publisher(broker.port), 1).await;
        let _source = gateway.start(config(protocol, broker.port), true);
        until("all committed", || {
            gateway.figures.committed.get() == COUNT as u64
        })
        .await;
        assert_eq!(gateway.records().len(), COUNT, "no gap, no duplicate");
    }
}

#[tokio::test]
async fn two_sources_share_a_subscription() {
    let broker = Mosquitto::start("", |_| {});
    broker.is_up().await;
    let gateways = [Gateway::new(), Gateway::new()];
    let mut sources = Vec::new();
    for (number, gateway) in gateways.iter().enumerate() {
        let mut config = config(MqttProtocol::V5, broker.port);
        config.client_id = format!("gw-{number}");
        config.subscriptions[0].filter = "$share/gateways/city/#".to_owned();
        let mut source = gateway.start(config, false);
        source.is_ready().await;
        sources.push(source);
    }
    publish_all(publisher(broker.port), 1).await;
    let committed = |gateway: &Gateway| gateway.figures.committed.get();
    until("all committed", || {
        gateways.iter().map(committed).sum::<u64>() == COUNT as u64
    })
    .await;
    assert!(gateways.iter().all(|gateway| committed(gateway) > 0));
}

/// Makes a CA, a server certificate for 127.0.0.1 and a client certificate.
fn certificates(dir: &Path) {
    let script = "set -e
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-ca \
            -keyout ca.key -out ca.pem
        for who in server client; do
            openssl req -newkey rsa:2048 -nodes -subj /CN=$who -keyout $who.key -out $who.csr
            printf 'subjectAltName=IP:127.0.0.1\\n' > $who.ext
            openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
                -extfile $who.ext -out $who.pem
        done";
    let output = Command::new("sh")
        .arg("-c")
        .arg(script)
        .current_dir(dir)
        .output();
    let output = output.expect("openssl must be installed");
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn tls_with_a_client_certificate_is_spoken_and_an_unknown_ca_is_refused() {
    let options = "cafile {dir}/ca.pem\ncertfile {dir}/server.pem\nkeyfile {dir}/server.key\n\
                   require_certificate true\n\
                   log_dest file {dir}/log\n";
    let broker = Mosquitto::start(options, certificates);
    broker.is_up().await;
    let dir = broker._dir.path();
    let trusting = MqttTls {
        ca_file: Some(dir.join("ca.pem")),
        cert_file: Some(dir.join("client.pem")),
        key_file: Some(dir.join("client.key")),
    };
    let mut config = config(MqttProtocol::V5, broker.port);
    config.tls = Some(MqttTls {
        // Not the one that signed the server's certificate.
        ca_file: Some(dir.join("client.pem")),
        ..trusting.clone()
    });
    let gateway = Gateway::new();
    let distrusting = gateway.start(config.clone(), false);
    let log = dir.join("log");
    until("the broker hears of the unknown CA", || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("unknown ca"))
    })
    .await;
    assert!(!*distrusting.ready.borrow());
    distrusting.stop();
    distrusting.ended().await.expect("an orderly end");

    config.tls = Some(trusting);
    let mut source = gateway.start(config, false);
    source.is_ready().await;
    assert_eq!(gateway.figures.connected.get(), 1);
}

#[tokio::test]
async fn a_filter_that_is_no_longer_configured_brings_nothing_any_more() {
    for protocol in [MqttProtocol::V5, MqttProtocol::V311] {
        let broker = Mosquitto::start("", |_| {});
        broker.is_up().await;
        let mut gateway = Gateway::new();
        let mut both = config(protocol, broker.port);
        both.subscriptions.push(Subscription {
            filter: "end".to_owned(),
            qos: 2,
        });
        let mut source = gateway.start_again(both);
        source.is_ready().await;
        publish_all(publisher(broker.port), 1).await;
        let count = COUNT as u64;
        until("all and the end", || {
            gateway.figures.committed.get() == count + 1
        })
        .await;
        source.stop();
        source.ended().await.expect("an orderly end");
        gateway.reopen();

        let mut source = gateway.start_again(config(protocol, broker.port));
        source.is_ready().await;
        publish_all(publisher(broker.port), 1).await;
        until("all", || gateway.figures.committed.get() == 2 * count + 1).await;
        source.stop();
        source.ended().await.expect("an orderly end");
        let ends = gateway.records();
        let ends = ends.iter().filter(|(topic, _)| topic == "end").count();
        assert_eq!(ends, 1, "{protocol:?}");
    }
}
