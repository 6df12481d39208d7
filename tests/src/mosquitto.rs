//! The site's MQTT broker on a device: Debian's mosquitto with the settings that Tombolo ships.
//!
//! Its users and their password are the testbed's; everything else is `manifests/mosquitto`.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{
    command::run,
    edge_machine::EdgeMachine,
    machine::Service,
    programs::workspace,
    wait::{Look, until},
};

/// edgecore's own user.
pub const EDGECORE: &str = "edgecore";
/// Every user's password.
pub const PASSWORD: &str = "testbed";
const SERVICE: &str = "mosquitto";
const PROGRAM: &str = "/usr/sbin/mosquitto";
/// Where edgecore finds its password, as the machine names it.
const CREDENTIALS: &str = "/etc/tombolo/device-credentials/broker";
/// The gateway of the default pod network, in the shipped settings.
const GATEWAY: &str = "10.86.0.1";

/// Starts the broker, with edgecore and these users in it; `acl` are lines of theirs besides. Pods on
/// a network whose gateway is `gateway` reach it there, on port 1883 as programs on the device.
///
/// Before edgecore is started, or with a restart of it after: its configuration names the password.
pub async fn start(edge: &EdgeMachine, users: &[&str], (acl, gateway): (&str, &str)) -> Result<()> {
    ensure!(
        Path::new(PROGRAM).exists(),
        "{PROGRAM} is not there: run `make setup`"
    );
    let dir = edge.machine.dir().join("mosquitto");
    fs::create_dir_all(&dir)?;
    let shipped = workspace().join("manifests/mosquitto");
    let passwords = dir.join("passwords");
    fs::write(&passwords, "")?;
    for user in [EDGECORE].iter().chain(users) {
        add_user(&passwords, user)?;
    }
    let rules = fs::read_to_string(shipped.join("tombolo.acl"))?;
    fs::write(dir.join("acl"), format!("{rules}\n{acl}\n"))?;
    let settings = fs::read_to_string(shipped.join("tombolo.conf"))?
        .replace(
            "/etc/mosquitto/tombolo.passwords",
            &passwords.display().to_string(),
        )
        .replace(
            "/etc/mosquitto/tombolo.acl",
            &dir.join("acl").display().to_string(),
        )
        .replace(GATEWAY, gateway);
    // Whose files these are is the testbed's; the package's own user may not read them.
    let settings = format!("{settings}\nuser root\npersistence_location {}/\n", dir.display());
    let config = dir.join("mosquitto.conf");
    fs::write(&config, settings)?;
    // The gateway is there with the first pod, and the device may boot before it.
    let script = format!(
        "echo 1 >/proc/sys/net/ipv4/ip_nonlocal_bind; exec {PROGRAM} -c {}",
        config.display()
    );
    let args = [String::from("-c"), script];
    edge.machine
        .install(Service::new(SERVICE, Path::new("/bin/sh"), args))?;
    tell_edgecore(edge)?;
    ready(edge).await
}

/// Switches the broker off, until it is switched on or the device boots.
pub fn stop(edge: &EdgeMachine) -> Result<()> {
    edge.machine.stop(SERVICE)
}

/// Switches it on again.
pub async fn resume(edge: &EdgeMachine) -> Result<()> {
    edge.machine.start(SERVICE)?;
    ready(edge).await
}

/// Publishes one message with `QoS` 1, as this user.
pub async fn publish(edge: &EdgeMachine, user: &str, (topic, payload): (&str, &str)) -> Result<()> {
    let mut command = edge.machine.command("mosquitto_pub")?;
    command.args(["-u", user, "-P", PASSWORD, "-q", "1", "-t", topic, "-m", payload]);
    crate::command::run_within(Duration::from_secs(30), command)
        .await
        .map(drop)
}

/// The next message on a topic, as this user; what was sent before is not seen.
pub async fn next(edge: &EdgeMachine, user: &str, topic: &str) -> Result<String> {
    let mut command = edge.machine.command("mosquitto_sub")?;
    command.args([
        "-u", user, "-P", PASSWORD, "-q", "1", "-C", "1", "-W", "30", "-t", topic,
    ]);
    let said = crate::command::run_within(Duration::from_secs(40), command).await;
    said.with_context(|| format!("waiting for {topic}"))
}

async fn ready(edge: &EdgeMachine) -> Result<()> {
    until("the MQTT broker", Duration::from_secs(30), || async {
        let words = "-u edgecore-probe -P none -t probe -m probe";
        // It refuses the stranger, and with that it answers.
        let said = edge
            .machine
            .shell(&format!("mosquitto_pub {words} 2>&1 || true"))
            .await?;
        Ok(if said.contains("not authorised") {
            Look::Done(())
        } else {
            Look::NotYet(said)
        })
    })
    .await
}

/// An existing user gets the password anew.
fn add_user(passwords: &Path, user: &str) -> Result<()> {
    let file = passwords.display().to_string();
    run("mosquitto_passwd", ["-b", &file, user, PASSWORD]).map(drop)
}

/// Writes the credentials, and names them in edgecore's configuration if the device has joined.
fn tell_edgecore(edge: &EdgeMachine) -> Result<()> {
    let path = edge.machine.file(CREDENTIALS);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(&path, format!("username: {EDGECORE}\npassword: {PASSWORD}\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    let path = edge.machine.file("/etc/tombolo/edgecore.yaml");
    let Ok(config) = fs::read_to_string(&path) else {
        return Ok(());
    };
    let key = "mqtt: {credentials: broker}\n";
    if !config.contains(&format!("\n{key}")) {
        fs::write(&path, config + key)?;
    }
    Ok(())
}
