//! A machine: namespaces of its own, a disk, a cable and a power switch.
//!
//! Its PID 1 is [`init`]; `kill -9` of that is the power cut. What outlives it is the *disk*, a
//! directory with the machine's `/etc`, `/var` and containerd's data.
//!
//! ```text
//!  off --boot--> on --power_off--> off
//! ```
//!
//! **Invariant:** after `power_off` no process, mount, namespace or control group of it is left.

pub mod boot;
pub mod disk;
pub mod firewall;
pub mod init;

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, Shutdown},
    os::unix::{net::UnixStream, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use parking_lot::Mutex;
use tokio::process::Command;

use self::{boot::Boot, disk::Disk};
pub use self::{
    boot::{PLUGINS, Service},
    firewall::{HalfOpen, Reach},
};
use crate::{
    cgroup::Tree,
    command,
    ground::{self, Ground},
    network::{Network, Place},
    wait::{Look, until},
};

/// Whether the cable is plugged in when the machine boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cable {
    /// The machine is on the network.
    Plugged,
    /// The machine boots with no network at all.
    Unplugged,
}

/// One machine of the testbed.
#[derive(Debug)]
pub struct Machine {
    name: String,
    ground: Arc<Ground>,
    network: Arc<Network>,
    place: Place,
    reach: Mutex<Reach>,
    running: Mutex<Option<Running>>,
}

/// The processes of a machine that is on.
#[derive(Debug)]
struct Running {
    unshare: Child,
    pid: i32,
}

impl Machine {
    /// Builds a machine; it is off.
    pub fn build(name: &str, ground: &Arc<Ground>, network: &Arc<Network>) -> Result<Self> {
        Self::build_with(name, ground, network, None)
    }

    /// The same with a disk of its own, if one is given.
    pub fn build_with(
        name: &str,
        ground: &Arc<Ground>,
        network: &Arc<Network>,
        disk: Option<Disk>,
    ) -> Result<Self> {
        let machine = Self {
            name: name.to_owned(),
            ground: ground.clone(),
            network: network.clone(),
            place: network.place()?,
            reach: Mutex::new(Reach::Everything),
            running: Mutex::new(None),
        };
        fs::create_dir_all(machine.dir())?;
        if let Some(disk) = disk {
            disk.mount(&machine.disk_image(), &machine.dir())?;
        }
        machine.boot_record().save(&machine.dir())?;
        Ok(machine)
    }

    fn boot_record(&self) -> Boot {
        Boot::new(&self.name, &self.ground.logs())
    }

    /// The machine's host name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The machine's address on the testbed's network.
    pub const fn address(&self) -> Ipv4Addr {
        self.place.address
    }

    /// Its place on the testbed's network.
    pub const fn place(&self) -> &Place {
        &self.place
    }

    /// The directory that is its disk.
    pub fn dir(&self) -> PathBuf {
        self.ground.dir().join(&self.name)
    }

    /// Where a disk of its own lies, if it has one.
    fn disk_image(&self) -> PathBuf {
        self.ground.dir().join(format!("{}.disk", self.name))
    }

    /// A file of the machine's own, seen from the host; `path` is absolute, as the machine names it.
    pub fn file(&self, path: &str) -> PathBuf {
        boot::on_disk(&self.dir(), path)
    }

    /// The root of its pods' control groups.
    pub fn cgroup(&self) -> Tree {
        self.ground.cgroup().child(&self.name)
    }

    /// Lets all that runs on the machine now have only the processor that nobody else wants, or its share
    /// again.
    pub fn step_aside(&self, aside: bool) -> Result<()> {
        let processes = self.cgroup().processes()?.into_iter();
        processes
            .filter_map(|pid| u32::try_from(pid).ok())
            .try_for_each(|pid| command::step_aside(pid, aside))
    }

    /// Where one of its services logs.
    pub fn log(&self, service: &str) -> PathBuf {
        self.ground.log(&format!("{}-{service}", self.name))
    }

    /// Restricts what the machine may reach, from now on and after each boot.
    pub async fn restrict(&self, reach: Reach) -> Result<()> {
        *self.reach.lock() = reach;
        self.apply_firewall(HalfOpen::No).await
    }

    /// Adds a service, or changes one; it is started at every boot from now on, and now when the
    /// machine is on.
    pub fn install(&self, service: Service) -> Result<()> {
        let name = service.name.clone();
        let mut record = Boot::load(&self.dir())?;
        record.services.retain(|other| other.name != name);
        record.services.push(service);
        record.save(&self.dir())?;
        if self.running.lock().is_some() {
            self.start(&name)
        } else {
            Ok(())
        }
    }

    /// Turns the machine on and returns when its init answers.
    pub async fn boot(&self, cable: Cable) -> Result<()> {
        ensure!(
            self.running.lock().is_none(),
            "machine {} is on already",
            self.name
        );
        self.cgroup().create()?;
        let _ = fs::remove_file(self.socket());
        let unshare = self.spawn()?;
        let parent = unshare.id();
        let look = || async {
            Ok(Look::from_option(child_of(parent), || {
                String::from("no child of unshare")
            }))
        };
        let pid = until("PID 1 of a machine", Duration::from_secs(10), look).await?;
        *self.running.lock() = Some(Running { unshare, pid });
        let ping = || async { self.tell("ping").map(Look::Done) };
        until("the answer of a machine's init", Duration::from_secs(20), ping)
            .await
            .with_context(|| format!("its log is {}", self.log("init").display()))?;
        if cable == Cable::Plugged {
            self.plug().await
        } else {
            Ok(())
        }
    }

