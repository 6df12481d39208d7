# shellcheck shell=bash
# The disk and the kernel of the machine that can lose its power: sourced by setup.sh.
#
# Debian's kernel, and a root file system of Debian's systemd with containerd and runc from the
# cache. What a test brings comes on a second disk (tests/src/power/): a tree that is laid over the
# root at each boot.

# What the root file system holds, with all that these need.
VM_PACKAGES=(
  base-files base-passwd bash containernetworking-plugins coreutils curl dbus e2fsprogs findutils grep
  iproute2 iptables kmod libseccomp2 mount procps sed systemd systemd-sysv util-linux
)
# Parts of the kernel that are modules: what is loaded before there is a disk, in this order.
VM_EARLY_MODULES=(
  virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk
  failover net_failover virtio_net
)
VM_MODULES='kernel/(net|lib|crypto|fs/overlayfs|fs/nls|drivers/(block|net|virtio|char/hw_random))/'

build_vm() {
  local work; work=$(mktemp -d)
  mkdir -p "$work/kernel" "$work/root" "$cache/vm"
  vm_kernel "$work/kernel"
  local version; version=$(basename "$work"/kernel/boot/vmlinuz-* | sed 's/^vmlinuz-//')
  vm_root "$work/root"
  (cd "$work/kernel" && find "lib/modules/$version" -type f | grep -E "$VM_MODULES|/modules\." |
    tar -cf - -T -) | tar -C "$work/root/usr" -xf -
  depmod -b "$work/root" "$version"
  vm_initramfs "$work/root/usr/lib/modules/$version" "$work/initramfs" >"$cache/vm/initramfs"
  cp "$work"/kernel/boot/vmlinuz-* "$cache/vm/vmlinuz"
  rm -f "$cache/vm/root.ext4"
  # No journal of its own device, no huge inode tables: a disk of 2 GB whose holes stay holes.
  truncate -s 2G "$cache/vm/root.ext4"
  mkfs.ext4 -q -m 0 -E lazy_itable_init=1,root_owner=0:0 -d "$work/root" "$cache/vm/root.ext4"
  rm -rf "$work"
}

