//! Apache Kafka: a single KRaft node in a Java process, from the jars of `tests/kafka/pom.xml`.
//!
//! It always has a plain listener, for the oracle; what is under test may have a secured one beside
//! it. Ports and data stay the same over [`Kafka::stop`] and [`Kafka::start_again`].

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::certs::Certs;
use crate::process::{Process, temp_dir};
use crate::{ports, wait};

/// Start of the JVM and the controller's election take about 4 s; much longer beside other work.
const READY_WITHIN: Duration = Duration::from_secs(90);
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// This machine's loopback interface, as a QEMU guest with user-mode networking sees it.
pub const HOST_IN_GUEST: &str = "10.0.2.2";

/// User and password of the SCRAM listener.
pub const SCRAM_USER: &str = "gateway";
/// See [`SCRAM_USER`].
pub const SCRAM_PASSWORD: &str = "correct-horse";

/// What the second listener asks of clients.
#[derive(Clone, Copy, Debug)]
pub enum Security<'a> {
    /// There is none.
    Plain,
    /// TLS, with a client certificate of the same authority.
    Tls(&'a Certs),
    /// TLS, and SCRAM-SHA-256 or SCRAM-SHA-512 as [`SCRAM_USER`].
    ScramTls(&'a Certs),
    /// The same, and the user may do what [`Kafka::allow`] has allowed; the plain listener's anyone
    /// may do everything.
    Authorized(&'a Certs),
    /// Nothing: clients are told its address as a QEMU guest sees it.
    Guest,
}

impl Security<'_> {
    fn has_users(&self) -> bool {
        matches!(self, Self::ScramTls(_) | Self::Authorized(_))
    }
}

/// A broker.
#[derive(Debug)]
pub struct Kafka {
    process: Option<Process>,
    plain_port: u16,
    secure_port: u16,
    dir: TempDir,
}

/// The broker that tests share which do not disturb it. It ends with the test binary.
pub fn shared() -> &'static Kafka {
    static SHARED: OnceLock<Kafka> = OnceLock::new();
    SHARED.get_or_init(Kafka::start)
}

