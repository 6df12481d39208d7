//! A real mosquitto, and its own clients as processes.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{sleep, timeout};

const BROKER: &str = "/usr/sbin/mosquitto";
static NUMBER: AtomicU32 = AtomicU32::new(0);
const PATIENCE: Duration = Duration::from_secs(30);

/// A broker with its own directory, gone when it is dropped.
pub(crate) struct Broker {
    pub(crate) port: u16,
    dir: PathBuf,
    process: Child,
}

/// A client that reads.
pub(crate) struct Reader {
    lines: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Broker {
    /// A broker that lets everybody do everything.
    pub(crate) async fn open(more: &str) -> Self {
        Self::with(|port, _| format!("listener {port} 127.0.0.1\nallow_anonymous true\n{more}\n")).await
    }

    /// A broker with a configuration of its own.
    pub(crate) async fn with(configuration: impl FnOnce(u16, &Path) -> String) -> Self {
        assert!(
            Path::new(BROKER).exists(),
            "{BROKER} is not there: run `make setup`"
        );
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("tombolo-mqtt-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let port = free_port().await;
        // It would give up root, and with it this directory.
        let text = format!(
            "{}\nuser root\npersistence_location {}/\n",
            configuration(port, &dir),
            dir.display()
        );
        std::fs::write(dir.join("mosquitto.conf"), text).unwrap();
        let process = start(&dir, port).await;
        Self { port, dir, process }
    }

    /// Ends it as systemd does, and starts it again after a while.
    pub(crate) async fn restart(&mut self, after: Duration) {
        let id = self.process.id().unwrap().to_string();
        assert!(Command::new("kill").arg(&id).status().await.unwrap().success());
        self.process.wait().await.unwrap();
        sleep(after).await;
        self.process = start(&self.dir, self.port).await;
    }

    /// The most memory that it ever had.
    pub(crate) fn peak_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.process.id().unwrap());
        let status = std::fs::read_to_string(path).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak.unwrap().trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Publishes at least once.
    pub(crate) async fn publish(&self, topic: &str, payload: impl AsRef<[u8]>) {
        assert!(
            self.try_publish(topic, payload.as_ref(), &[]).await,
            "publishing to {topic}"
        );
    }

    /// Publishes at least once and other arguments; false if the broker refused.
    pub(crate) async fn try_publish(&self, topic: &str, payload: &[u8], words: &[&str]) -> bool {
        let mut process = self
            .client("mosquitto_pub", &[])
            .args(["-q", "1", "-t", topic, "-s"])
            .args(words)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = process.stdin.take().unwrap();
        input.write_all(payload).await.unwrap();
        drop(input);
        timeout(PATIENCE, process.wait())
            .await
            .unwrap()
            .unwrap()
            .success()
    }

    /// Subscribes; returns once the broker has confirmed it.
    pub(crate) async fn subscribe(&self, topic: &str, words: &[&str]) -> Reader {
        // Into a pipe its words would come in blocks.
        let mut process = self
            .client("stdbuf", &["-oL", "mosquitto_sub"])
            .args(["-q", "1", "-d", "-F", "%t %p", "-t", topic])
            .args(words)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        loop {
            let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
            if line.expect("the reader ended").starts_with("Subscribed") {
                break;
            }
        }
        Reader {
            lines,
            _process: process,
        }
    }

    fn client(&self, program: &str, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(words)
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string()])
            .kill_on_drop(true);
        command
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Reader {
    /// The next message.
    pub(crate) async fn next(&mut self) -> (String, Value) {
        timeout(PATIENCE, self.message()).await.expect("no message came")
    }

    /// The next message whose topic ends so; others are passed over.
    pub(crate) async fn next_of(&mut self, end: &str) -> Value {
        loop {
            let (topic, message) = self.next().await;
            if topic.ends_with(end) {
                return message;
            }
        }
    }

    /// The next answer but repeated ones: a bridge that was killed may have answered what it had not acknowledged yet,
    /// and the next one answers it again.
    pub(crate) async fn next_but(&mut self, repeated: &str) -> Value {
        loop {
            let (_, message) = self.next().await;
            if message["event_id"] != repeated {
                return message;
            }
        }
    }

    /// Whether nothing comes for a while.
    pub(crate) async fn is_silent(&mut self) -> bool {
        timeout(Duration::from_millis(500), self.message()).await.is_err()
    }

    async fn message(&mut self) -> (String, Value) {
        loop {
            let line = self.lines.next_line().await.unwrap().expect("the reader ended");
            if let Some((topic, payload)) = line.split_once(' ').filter(|(topic, _)| topic.starts_with('$')) {
                return (
                    topic.to_owned(),
                    serde_json::from_str(payload).unwrap_or(Value::Null),
                );
            }
        }
    }
}

async fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

async fn start(dir: &Path, port: u16) -> Child {
    let log = std::fs::File::create(dir.join("log")).unwrap();
    let process = Command::new(BROKER)
        .arg("-c")
        .arg(dir.join("mosquitto.conf"))
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    for _ in 0..300 {
        if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            return process;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!(
        "mosquitto does not answer: {}",
        std::fs::read_to_string(dir.join("log")).unwrap_or_default()
    );
}