# vm_kernel DIR: Debian's kernel for virtual machines.
vm_kernel() (
  local image; image=$(apt-cache depends linux-image-cloud-amd64 |
    sed -nE 's/.*Depends: (linux-image-[0-9].*)/\1/p' | head -n 1)
  cd "$1"
  apt-get download -q "$image"
  dpkg -x ./*.deb .
)

vm_root() {
  local root=$1
  debian_root "$root" "${VM_PACKAGES[@]}"
  mkdir -p "$root"/{dev,proc,sys,run,tmp,root,extra,usr/local/sbin} "$root"/etc/systemd/system/multi-user.target.wants
  cp "$bin"/{containerd,containerd-shim-runc-v2,ctr,runc} "$root/usr/bin/"
  cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
  cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
  printf 'messagebus:x:100:100::/nonexistent:/usr/sbin/nologin\n' >>"$root/etc/passwd"
  printf 'messagebus:x:100:\nsystemd-journal:x:101:\nrender:x:102:\nkvm:x:103:\ninput:x:104:\nsgx:x:105:\n' >>"$root/etc/group"
  printf '127.0.0.1 localhost\n' >"$root/etc/hosts"
  touch "$root/etc/resolv.conf"
  ln -sf bash "$root/usr/bin/sh"
  echo 5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e >"$root/etc/machine-id"
  local name
  for name in iptables iptables-save iptables-restore; do
    ln -sf xtables-nft-multi "$root/usr/sbin/$name"
  done
  # Nobody logs in, and nothing needs a clock or a first boot.
  for name in getty.target systemd-logind.service systemd-firstboot.service dpkg-db-backup.timer \
    apt-daily.timer e2scrub_all.timer fstrim.timer systemd-update-utmp.service \
    systemd-random-seed.service systemd-pstore.service systemd-sysusers.service modprobe@loop.service \
    systemd-update-utmp-runlevel.service systemd-tmpfiles-clean.timer systemd-user-sessions.service \
    sys-kernel-debug.mount sys-kernel-tracing.mount modprobe@drm.service modprobe@fuse.service \
    modprobe@efi_pstore.service modprobe@configfs.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$name"
  done
  ln -sf /lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
  vm_units "$root"
}

# vm_units ROOT: what lays the second disk over the root, and the shell that a test talks to.
vm_units() {
  local root=$1 units=$1/etc/systemd/system
  cat >"$root/usr/local/sbin/lay-over" <<'SH'
#!/bin/sh
set -eu
mount -t ext4 -o ro /dev/vdb /extra
cp -a /extra/over/. /
sysctl -q -w net.ipv4.ip_forward=1
word() { sed -n "s/.*machine\.$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
ip link set lo up
if [ -n "$(word address)" ] && [ -e /sys/class/net/eth0 ]; then
  ip address replace "$(word address)" dev eth0
  ip link set eth0 up
  ip route replace default via "$(word gateway)"
fi
systemctl daemon-reload
SH
  cat >"$root/usr/local/sbin/console-shell" <<'SH'
#!/bin/bash
# One line in, its output and its exit code out: nonce, output, nonce and code.
stty -F /dev/ttyS1 raw -echo
exec </dev/ttyS1 >/dev/ttyS1
while read -r nonce line; do
  printf '<%s>' "$nonce"
  bash -c "$line" </dev/null 2>&1
  printf '<%s %s>' "$nonce" "$?"
done
SH
  chmod 755 "$root/usr/local/sbin/lay-over" "$root/usr/local/sbin/console-shell"
  cat >"$units/lay-over.service" <<'UNIT'
[Unit]
Description=What the test brings, and the network
DefaultDependencies=no
After=systemd-remount-fs.service systemd-tmpfiles-setup.service local-fs.target
Before=sysinit.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/lay-over
UNIT
  cat >"$units/console-shell.service" <<'UNIT'
[Unit]
Description=A shell on the second serial line

[Service]
ExecStart=/usr/local/sbin/console-shell
Restart=always
RestartSec=100ms
# Even when the machine is out of memory.
OOMScoreAdjust=-1000
UNIT
  cat >"$units/containerd.service" <<'UNIT'
[Unit]
Description=containerd
After=lay-over.service

[Service]
Type=notify
ExecStart=/usr/bin/containerd
Delegate=yes
KillMode=process
Restart=always
RestartSec=1
LimitNOFILE=1048576
TasksMax=infinity
OOMScoreAdjust=-999
UNIT
  mkdir -p "$units/sysinit.target.wants"
  ln -sf ../lay-over.service "$units/sysinit.target.wants/"
  ln -sf ../console-shell.service ../containerd.service "$units/multi-user.target.wants/"
}

# vm_initramfs MODULES WORK: finds the disk and hands over to it.
vm_initramfs() {
  local modules=$1 work=$2 name
  mkdir -p "$work"/{bin,modules,proc,dev,root}
  cp /bin/busybox "$work/bin/busybox"
  for name in "${VM_EARLY_MODULES[@]}"; do
    find "$modules" -name "$name.ko" -exec cp {} "$work/modules/" \;
  done
  {
    echo '#!/bin/busybox sh'
    echo '/bin/busybox mount -t devtmpfs dev /dev'
    for name in "${VM_EARLY_MODULES[@]}"; do
      echo "[ ! -e /modules/$name.ko ] || /bin/busybox insmod /modules/$name.ko"
    done
    echo '/bin/busybox mount -t ext4 /dev/vda /root || exit 1'
    echo '/bin/busybox umount /dev'
    echo 'exec /bin/busybox switch_root /root /sbin/init'
  } >"$work/init"
  chmod 755 "$work/init"
  (cd "$work" && find . | busybox cpio -o -H newc)
}
