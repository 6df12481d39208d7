//! A machine that can lose its power: QEMU without hardware virtualization, Debian's kernel, systemd, cgroup v2.
//!
//! For the few things that the host cannot show. A processor is emulated: it boots to user space in some ten
//! seconds and everything in it is slow. Its second serial line is a shell (`shell`), its first one the log.
//!
//! ```text
//!  off --boot--> on --cut_power--> off
//! ```
//!
//! **Invariant:** what the guest had not written to its disk is gone after `cut_power`, and QEMU is in the testbed's
//! control group, so that it dies with the testbed.

mod shell;

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;

use self::shell::Shell;
use crate::{
    cache::Cache,
    cgroup::Tree,
    command::{ip, run},
    ground::Ground,
    machine::Cable,
    network::{Network, Place},
    testbed::Testbed,
    wait::{Look, until},
};

/// The emulator, of Debian's package qemu-system-x86.
const QEMU: &str = "qemu-system-x86_64";
/// How long a boot may take on a host that is busy.
const BOOT: Duration = Duration::from_mins(3);
/// How long one line in its shell may take.
const LINE: Duration = Duration::from_mins(2);
/// The size of the disk of what the test brings; its holes stay holes.
const EXTRA: &str = "256M";

/// Who makes control groups in the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// Plain directories.
    Cgroupfs,
    /// systemd.
    Systemd,
}

/// The machine.
#[derive(Debug)]
pub struct Vm {
    name: String,
    dir: PathBuf,
    parts: PathBuf,
    ground: Arc<Ground>,
    network: Arc<Network>,
    place: Place,
    shell: Shell,
    qemu: Mutex<Option<Child>>,
}

impl Vm {
    /// Builds a machine with edgecore and the images on its second disk; it is off.
    pub fn build(name: &str, testbed: &Testbed, driver: Driver) -> Result<Self> {
        let dir = testbed.ground.dir().join(name);
        fs::create_dir_all(&dir)?;
        let vm = Self {
            name: name.to_owned(),
            parts: testbed.cache.vm()?,
            ground: testbed.ground.clone(),
            network: testbed.network.clone(),
            place: testbed.network.place()?,
            shell: Shell::at(dir.join("shell")),
            qemu: Mutex::new(None),
            dir,
        };
        let (from, to) = (vm.parts.join("root.ext4"), vm.disk("root"));
        run("cp", [Path::new("--sparse=always"), &from, &to])?;
        vm.bring(testbed, driver)?;
        vm.place.tap()?;
        vm.cgroup().create()?;
        Ok(vm)
    }

    /// Its host name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address.
    pub const fn address(&self) -> Ipv4Addr {
        self.place.address
    }

    /// What it says on its first serial line.
    pub fn console(&self) -> PathBuf {
        self.ground.log(&format!("{}-console", self.name))
    }

    fn disk(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.ext4"))
    }

    fn cgroup(&self) -> Tree {
        self.ground.cgroup().child(&self.name)
    }

    /// The second disk: programs and images, and a tree that is laid over the root at each boot.
    fn bring(&self, testbed: &Testbed, driver: Driver) -> Result<()> {
        let stage = self.dir.join("extra");
        let config = stage.join("over/etc/containerd");
        for dir in [&config, &stage.join("images")] {
            fs::create_dir_all(dir)?;
        }
        fs::write(
            config.join("config.toml"),
            containerd_config(&testbed.cache, driver)?,
        )?;
        fs::copy(&testbed.programs.edgecore, stage.join("edgecore"))?;
        for image in ["pause", "busybox"] {
            let archive = testbed.cache.image(image)?;
            fs::copy(archive.path(), stage.join("images").join(format!("{image}.tar")))?;
        }
        let disk = self.disk("extra");
        run("truncate", [Path::new("-s"), Path::new(EXTRA), &disk])?;
        let words = ["-q", "-F", "-m", "0", "-d"].map(Path::new);
        run("mkfs.ext4", words.into_iter().chain([stage.as_path(), &disk])).map(drop)
    }

    /// Powers it on and waits for its shell.
    pub async fn boot(&self, cable: Cable) -> Result<()> {
        self.place.wire(cable, &self.network.bridge())?;
        let log = fs::File::create(self.ground.log(&format!("{}-qemu", self.name)))?;
        let mut command = self.cgroup().command(Path::new(QEMU))?;
        command.args(self.arguments(cable));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command
            .spawn()
            .context("cannot start QEMU; install qemu-system-x86")?;
        *self.qemu.lock() = Some(child);
        let what = format!("the shell of {}", self.name);
        let up = until(&what, BOOT, || async {
            if let Some(ended) = self.ended() {
                return Ok(Look::Hopeless(anyhow::anyhow!("QEMU ended: {ended}")));
            }
            self.shell
                .run("true", Duration::from_secs(3))
                .await
                .map(|_| Look::Done(()))
        });
        up.await.with_context(|| self.last_words())
    }

