#!/usr/bin/env bash
# Installs what the testbed needs: Debian packages, and the Kubernetes programs, the container
# runtime and the images, built into a cache outside of the tree.
#
#   tests/control-plane/setup.sh          install and build what is missing, and say so
#   SETUP=no tests/control-plane/setup.sh install nothing; fail with the command for what is missing
#
# The cache is $TOMBOLO_CACHE (default ~/.cache/tombolo). Each part has a stamp with its version;
# a part whose stamp is there is not built again.
set -euo pipefail
cd "$(dirname "$0")"
# What apt and dpkg say is read.
export LC_ALL=C.UTF-8
: "${HOME:=$(getent passwd "$(id -u)" | cut -d: -f6)}"
export HOME

KUBERNETES=1.36.3
ETCD=3.6.8
CONTAINERD=2.4.2
RUNC=1.5.2
HELM=3.22.0
REGISTRY=3.1.1
IMAGES=3
MOSQUITTO=2
VM=1
# What Debian 12 has, for the tests of what is older than the rest.
OLD_CONTAINERD=1.6.20
OLD_ETCD=3.4.23

PACKAGES=(
  busybox-static ca-certificates conntrack containernetworking-plugins curl e2fsprogs gcc iproute2 iptables
  kmod libc6-dev libseccomp-dev make mosquitto mosquitto-clients pkg-config procps protobuf-compiler
  qemu-system-x86 strace tar util-linux
)

cache=${TOMBOLO_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tombolo}
bin=$cache/bin
stamps=$cache/stamps
mkdir -p "$bin" "$stamps" "$cache/images" "$cache/log"

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }

# part NAME VERSION COMMAND...: runs the command unless the stamp says it was done.
part() {
  local name=$1 version=$2; shift 2
  [ -e "$stamps/$name-$version" ] && return
  [ "${SETUP:-yes}" = no ] && die "$name $version is missing; run: make setup"
  say "building $name $version ..."
  local log=$cache/log/$name.log began=$SECONDS
  # A process of its own: bash ignores `set -e` in a function whose result is tested.
  if ! "./$(basename "$0")" --run "$@" >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    die "$name could not be built; the whole log is $log"
  fi
  rm -f "$stamps/$name-"*
  touch "$stamps/$name-$version"
  say "built $name $version in $((SECONDS - began)) s"
}