impl Kafka {
    /// Formats and starts a broker; returns once it answers.
    ///
    /// # Panics
    /// If Java or the jars are missing, or it does not start.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(Security::Plain)
    }

    /// Like [`start`](Self::start), with a secured listener.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    #[must_use]
    pub fn start_with(security: Security<'_>) -> Self {
        let mut kafka = Self {
            process: None,
            plain_port: ports::free(),
            secure_port: ports::free(),
            dir: temp_dir(),
        };
        let properties = kafka.properties(security);
        std::fs::write(kafka.properties_path(), properties).expect("a new directory is writable");
        kafka.format(security);
        kafka.start_again();
        kafka
    }

    /// `host:port` of the plain listener.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.plain_port)
    }

    /// `host:port` of the secured listener; the name is the one in the server's certificate.
    #[must_use]
    pub fn bootstrap_secure(&self) -> String {
        format!("localhost:{}", self.secure_port)
    }

    /// `host:port` of the listener for a QEMU guest ([`Security::Guest`]).
    #[must_use]
    pub fn bootstrap_in_guest(&self) -> String {
        format!("{HOST_IN_GUEST}:{}", self.secure_port)
    }

    /// Creates a topic of a name that no other test has, and returns the name.
    ///
    /// # Panics
    /// If the broker refuses.
    #[must_use]
    pub fn new_topic(&self, partitions: i32) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let topic = format!("telemetry-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.create_topic(&topic, partitions, &[]);
        topic
    }

    /// Stops the broker: SIGTERM, SIGKILL if that does not help.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop(STOP_WITHIN);
        }
    }

    /// Starts the broker with the data it has; returns once it answers.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_again(&mut self) {
        let mut command = java("kafka.Kafka");
        command.arg(self.properties_path());
        let dir = self.dir.path();
        self.process = Some(Process::start("kafka", command, dir, Some(dir)));
        self.wait_ready();
    }

    /// Freezes the broker (SIGSTOP): connections stay open and nothing answers.
    ///
    /// # Panics
    /// If it is stopped.
    pub fn pause(&self) {
        self.running().signal(Signal::STOP);
    }

    /// Ends a [`pause`](Self::pause).
    ///
    /// # Panics
    /// If it is stopped.
    pub fn resume(&self) {
        self.running().signal(Signal::CONT);
    }

    /// Creates a topic; returns once its partitions have leaders.
    ///
    /// # Panics
    /// If the broker refuses.
    pub fn create_topic(&self, name: &str, partitions: i32, config: &[(&str, &str)]) {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for (key, value) in config {
            topic = topic.set(key, value);
        }
        let results =
            self.admin(async |admin, options| admin.create_topics([&topic], options).await);
        for result in results {
            result.unwrap_or_else(|(topic, code)| panic!("create topic {topic}: {code}"));
        }
        self.wait_for_leaders(name, partitions);
    }

    /// Deletes a topic.
    ///
    /// # Panics
    /// If the broker refuses.
    pub fn delete_topic(&self, name: &str) {
        let results =
            self.admin(async |admin, options| admin.delete_topics(&[name], options).await);
        for result in results {
            result.unwrap_or_else(|(topic, code)| panic!("delete topic {topic}: {code}"));
        }
    }

    /// How many bytes the files of a topic have that hold its records.
    ///
    /// # Panics
    /// If the files can't be listed.
    #[must_use]
    pub fn topic_bytes(&self, name: &str) -> u64 {
        let list = |dir: &Path| std::fs::read_dir(dir).expect("the broker's files can be read");
        let entries = |dir: &Path| list(dir).filter_map(Result::ok).collect::<Vec<_>>();
        let of_topic = entries(&self.data_dir()).into_iter().filter(|entry| {
            let dir = entry.file_name();
            let dir = dir.to_string_lossy();
            dir.rsplit_once('-').is_some_and(|(topic, _)| topic == name)
        });
        let files = of_topic.flat_map(|entry| entries(&entry.path()));
        let records = files.filter(|file| file.path().extension().is_some_and(|e| e == "log"));
        let bytes = records.filter_map(|file| Some(file.metadata().ok()?.len()));
        bytes.sum()
    }

    /// The sum of a topic's end offsets: how many records it has had, and marks of transactions.
    ///
    /// # Panics
    /// If the broker does not say.
    #[must_use]
    pub fn end_offsets(&self, name: &str, partitions: i32) -> i64 {
        let consumer: BaseConsumer = self.client_config().create().expect("a consumer");
        let end = |partition| {
            let within = Duration::from_secs(20);
            let (_, end) = consumer
                .fetch_watermarks(name, partition, within)
                .unwrap_or_else(|error| panic!("end of {name}-{partition}: {error}"));
            end
        };
        (0..partitions).map(end).sum()
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Sets one property of a topic, the others to their defaults.
    ///
    /// # Panics
    /// If the broker refuses.
    pub fn configure_topic(&self, name: &str, key: &str, value: &str) {
        let change = AlterConfig::new(ResourceSpecifier::Topic(name)).set(key, value);
        let results =
            self.admin(async |admin, options| admin.alter_configs([&change], options).await);
        for result in results {
            result.unwrap_or_else(|(topic, code)| panic!("configure topic {topic:?}: {code}"));
        }
    }

    /// Sets a property of the broker for its next start.
    ///
    /// # Panics
    /// If the properties cannot be written.
    pub fn configure_broker(&self, key: &str, value: &str) {
        let path = self.properties_path();
        let before = std::fs::read_to_string(&path).expect("written at the start");
        // The last one counts.
        let after = format!("{before}{key}={value}\n");
        std::fs::write(&path, after).expect("the broker's directory is writable");
    }

    /// Whether a topic is there.
    ///
    /// # Panics
    /// If the broker does not answer.
    #[must_use]
    pub fn has_topic(&self, name: &str) -> bool {
        let consumer: BaseConsumer = self.client_config().create().expect("valid");
        let metadata = consumer.fetch_metadata(None, Duration::from_secs(20));
        let metadata = metadata.unwrap_or_else(|error| panic!("topics: {error}"));
        metadata.topics().iter().any(|topic| topic.name() == name)
    }

    /// A producer without delay.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn producer(&self) -> BaseProducer {
        let mut config = self.client_config();
        config.set("linger.ms", "0");
        config.create().expect("valid")
    }

    /// A transaction of `transactional_id` that has written a record to partition 0 of `topic` and
    /// is left open.
    ///
    /// # Panics
    /// If the broker refuses.
    #[must_use]
    pub fn open_transaction(&self, transactional_id: &str, topic: &str) -> BaseProducer {
        const WITHIN: Duration = Duration::from_secs(60);
        let mut config = self.client_config();
        config.set("transactional.id", transactional_id);
        let producer: BaseProducer = config.create().expect("valid");
        let begun = producer
            .init_transactions(WITHIN)
            .and_then(|()| producer.begin_transaction());
        begun.unwrap_or_else(|error| panic!("transaction of {transactional_id}: {error}"));
        let record = BaseRecord::to(topic).partition(0);
        let record = record.key(transactional_id).payload("{}");
        let sent = producer.send(record).map_err(|(error, _)| error);
        sent.and_then(|()| producer.flush(WITHIN))
            .unwrap_or_else(|error| panic!("record of {transactional_id}: {error}"));
        producer
    }

    /// A property of a topic.
    ///
    /// # Panics
    /// If the broker refuses.
    #[must_use]
    pub fn topic_property(&self, name: &str, key: &str) -> Option<String> {
        let topic = ResourceSpecifier::Topic(name);
        let results =
            self.admin(async |admin, options| admin.describe_configs([&topic], options).await);
        let found = results.into_iter().next().expect("one was asked for");
        let found = found.unwrap_or_else(|code| panic!("describe topic {name}: {code}"));
        found.get(key).and_then(|entry| entry.value.clone())
    }

    /// Allows [`SCRAM_USER`] everything on what `arguments` of `kafka-acls` name, such as
    /// `--topic telemetry`.
    ///
    /// # Panics
    /// If the broker refuses.
    pub fn allow(&self, arguments: &[&str]) {
        self.change_rights(&["--add"], arguments);
    }

    /// Takes back what [`allow`](Self::allow) has allowed.
    ///
    /// # Panics
    /// If the broker refuses.
    pub fn revoke(&self, arguments: &[&str]) {
        self.change_rights(&["--remove", "--force"], arguments);
    }

    fn change_rights(&self, how: &[&str], arguments: &[&str]) {
        let mut command = java("org.apache.kafka.tools.AclCommand");
        command
            .args(["--bootstrap-server", &self.bootstrap()])
            .args(how)
            .args(["--operation", "All", "--allow-principal"])
            .arg(format!("User:{SCRAM_USER}"))
            .args(arguments);
        let mut process = Process::start("acls", command, self.dir.path(), None);
        let status = process.wait(READY_WITHIN);
        assert!(
            status.success(),
            "kafka-acls {how:?} {arguments:?}: {status}"
        );
    }

    fn admin<T, F>(&self, ask: F) -> Vec<T>
    where
        F: AsyncFnOnce(&AdminClient<DefaultClientContext>, &AdminOptions) -> KafkaResult<Vec<T>>,
    {
        let admin = self.client_config().create().expect("valid");
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime without drivers starts");
        let asked = runtime.block_on(ask(&admin, &options));
        asked.unwrap_or_else(|error| panic!("Kafka's administration: {error}"))
    }

    /// Has Java's own producer send a record with each of `keys`, which hold neither a tab nor the
    /// end of a line.
    ///
    /// # Panics
    /// If it fails.
    pub fn produce_by_java(&self, topic: &str, keys: &[String]) {
        let records = self.dir.path().join("records.txt");
        let lines: String = keys.iter().map(|key| format!("{key}\tvalue\n")).collect();
        std::fs::write(&records, lines).expect("the broker's directory is writable");
        let mut command = java("org.apache.kafka.tools.ConsoleProducer");
        command
            .args(["--bootstrap-server", &self.bootstrap(), "--topic", topic])
            .args(["--property", "parse.key=true"])
            .env("LC_ALL", "C.UTF-8")
            .stdin(std::fs::File::open(&records).expect("just written"));
        let output = command.output().expect("Java is installed");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", output.status);
    }

    fn wait_for_leaders(&self, topic: &str, partitions: i32) {
        let consumer: BaseConsumer = self.client_config().create().expect("valid");
        let what = format!("leaders of {topic}");
        wait::until(&what, Duration::from_secs(30), || {
            let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(5));
            metadata.is_ok_and(|m| {
                let led = m.topics().iter().flat_map(|t| t.partitions());
                led.filter(|p| p.leader() >= 0).count() == usize::try_from(partitions).unwrap_or(0)
            })
        });
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("Kafka runs")
    }

    fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.bootstrap());
        config
    }

    fn wait_ready(&mut self) {
        let mut config = self.client_config();
        config.set("reconnect.backoff.max.ms", "200");
        // Refused connections are what is waited through.
        config.set("log_level", "2");
        let consumer: BaseConsumer = config.create().expect("valid");
        let process = self.process.as_mut().expect("just started");
        wait::until("Kafka's first answer", READY_WITHIN, || {
            let ended = process.ended();
            assert!(ended.is_none(), "Kafka ended: {ended:?}");
            let metadata = consumer.fetch_metadata(None, Duration::from_millis(500));
            metadata.is_ok_and(|m| !m.brokers().is_empty())
        });
    }

    fn format(&self, security: Security<'_>) {
        let mut command = java("kafka.tools.StorageTool");
        command
            .args([
                "format",
                "--cluster-id",
                "ZWRnZS1nYXRld2F5LXRlcw",
                "--config",
            ])
            .arg(self.properties_path());
        if security.has_users() {
            for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
                let user = format!("{mechanism}=[name={SCRAM_USER},password={SCRAM_PASSWORD}]");
                command.args(["--add-scram", &user]);
            }
        }
        let mut process = Process::start("format", command, self.dir.path(), None);
        let status = process.wait(READY_WITHIN);
        assert!(status.success(), "format of Kafka's storage: {status}");
    }

    fn properties_path(&self) -> PathBuf {
        self.dir.path().join("server.properties")
    }

    fn properties(&self, security: Security<'_>) -> String {
        let controller = ports::free();
        let plain = self.plain_port;
        let data = self.data_dir();
        let mut text = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             controller.listener.names=CONTROLLER\n\
             inter.broker.listener.name=PLAIN\n\
             log.dirs={}\n\
             num.network.threads=2\n\
             num.io.threads=4\n\
             background.threads=2\n\
             offsets.topic.replication.factor=1\n\
             offsets.topic.num.partitions=1\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             transaction.state.log.num.partitions=2\n\
             group.initial.rebalance.delay.ms=0\n\
             log.cleaner.dedupe.buffer.size=2097152\n",
            data.display()
        );
        let (kind, secured) = match security {
            Security::Plain => ("", NO_AUTO_CREATE.to_owned()),
            Security::Tls(certs) => ("SSL", tls_properties(certs, "required") + NO_AUTO_CREATE),
            Security::ScramTls(certs) => (
                "SASL_SSL",
                tls_properties(certs, "none") + &scram_properties() + NO_AUTO_CREATE,
            ),
            Security::Authorized(certs) => (
                "SASL_SSL",
                tls_properties(certs, "none") + &scram_properties() + AUTHORIZER,
            ),
            Security::Guest => ("PLAINTEXT", NO_AUTO_CREATE.to_owned()),
        };
        text.push_str(&secured);
        let mut listeners = format!("PLAIN://127.0.0.1:{plain}");
        let mut advertised = listeners.clone();
        let mut map = "PLAIN:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned();
        if !kind.is_empty() {
            let host = if matches!(security, Security::Guest) {
                HOST_IN_GUEST
            } else {
                "localhost"
            };
            let _ = write!(listeners, ",SECURE://localhost:{}", self.secure_port);
            let _ = write!(advertised, ",SECURE://{host}:{}", self.secure_port);
            let _ = write!(map, ",SECURE:{kind}");
        }
        let _ = write!(
            text,
            "listeners={listeners},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners={advertised}\n\
             listener.security.protocol.map={map}\n"
        );
        text
    }
}