    fn arguments(&self, cable: Cable) -> Vec<String> {
        let disk = |name: &str, more: &str| {
            let path = self.disk(name);
            format!("file={},format=raw,if=virtio,{more}", path.display())
        };
        let parts = |name: &str| self.parts.join(name).to_string_lossy().into_owned();
        let cable_name = &self.place.cable;
        let words = [
            ("-machine", "q35".to_owned()),
            ("-accel", "tcg,thread=multi".to_owned()),
            ("-cpu", "max".to_owned()),
            ("-smp", "2".to_owned()),
            ("-m", "768".to_owned()),
            ("-display", "none".to_owned()),
            ("-kernel", parts("vmlinuz")),
            ("-initrd", parts("initramfs")),
            ("-append", self.kernel_words(cable)),
            // What the guest flushes is the host's at once; what it does not is lost with QEMU.
            ("-drive", disk("root", "cache=writeback")),
            ("-drive", disk("extra", "readonly=on")),
            (
                "-netdev",
                format!("tap,id=cable,ifname={cable_name},script=no,downscript=no"),
            ),
            (
                "-device",
                format!("virtio-net-pci,netdev=cable,mac={}", mac(self.address())),
            ),
            (
                "-chardev",
                format!("file,id=console,append=on,path={}", self.console().display()),
            ),
            ("-serial", "chardev:console".to_owned()),
            (
                "-serial",
                format!("unix:{},server=on,wait=off", self.shell.socket().display()),
            ),
        ];
        let flags = ["-nodefaults", "-no-user-config", "-no-reboot"].map(str::to_owned);
        let words = words
            .into_iter()
            .flat_map(|(name, value)| [name.to_owned(), value]);
        flags.into_iter().chain(words).collect()
    }

    /// What the kernel is told; `machine.*` is read by the service that lays the second disk over the first.
    fn kernel_words(&self, cable: Cable) -> String {
        // The kernel's check of its timer fails on a host that is busy.
        let base = format!(
            "console=ttyS0 quiet panic=-1 no_timer_check systemd.hostname={} systemd.show_status=1",
            self.name
        );
        match cable {
            Cable::Plugged => format!("{base} {}", self.network_words()),
            Cable::Unplugged => base,
        }
    }

    fn network_words(&self) -> String {
        format!(
            "machine.address={}/24 machine.gateway={}",
            self.address(),
            self.network.host()
        )
    }

    /// Plugs the cable in again and gives the machine its address.
    pub async fn plug_in(&self) -> Result<()> {
        self.place.wire(Cable::Plugged, &self.network.bridge())?;
        let (address, gateway) = (self.address(), self.network.host());
        let lines = [
            format!("ip address replace {address}/24 dev eth0"),
            "ip link set eth0 up".to_owned(),
            format!("ip route replace default via {gateway}"),
        ];
        self.shell(&lines.join(" && ")).await.map(drop)
    }

    /// Takes the power away at once.
    pub fn cut_power(&self) -> Result<()> {
        if let Some(mut qemu) = self.qemu.lock().take() {
            qemu.kill()?;
            qemu.wait()?;
        }
        Ok(())
    }

    /// What a line prints in the machine's shell; one that fails is an error with what it printed.
    pub async fn shell(&self, line: &str) -> Result<String> {
        let done = self.shell.run(line, LINE).await;
        let done = done.with_context(|| self.last_words())?;
        if done.code != 0 {
            bail!(
                "on {}: {line}\n  ended with {}: {}",
                self.name,
                done.code,
                done.printed
            );
        }
        Ok(done.printed)
    }

    fn ended(&self) -> Option<String> {
        let mut qemu = self.qemu.lock();
        let status = qemu.as_mut()?.try_wait().ok()??;
        Some(status.to_string())
    }

    /// The end of what it said on its console, for a failure's message.
    fn last_words(&self) -> String {
        let text = fs::read(self.console()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().take(15).collect();
        let lines: Vec<&str> = lines.into_iter().rev().collect();
        format!(
            "machine {}, whose console is {}, said last:\n{}",
            self.name,
            self.console().display(),
            lines.join("\n")
        )
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if let Err(error) = self.cut_power() {
            eprintln!("machine {}: {error:#}", self.name);
        }
    }
}

impl Place {
    /// A cable for a machine that is no namespace: a tap.
    fn tap(&self) -> Result<()> {
        let cable = &self.cable;
        ip(&format!("tuntap add dev {cable} mode tap"))?;
        ip(&format!("link set {cable} up")).map(drop)
    }

    /// Puts the tap on the bridge or takes it off; the machine's own card is up either way.
    fn wire(&self, how: Cable, bridge: &str) -> Result<()> {
        let cable = &self.cable;
        match how {
            Cable::Plugged => ip(&format!("link set {cable} master {bridge}")),
            Cable::Unplugged => ip(&format!("link set {cable} nomaster")),
        }
        .map(drop)
    }
}

/// A card's own address that follows from the machine's: two machines must not have the same.
fn mac(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("52:54:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

fn containerd_config(cache: &Cache, driver: Driver) -> Result<String> {
    let pause = cache.image("pause")?.tag;
    Ok(format!(
        r#"version = 3

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"

[plugins."io.containerd.cri.v1.runtime"]
disable_apparmor = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "/etc/cni/net.d"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
SystemdCgroup = {}
"#,
        driver == Driver::Systemd
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_machines_have_two_cards() {
        assert_eq!(mac(Ipv4Addr::new(198, 18, 1, 12)), "52:54:c6:12:01:0c");
    }
}