packages() {
  local missing=() name
  for name in "${PACKAGES[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || missing+=("$name")
  done
  [ ${#missing[@]} -eq 0 ] && return
  [ "${SETUP:-yes}" = no ] && die "packages are missing; run: apt-get install --no-install-recommends ${missing[*]}"
  say "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq >"$cache/log/apt.log" 2>&1 || true
  hold_services
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >>"$cache/log/apt.log" 2>&1 ||
    { tail -n 20 "$cache/log/apt.log" >&2; die "apt-get could not install ${missing[*]}"; }
  release_services "${missing[@]}"
}

# The testbed starts what it needs itself: nothing that is installed may run on this machine.
policy=/usr/sbin/policy-rc.d

hold_services() {
  [ -e "$policy" ] && return
  trap 'rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
}

release_services() {
  case " $* " in
    *" mosquitto "*) systemctl disable --quiet mosquitto 2>/dev/null || true ;;
  esac
  [ "$(trap -p EXIT)" = '' ] && return
  rm -f "$policy"
  trap - EXIT
}

# Rust and Go, in the versions that the manifests ask for. Go may fetch a newer self for a module: it is asked there.
tools() {
  local rust go found
  rust=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' ../../Cargo.toml)
  go=$(sed -n 's/^go \([0-9.]*\)$/\1/p' kubernetes/go.mod)
  at_least cargo "Rust $rust" https://rustup.rs "$(cargo --version 2>&1)"
  at_least rustc "Rust $rust" https://rustup.rs "$(rustc --version 2>&1)"
  found=$(cd kubernetes && go env GOVERSION 2>/dev/null) || found=$(cd / && go version 2>&1) || true
  at_least go "Go ${go%.0}" https://go.dev/dl "$found"
}

# at_least PROGRAM WANTED WHERE SAID: ends unless the version in SAID is at least that in WANTED ("NAME VERSION").
at_least() {
  local program=$1 wanted=$2 where=$3 found
  local remedy="$wanted or later is needed; install it from $where (Debian 12's own is older)"
  command -v "$program" >/dev/null || die "$program is not in PATH: $remedy"
  found=$(grep -oE '[0-9]+(\.[0-9]+)+' <<<"$4" | head -n 1) || die "$program does not tell its version: $4"
  [ "$(printf '%s\n' "${wanted#* }" "$found" | sort -V | head -n 1)" = "${wanted#* }" ] ||
    die "$program is $found: $remedy"
}

build_kubernetes() (
  cd kubernetes
  local pkg flags=()
  for pkg in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    flags+=(-X "$pkg.gitVersion=v$KUBERNETES" -X "$pkg.gitMajor=1" -X "$pkg.gitMinor=${KUBERNETES:2:2}"
            -X "$pkg.gitTreeState=clean" -X "$pkg.gitCommit=unknown")
  done
  export CGO_ENABLED=0
  go build -ldflags "-s -w ${flags[*]}" -o "$bin/" \
    k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kubectl,kubelet,kube-proxy} \
    k8s.io/kubernetes/test/images/agnhost
)

build_etcd() (
  cd etcd
  CGO_ENABLED=0 go build -ldflags '-s -w' -o "$bin/etcd" go.etcd.io/etcd/server/v3
)

build_containerd() {
  local at=github.com/containerd/containerd/v2/cmd
  CGO_ENABLED=0 GOBIN=$bin go install -ldflags '-s -w' \
    "$at/containerd@v$CONTAINERD" "$at/containerd-shim-runc-v2@v$CONTAINERD" "$at/ctr@v$CONTAINERD"
}

build_runc() {
  GOBIN=$bin go install -tags seccomp -ldflags '-s -w' "github.com/opencontainers/runc@v$RUNC"
}

build_helm() {
  CGO_ENABLED=0 GOBIN=$bin go install -ldflags '-s -w' "helm.sh/helm/v3/cmd/helm@v$HELM"
}

build_registry() {
  CGO_ENABLED=0 GOBIN=$bin go install -ldflags '-s -w' \
    "github.com/distribution/distribution/v3/cmd/registry@v$REGISTRY"
}

# unpack PACKAGE VERSION PROGRAM...: takes programs out of a Debian package. Installed, it would start them.
unpack() (
  local package=$1 version=$2 program work; shift 2
  work=$(mktemp -d)
  cd "$work"
  chmod 755 .
  apt-get download -q "$package" || { apt-get update -qq && apt-get download -q "$package"; }
  [[ $(dpkg-deb --field ./*.deb Version) = "$version"[-~+]* ]] ||
    { echo "$package is not $version but $(dpkg-deb --field ./*.deb Version)"; exit 1; }
  dpkg -x ./*.deb root
  mkdir -p "$cache/old"
  for program in "$@"; do cp "root/usr/bin/$program" "$cache/old/"; done
  rm -rf "$work"
)

build_old() {
  unpack containerd "$OLD_CONTAINERD" containerd containerd-shim-runc-v2 ctr
  unpack etcd-server "$OLD_ETCD" etcd
}

# archive ROOT TAG ENTRYPOINT-JSON FILE: packs a root directory as a docker archive.
archive() {
  local root=$1 tag=$2 entrypoint=$3 file=$4 work
  work=$(mktemp -d)
  tar -C "$root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$work/layer.tar" .
  local layer; layer=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
  cat >"$work/config.json" <<JSON
{"architecture":"amd64","os":"linux","created":"1970-01-01T00:00:00Z",
 "config":{"Entrypoint":$entrypoint,"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
 "rootfs":{"type":"layers","diff_ids":["sha256:$layer"]},"history":[{"created":"1970-01-01T00:00:00Z"}]}
JSON
  printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]\n' "$tag" >"$work/manifest.json"
  tar -C "$work" --sort=name --mtime=@0 --owner=0 --group=0 -cf "$file" manifest.json config.json layer.tar
  rm -rf "$work"
}

# debian_root ROOT PACKAGE...: unpacks packages with all that they need.
debian_root() (
  local root=$1; shift
  local work; work=$(mktemp -d)
  cd "$work"
  chmod 755 .
  local names try
  names=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
    --no-replaces --no-enhances "$@" | grep '^[a-z0-9]' | sort -u |
    grep -vE '^(debconf|perl|libperl|cdebconf|python)')
  # Only what can be installed: the list holds virtual packages too.
  # shellcheck disable=SC2086
  names=$(apt-cache policy $names | awk '/^[a-z0-9].*:$/ { name = $1; sub(":$", "", name) }
    /Candidate: [0-9]/ { print name }')
  for try in 1 2 3; do
    # shellcheck disable=SC2086
    apt-get download -q $names && break
    [ "$try" -lt 3 ] && sleep 2
  done
  [ "$(find . -name '*.deb' | wc -l)" -eq "$(wc -w <<<"$names")" ]
  mkdir -p "$root/usr/bin" "$root/usr/sbin" "$root/usr/lib" "$root/usr/lib64"
  local name
  for name in bin sbin lib lib64; do ln -sfn "usr/$name" "$root/$name"; done
  for name in *.deb; do dpkg-deb --fsys-tarfile "$name" | tar -C "$root" --keep-directory-symlink -xf -; done
  rm -rf "$work" "$root"/usr/share/{doc,man,locale,info}
)

build_images() {
  local work; work=$(mktemp -d)
  mkdir -p "$work/pause" "$work/busybox/bin" "$work/busybox/etc" "$work/busybox/tmp"
  cat >"$work/pause.c" <<'C'
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void stop(int n) { (void)n; _exit(0); }
static void reap(int n) { (void)n; while (waitpid(-1, NULL, WNOHANG) > 0) {} }
int main(void) {
  signal(SIGINT, stop);
  signal(SIGTERM, stop);
  signal(SIGCHLD, reap);
  for (;;) pause();
}
C
  gcc -Os -static -s -o "$work/pause/pause" "$work/pause.c"
  archive "$work/pause" registry.k8s.io/pause:3.10.2 '["/pause"]' "$cache/images/pause.tar"

  cp /bin/busybox "$work/busybox/bin/busybox"
  local applet
  for applet in $(/bin/busybox --list); do
    [ "$applet" = busybox ] || ln -s busybox "$work/busybox/bin/$applet"
  done
  printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$work/busybox/etc/passwd"
  printf 'root:x:0:\nnogroup:x:65534:\n' >"$work/busybox/etc/group"
  chmod 1777 "$work/busybox/tmp"
  archive "$work/busybox" docker.io/library/busybox:1.35 '[]' "$cache/images/busybox.tar"

  debian_root "$work/agnhost" bash coreutils grep sed hostname procps curl netcat-openbsd iproute2 ca-certificates base-passwd
  cp "$bin/agnhost" "$work/agnhost/agnhost"
  ln -sf bash "$work/agnhost/usr/bin/sh"
  mkdir -p -m 1777 "$work/agnhost/tmp"
  mkdir -p "$work/agnhost/etc"
  cp "$work/busybox/etc/passwd" "$work/busybox/etc/group" "$work/agnhost/etc/"
  archive "$work/agnhost" registry.k8s.io/e2e-test-images/agnhost:2.63.0 '["/agnhost"]' "$cache/images/agnhost.tar"
  rm -rf "$work"
}

# What the image eclipse-mosquitto has, made of Debian's programs: the clients, and a shell.
build_mosquitto() {
  local work; work=$(mktemp -d)
  tar -xOf "$cache/images/busybox.tar" layer.tar | tar -x -C "$work"
  local program library
  for program in mosquitto_pub mosquitto_sub mosquitto_rr; do
    install -D "/usr/bin/$program" "$work/usr/bin/$program"
    for library in $(ldd "/usr/bin/$program" | grep -oE '/[^ ]+'); do
      install -D "$library" "$work$library"
    done
  done
  archive "$work" docker.io/library/eclipse-mosquitto:2.0 '[]' "$cache/images/mosquitto.tar"
  rm -rf "$work"
}

# shellcheck source-path=SCRIPTDIR
. ./vm.sh

if [ "${1:-}" = --run ]; then
  shift
  "$@"
  exit
fi

tools
packages
part containerd "$CONTAINERD" build_containerd
part runc "$RUNC" build_runc
part etcd "$ETCD" build_etcd
part helm "$HELM" build_helm
part registry "$REGISTRY" build_registry
part old "$OLD_CONTAINERD-$OLD_ETCD" build_old
part kubernetes "$KUBERNETES" build_kubernetes
part images "$IMAGES-$KUBERNETES" build_images
part mosquitto "$MOSQUITTO-$IMAGES" build_mosquitto
part vm "$VM-$CONTAINERD-$RUNC" build_vm
say "ready: $cache"
