//! Which other node agents run on this machine: by the names of their processes, and by who listens on
//! the kubelet's port.

use std::fs;
use std::path::Path;

use super::super::facts::Other;

/// The kubelet's port. edgecore listens on none.
const KUBELET_PORT: u16 = 10250;
/// The processes of agents, the kubelets of small distributions and KubeEdge's among them.
const AGENTS: [&str; 6] = [
    "kubelet",
    "kubelite",
    "k3s",
    "k3s-agent",
    "k3s-server",
    "edgecore",
];
/// What edgecore does that is over soon.
const SHORT: [&str; 6] = ["join", "status", "get", "reset", "doctor", "help"];
/// More than this are not named.
const MOST: usize = 4;

/// One process.
#[derive(Clone, Debug)]
struct Process {
    pid: i32,
    name: String,
    words: Vec<String>,
}

/// The other agents in this machine's own process namespace: one in a container is no concern of ours, nor
/// is a pod that listens on that port.
pub(super) fn running(proc: &Path, daemon: Option<i32>) -> Vec<Other> {
    let own = i32::try_from(std::process::id()).ok();
    let processes = processes(proc);
    let is_other = |process: &&Process| Some(process.pid) != own && Some(process.pid) != daemon;
    let others: Vec<&Process> = processes.iter().filter(is_other).collect();
    let agents = others.iter().filter(|process| is_agent(process));
    let mut found: Vec<Other> = agents.map(|process| process.told(false)).collect();
    if found.is_empty() {
        found.extend(listener(proc, &others).map(|process| process.told(true)));
    }
    found.truncate(MOST);
    found
}

impl Process {
    fn told(&self, by_port: bool) -> Other {
        Other {
            name: format!("{} (process {})", self.name, self.pid),
            by_port,
        }
    }
}

fn is_agent(process: &Process) -> bool {
    let is_ours_and_short = || {
        let words = process.words.iter().skip(1).map(String::as_str);
        process.name == "edgecore" && words.into_iter().any(|word| SHORT.contains(&word))
    };
    AGENTS.contains(&process.name.as_str()) && !is_ours_and_short()
}

fn processes(proc: &Path) -> Vec<Process> {
    let namespace = |dir: &Path| fs::read_link(dir.join("ns/pid")).ok();
    let here = namespace(&proc.join("self"));
    let entries = fs::read_dir(proc).into_iter().flatten().filter_map(Result::ok);
    let read = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let dir = entry.path();
        if namespace(&dir) != here {
            return None;
        }
        let words = fs::read(dir.join("cmdline")).unwrap_or_default();
        let words = words.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        Some(Process {
            pid,
            name: fs::read_to_string(dir.join("comm")).ok()?.trim().to_owned(),
            words: words
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect(),
        })
    };
    entries.filter_map(read).collect()
}

/// Who of them listens on the kubelet's port.
fn listener<'a>(proc: &Path, processes: &[&'a Process]) -> Option<&'a Process> {
    let table = |name: &&str| fs::read_to_string(proc.join(name)).ok();
    let mut tables = ["self/net/tcp", "self/net/tcp6"].iter().filter_map(table);
    let socket = tables.find_map(|table| listening(&table, KUBELET_PORT))?;
    let holds = |process: &&&Process| {
        let files = fs::read_dir(proc.join(process.pid.to_string()).join("fd"));
        let mut links = files
            .into_iter()
            .flatten()
            .filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        links.any(|link| link.to_str() == Some(&socket))
    };
    processes.iter().find(holds).copied()
}

/// The socket that listens on `port`, as a process's open files name it, from the kernel's table
/// `sl local_address rem_address st … inode`.
fn listening(table: &str, port: u16) -> Option<String> {
    const LISTEN: &str = "0A";
    let end = format!(":{port:04X}");
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_it = fields.get(1)?.ends_with(&end) && *fields.get(3)? == LISTEN;
        is_it.then(|| fields.get(9).map(|inode| format!("socket:[{inode}]")))?
    };
    table.lines().skip(1).find_map(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:280A 00000000:0000 01 00000000:00000000 00:00000000 00000000     0        0 111 1
   1: 00000000:280A 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 222 1
";

    fn process(words: &[&str]) -> Process {
        Process {
            pid: 7,
            name: words[0].to_owned(),
            words: words.iter().map(|word| (*word).to_owned()).collect(),
        }
    }

    #[test]
    fn whoever_listens_on_a_port_is_found_and_not_who_merely_uses_it() {
        assert_eq!(listening(TABLE, 10250), Some("socket:[222]".to_owned()));
        assert_eq!(listening(TABLE, 10251), None);
    }

    #[test]
    fn another_edgecore_is_an_agent_and_one_that_only_asks_is_none() {
        assert!(is_agent(&process(&["edgecore"])), "KubeEdge's");
        assert!(is_agent(&process(&["edgecore", "--root", "/x", "run"])));
        assert!(!is_agent(&process(&["edgecore", "status"])));
        assert!(is_agent(&process(&["k3s-agent"])) && is_agent(&process(&["kubelet", "--config", "x"])));
        assert!(!is_agent(&process(&["containerd"])));
    }
}