    fn spawn(&self) -> Result<Child> {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log("init"))?;
        self.cgroup()
            .command(Path::new("unshare"))?
            .args(["--net", "--mount", "--pid", "--uts", "--fork", "--mount-proc"])
            .args(["--propagation", "private", "--kill-child", "--"])
            .arg(env::current_exe()?)
            .arg(init::ROLE)
            .arg(self.dir())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start machine {}", self.name))
    }

    /// Plugs the cable in, now or after a boot without it.
    pub async fn plug(&self) -> Result<()> {
        self.network.plug(&self.place, self.pid()?)?;
        self.apply_firewall(HalfOpen::No).await?;
        self.shell(&format!(
            "ip addr add {}/24 dev eth0 && ip link set eth0 up && ip route add default via {}",
            self.place.address,
            self.network.host()
        ))
        .await
        .map(drop)
    }

    /// Pulls the cable out: the device sees its interface vanish.
    pub fn unplug(&self) -> Result<()> {
        command::ip(&format!("link del {}", self.place.cable)).map(drop)
    }

    /// Cuts the link without telling the device.
    pub fn cut(&self) -> Result<()> {
        self.place.cut()
    }

    /// Breaks the link in one direction only.
    pub async fn half_open(&self, half_open: HalfOpen) -> Result<()> {
        self.apply_firewall(half_open).await
    }

    /// The link as it was: neither cut nor half-open.
    pub async fn restore(&self) -> Result<()> {
        self.place.restore()?;
        self.apply_firewall(HalfOpen::No).await
    }

    async fn apply_firewall(&self, half_open: HalfOpen) -> Result<()> {
        if !self.is_on() {
            return Ok(());
        }
        let reach = *self.reach.lock();
        self.shell(&firewall::script(reach, half_open)).await.map(drop)
    }

    /// Cuts the power: everything is gone at once, only the disk is left.
    pub fn power_off(&self) -> Result<()> {
        let Some(mut running) = self.running.lock().take() else {
            bail!("machine {} is off", self.name)
        };
        let killed = kill(Pid::from_raw(running.pid), Signal::SIGKILL);
        running.unshare.wait()?;
        if killed == Err(Errno::ESRCH) {
            // The testbed's keeper was faster, and took everything else with it.
            return Ok(());
        }
        killed?;
        self.cgroup().kill()?;
        self.cgroup().remove()?;
        // The kernel takes the cable away with the namespace, but not at once.
        let _ = command::ip(&format!("link del {}", self.place.cable));
        Ok(())
    }

    /// The disk of its store meets an error, and takes no more writes.
    pub fn fail_store(&self) -> Result<()> {
        disk::fail(&disk::of_store(&self.dir()))
    }

    /// The disk of its store, checked and mounted again as at a boot; the machine is off.
    pub fn mend_store(&self) -> Result<()> {
        disk::mend(&self.disk_image(), &disk::of_store(&self.dir()))
    }

    fn scrap(&self) -> Result<()> {
        if self.is_on() {
            self.power_off()?;
        }
        ground::unmount_below(&self.dir())?;
        let all = [self.dir(), self.disk_image()];
        command::run("rm", ["-rf".into()].into_iter().chain(all)).map(drop)
    }

    /// Whether the machine is on.
    pub fn is_on(&self) -> bool {
        self.running.lock().is_some()
    }

    /// The host's number for the machine's PID 1.
    pub fn pid(&self) -> Result<i32> {
        let running = self.running.lock();
        running
            .as_ref()
            .map(|running| running.pid)
            .with_context(|| format!("machine {} is off", self.name))
    }

    /// A command inside the machine.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.pid()?.to_string());
        command
            .args(["--mount", "--uts", "--net", "--pid", "--wd=/", "--"])
            .arg(program);
        Ok(command)
    }

    /// Runs a line of shell inside the machine.
    pub async fn shell(&self, script: &str) -> Result<String> {
        let mut command = self.command("sh")?;
        command.args(["-c", script]);
        command::run_within(Duration::from_mins(1), command)
            .await
            .with_context(|| format!("on machine {}", self.name))
    }

    /// Starts a service that is installed, or starts it anew with what is installed now.
    pub fn start(&self, service: &str) -> Result<()> {
        self.tell(&format!("start {service}")).map(drop)
    }

    /// Stops a service as systemd would; it stays down until it is started or the machine boots.
    pub fn stop(&self, service: &str) -> Result<()> {
        self.tell(&format!("stop {service}")).map(drop)
    }

    /// `kill -9` of a service's process; it is started again as systemd would.
    pub fn kill(&self, service: &str) -> Result<()> {
        self.tell(&format!("kill {service}")).map(drop)
    }

    /// The pid of a service, as the machine counts them; it must be running.
    pub fn service_pid(&self, service: &str) -> Result<i32> {
        self.tell(&format!("pid {service}"))?
            .parse()
            .context("init answered with no pid")
    }

    fn socket(&self) -> PathBuf {
        self.dir().join("init.sock")
    }

    fn tell(&self, line: &str) -> Result<String> {
        let mut stream =
            UnixStream::connect(self.socket()).with_context(|| format!("init of {}", self.name))?;
        stream.set_read_timeout(Some(Duration::from_mins(1)))?;
        stream.write_all(line.as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        match answer.trim().split_once(' ') {
            Some(("ok", rest)) => Ok(rest.to_owned()),
            _ if answer.trim() == "ok" => Ok(String::new()),
            _ => bail!("{} of {}: {}", line, self.name, answer.trim()),
        }
    }
}

/// A device that a test has done with must not go on as a node, nor keep what it had on its disk: that is a quarter of
/// a gigabyte for each.
impl Drop for Machine {
    fn drop(&mut self) {
        if let Err(error) = self.scrap() {
            eprintln!("machine {}: {error:#}", self.name);
        }
    }
}

fn child_of(pid: u32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}