fn tls_properties(certs: &Certs, client_auth: &str) -> String {
    format!(
        "ssl.keystore.type=PEM\n\
         ssl.keystore.location={}\n\
         ssl.truststore.type=PEM\n\
         ssl.truststore.location={}\n\
         ssl.client.auth={client_auth}\n",
        certs.server.bundle.display(),
        certs.ca.display(),
    )
}

const NO_AUTO_CREATE: &str = "auto.create.topics.enable=false\n";
/// Topics are created by whoever asks for them, as is Kafka's default.
const AUTHORIZER: &str = "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
     super.users=User:ANONYMOUS\n\
     auto.create.topics.enable=true\n";

fn scram_properties() -> String {
    let login = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
    format!(
        "sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512\n\
         listener.name.secure.scram-sha-256.sasl.jaas.config={login}\n\
         listener.name.secure.scram-sha-512.sasl.jaas.config={login}\n"
    )
}

/// A Java command with a small heap that starts fast.
fn java(class: &str) -> Command {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package lies in the workspace");
    let cache = std::env::var_os("KAFKA_CACHE")
        .map_or_else(|| workspace.join(".cache/kafka"), PathBuf::from);
    assert!(
        cache.join("stamp").is_file(),
        "no Apache Kafka in {}: make setup",
        cache.display()
    );
    let logging = workspace.join("tests/kafka/log4j2.xml");
    let mut command = Command::new("java");
    command
        .args(["-Xms64m", "-Xmx320m", "-XX:+UseSerialGC"])
        .args(["-XX:TieredStopAtLevel=1", "-Xshare:auto"])
        .arg(format!("-Dlog4j2.configurationFile={}", logging.display()))
        .arg("-cp")
        .arg(cache.join("jars").join("*"))
        .arg(class);
    command
}
