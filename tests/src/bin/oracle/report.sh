# Prints what a container sees of itself, and every file below the directories given as arguments.
echo "== process"
grep -E '^(Uid|Gid|Groups|Cap[A-Za-z]+|NoNewPrivs|Seccomp):' /proc/self/status | tr '\t' ' '
echo "pid 1: $(tr '\0' ' ' </proc/1/cmdline | cut -c1-40)"
echo "oom_score_adj $(cat /proc/self/oom_score_adj)"
echo "directory $(pwd), umask $(umask), hostname $(hostname)"
ulimit -a
echo "== environment"
env | sort
echo "== mounts"
awk '{ if (match($0, / - [^ ]+/)) kind = substr($0, RSTART + 3, RLENGTH - 3); print $5, $6, kind }' /proc/self/mountinfo | sort
echo "== names"
# A kubelet writes the hosts file anew when another container of the pod starts.
for try in 1 2 3 4 5; do [ -s /etc/hosts ] || sleep 0.2; done
cat /etc/hosts /etc/resolv.conf
echo "== limits"
for file in cpu/cpu.shares cpu/cpu.cfs_quota_us memory/memory.limit_in_bytes pids/pids.max cpu.weight cpu.max memory.max; do
  [ -r /sys/fs/cgroup/$file ] && echo "$file $(cat /sys/fs/cgroup/$file)"
done
for file in kernel.shm_rmid_forced net.ipv4.ip_unprivileged_port_start; do
  echo "$file $(cat /proc/sys/$(echo $file | tr . /) 2>&1)"
done
for dir in "$@"; do
  echo "== files of $dir"
  find "$dir" | sort | while read -r path; do
    set -- $(ls -lnd "$path")
    case "$1" in
    d*) echo "$1 $3 $4 $path" ;;
    l*) echo "$1 $3 $4 $path -> $(readlink "$path")" ;;
    *) echo "$1 $3 $4 $path: $(head -c 300 "$path" | grep -c .) lines: $(head -c 60 "$path" | tr '\n' '|')" ;;
    esac
  done
done
