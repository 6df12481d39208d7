//! A mosquitto for one test, and a client that plays the devices.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// A mosquitto on a port of its own.
pub(crate) struct Broker {
    pub(crate) port: u16,
    child: Child,
    folder: PathBuf,
}

impl Broker {
    pub(crate) async fn start(name: &str) -> Self {
        Self::with(name, &[]).await
    }

    /// One with these users and their passwords, which takes user names for client ids as the shipped
    /// settings do; one without if there are none.
    pub(crate) async fn with(name: &str, users: &[(&str, &str)]) -> Self {
        Self::configured(name, users, "").await
    }

    /// The same, with more in its configuration.
    pub(crate) async fn configured(name: &str, users: &[(&str, &str)], more: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let folder = std::env::temp_dir().join(format!("tombolo-broker-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let settings = format!(
            "user root\nlistener {port} 127.0.0.1\nallow_anonymous true\npersistence true\n\
             persistence_location {}/\nlog_dest file {}\n{more}\n",
            folder.display(),
            folder.join("log").display()
        );
        let settings = if users.is_empty() {
            settings
        } else {
            let passwords = folder.join("passwords");
            std::fs::write(&passwords, "").unwrap();
            for (user, password) in users {
                let mut make = Command::new("mosquitto_passwd");
                let status = make.arg("-b").arg(&passwords).args([user, password]).status();
                assert!(status.unwrap().success());
            }
            let settings = settings.replace("allow_anonymous true", "allow_anonymous false");
            format!(
                "{settings}use_username_as_clientid true\npassword_file {}\n",
                passwords.display()
            )
        };
        std::fs::write(folder.join("mosquitto.conf"), settings).unwrap();
        let mut broker = Self {
            port,
            child: Self::spawn(&folder),
            folder,
        };
        broker.answers().await;
        broker
    }

    fn spawn(folder: &std::path::Path) -> Child {
        let program = ["/usr/sbin/mosquitto", "mosquitto"]
            .into_iter()
            .find(|path| !path.starts_with('/') || std::path::Path::new(path).exists());
        Command::new(program.unwrap())
            .arg("-c")
            .arg(folder.join("mosquitto.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto is installed (Debian's package mosquitto)")
    }

    async fn answers(&mut self) {
        for _ in 0..500 {
            if tokio::net::TcpStream::connect(("127.0.0.1", self.port))
                .await
                .is_ok()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("mosquitto does not answer: {:?}", self.child.try_wait());
    }

    /// What it says of itself.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap()
    }

    /// Ends it as a stop of the service does, and starts it again.
    pub(crate) async fn restart(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.child.wait().unwrap();
        self.child = Self::spawn(&self.folder);
        self.answers().await;
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Plays devices: publishes, and sees what is published to them.
pub(crate) struct Client {
    mqtt: AsyncClient,
    seen: mpsc::Receiver<(String, String)>,
    _pump: JoinSet<()>,
}

impl Client {
    pub(crate) async fn connect(broker: &Broker, topics: &[&str]) -> Self {
        Self::login(broker, topics, None).await
    }

    pub(crate) async fn login(broker: &Broker, topics: &[&str], user: Option<(&str, &str)>) -> Self {
        let mut options = MqttOptions::new("devices", "127.0.0.1", broker.port);
        if let Some((user, password)) = user {
            options.set_credentials(user, password);
        }
        options.set_max_packet_size(Some(1 << 20));
        let (client, mut events) = AsyncClient::new(options, 64);
        for topic in topics {
            client.subscribe(*topic, QoS::AtLeastOnce).await.unwrap();
        }
        let (sender, seen) = mpsc::channel(64);
        let (ready, mut is_ready) = mpsc::channel(8);
        let mut pump = JoinSet::new();
        pump.spawn(async move {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                        let _ = sender.send((text(&publish.topic), text(&publish.payload))).await;
                    }
                    Ok(Event::Incoming(Packet::ConnAck(_) | Packet::SubAck(_))) => {
                        let _ = ready.try_send(());
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        });
        for _ in 0..=topics.len() {
            is_ready.recv().await.unwrap();
        }
        Self {
            mqtt: client,
            seen,
            _pump: pump,
        }
    }

    pub(crate) async fn publish(&self, topic: &str, retain: bool, payload: impl Into<Vec<u8>>) {
        let payload: Vec<u8> = payload.into();
        self.mqtt
            .publish(topic, QoS::AtLeastOnce, retain, payload)
            .await
            .unwrap();
    }

    /// Publishes with `QoS` 0: the broker keeps it for nobody who is away.
    pub(crate) async fn publish_once(&self, topic: &str, retain: bool, payload: &str) {
        let (qos, payload) = (QoS::AtMostOnce, payload.to_owned());
        self.mqtt.publish(topic, qos, retain, payload).await.unwrap();
    }

    /// The next message that the devices get.
    pub(crate) async fn next(&mut self) -> (String, String) {
        let next = tokio::time::timeout(Duration::from_secs(10), self.seen.recv());
        next.await.expect("a message within 10 s").unwrap()
    }

    /// Whether nothing comes for so long.
    pub(crate) async fn is_quiet(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.seen.recv()).await.is_err()
    }
}
