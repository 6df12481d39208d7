//! Reads what strace saw of the committing process.
//!
//! One [`Event`] for each operation on a file below the store's directory, in the order in which they
//! returned; a sync has two, for it covers only what was written before it began. An operation that this
//! file does not know is an error, never ignored: the disk that is rebuilt would be another one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// System calls that change a file or what survives of it.
const CALLS: &str = "open,openat,creat,close,dup,dup2,dup3,fcntl,lseek,write,pwrite64,writev,pwritev,pwritev2,\
    ftruncate,truncate,fallocate,copy_file_range,sendfile,msync,fsync,fdatasync,sync_file_range,mkdir,\
    mkdirat,rmdir,rename,renameat,renameat2,unlink,unlinkat,link,linkat,symlink,symlinkat";

/// One step of the committing process.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Open {
        fd: i32,
        path: PathBuf,
        create: bool,
        truncate: bool,
    },
    Duplicate {
        fd: i32,
        to: i32,
    },
    Close {
        fd: i32,
    },
    MakeDir(PathBuf),
    Write {
        fd: i32,
        at: u64,
        bytes: Arc<[u8]>,
    },
    /// The kernel copies from one file to another.
    Copy {
        from: i32,
        from_at: u64,
        to: i32,
        to_at: u64,
        len: u64,
    },
    Truncate {
        fd: i32,
        len: u64,
    },
    SyncBegins {
        fd: i32,
        thread: u32,
    },
    SyncEnds {
        fd: i32,
        thread: u32,
        data_only: bool,
    },
    SyncRange {
        fd: i32,
        from: u64,
        to: u64,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Exchange {
        a: PathBuf,
        b: PathBuf,
    },
    Remove(PathBuf),
    /// A line on stdout.
    Said(String),
}

/// Runs a command under strace, and returns where the trace is.
pub(crate) fn record(command: &Command, dir: &Path) -> PathBuf {
    let trace = dir.join("trace");
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "--seccomp-bpf", "-xx", "-s", "16777216", "-e"])
        .arg(format!("trace={CALLS}"))
        .arg("-o")
        .arg(&trace)
        .arg(command.get_program())
        .args(command.get_args());
    for (key, value) in command.get_envs() {
        strace.env(key, value.unwrap_or_default());
    }
    let output = strace
        .output()
        .unwrap_or_else(|error| panic!("strace cannot be run ({error}); run: apt-get install strace"));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "the committing process failed, or may not be traced (ptrace): {words}\n{}",
        String::from_utf8_lossy(&output.stdout)
    );
    trace
}

/// The events in a trace that concern the directory that the process has named on stdout.
pub(crate) fn read(trace: &str) -> Vec<Event> {
    let mut reader = Reader {
        root: PathBuf::from("/nothing is ours before it is named"),
        ours: HashMap::new(),
        events: Vec::new(),
    };
    let mut unfinished: HashMap<u32, &str> = HashMap::new();
    for line in trace.lines() {
        let (thread, rest) = line.trim_start().split_once(' ').unwrap();
        let (thread, rest) = (thread.parse().unwrap(), rest.trim_start());
        if let Some(call) = rest.strip_suffix("<unfinished ...>") {
            reader.begins(thread, call);
            unfinished.insert(thread, call.trim_end());
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let Some(call) = unfinished.remove(&thread) else {
                continue;
            };
            let tail = resumed.split_once("resumed>").unwrap().1;
            reader.ends(thread, &format!("{call}{tail}"));
        } else {
            reader.begins(thread, rest);
            reader.ends(thread, rest);
        }
    }
    reader.events
}

struct Reader {
    root: PathBuf,
    /// Our descriptors: what each was opened as, and where it stands.
    ours: HashMap<i32, (PathBuf, u64)>,
    events: Vec<Event>,
}

impl Reader {
    /// What counts from its beginning: a sync covers what came before, and a number is free at once.
    fn begins(&mut self, thread: u32, call: &str) {
        let Some((name, args)) = call.split_once('(') else {
            return;
        };
        let number = || {
            args.split([',', ')'])
                .next()
                .and_then(|fd| fd.trim().parse::<i32>().ok())
        };
        let Some(fd) = number().filter(|fd| self.ours.contains_key(fd)) else {
            return;
        };
        match name {
            "fsync" | "fdatasync" => self.events.push(Event::SyncBegins { fd, thread }),
            "close" => {
                self.ours.remove(&fd);
                self.events.push(Event::Close { fd });
            }
            _ => {}
        }
    }

    fn ends(&mut self, thread: u32, line: &str) {
        let Some((name, rest)) = line.split_once('(') else {
            return;
        };
        let Some((args, result)) = rest.rsplit_once(") = ").or_else(|| rest.rsplit_once(" = ")) else {
            return;
        };
        let result = result
            .split(' ')
            .next()
            .and_then(|number| number.parse::<i64>().ok());
        let Some(result) = result.filter(|result| *result >= 0) else {
            return;
        };
        let args: Vec<&str> = args.trim_end_matches([')', ' ']).split(", ").collect();
        match name {
            "close" => {}
            "open" | "openat" | "creat" => self.opened(name, &args, result),
            "mkdir" | "rename" | "unlink" | "rmdir" | "truncate" | "link" | "symlink" | "mkdirat"
            | "renameat" | "renameat2" | "unlinkat" | "linkat" | "symlinkat" => self.named(name, &args),
            _ => self.on_descriptor(thread, name, &args, result),
        }
    }

    fn opened(&mut self, name: &str, args: &[&str], result: i64) {
        let fd = i32::try_from(result).unwrap();
        let &[dir, path, flags, ..] = args else {
            panic!("unknown way to open: {name} {args:?}")
        };
        let Some(path) = self.at(dir, path) else { return };
        assert!(!flags.contains("O_APPEND"), "appending is not modelled");
        self.ours.insert(fd, (path.clone(), 0));
        self.events.push(Event::Open {
            fd,
            path,
            create: flags.contains("O_CREAT"),
            truncate: flags.contains("O_TRUNC"),
        });
    }

    fn named(&mut self, name: &str, args: &[&str]) {
        let event = match (name, args) {
            ("mkdir", [path, _]) => self.below(path).map(Event::MakeDir),
            ("unlink" | "rmdir", [path]) => self.below(path).map(Event::Remove),
            ("unlinkat", [dir, path, _]) => self.at(dir, path).map(Event::Remove),
            ("rename", [from, to]) => self.pair(from, to).map(|(from, to)| Event::Rename { from, to }),
            ("renameat2", ["AT_FDCWD", a, "AT_FDCWD", b, "RENAME_EXCHANGE"]) => {
                self.pair(a, b).map(|(a, b)| Event::Exchange { a, b })
            }
            _ => {
                let paths = args.iter().filter(|arg| arg.starts_with('"'));
                assert!(
                    paths.filter_map(|path| self.below(path)).count() == 0,
                    "not modelled: {name} {args:?}"
                );
                None
            }
        };
        self.events.extend(event);
    }

    fn on_descriptor(&mut self, thread: u32, name: &str, args: &[&str], result: i64) {
        let fd: i32 = args[0].parse().unwrap_or(-1);
        if fd == 1 && name == "write" {
            self.said(args[1]);
            return;
        }
        if name == "copy_file_range" {
            self.copied(fd, args, result.unsigned_abs());
            return;
        }
        let Some((path, position)) = self.ours.get_mut(&fd) else {
            return;
        };
        let number = |n: usize| args[n].parse::<u64>().unwrap();
        let done = usize::try_from(result).unwrap();
        let event = match name {
            "lseek" => {
                *position = result.unsigned_abs();
                return;
            }
            "write" => {
                let at = *position;
                *position += result.unsigned_abs();
                Event::Write {
                    fd,
                    at,
                    bytes: unhex(args[1])[..done].into(),
                }
            }
            "pwrite64" => Event::Write {
                fd,
                at: number(3),
                bytes: unhex(args[1])[..done].into(),
            },
            "ftruncate" => Event::Truncate { fd, len: number(1) },
            "fsync" => Event::SyncEnds {
                fd,
                thread,
                data_only: false,
            },
            "fdatasync" => Event::SyncEnds {
                fd,
                thread,
                data_only: true,
            },
            "sync_file_range" => Event::SyncRange {
                fd,
                from: number(1),
                to: number(1) + number(2),
            },
            // The ballast: room that was taken and is never read.
            "fallocate" => return,
            "fcntl" if !args[1].starts_with("F_DUPFD") => return,
            "dup" | "fcntl" => {
                let to = i32::try_from(result).unwrap();
                let same = (path.clone(), *position);
                self.ours.insert(to, same);
                Event::Duplicate { fd, to }
            }
            _ => panic!("not modelled: {name} of a file of the store"),
        };
        self.events.push(event);
    }

    /// A line on stdout; one of them names the directory that all this is about.
    fn said(&mut self, words: &str) {
        let line = String::from_utf8_lossy(&unhex(words)).trim_end().to_owned();
        if let Some(root) = line.strip_prefix("root ") {
            self.root = root.into();
        }
        self.events.push(Event::Said(line));
    }

    fn copied(&mut self, from: i32, args: &[&str], len: u64) {
        let [_, "NULL", to, "NULL", ..] = args else {
            panic!("not modelled: copy_file_range {args:?}")
        };
        let to = to.parse().unwrap();
        let mut advance = |fd| {
            let (_, at) = self.ours.get_mut(&fd).unwrap();
            *at += len;
            *at - len
        };
        let (from_at, to_at) = (advance(from), advance(to));
        self.events.push(Event::Copy {
            from,
            from_at,
            to,
            to_at,
            len,
        });
    }

    fn pair(&self, a: &str, b: &str) -> Option<(PathBuf, PathBuf)> {
        let (a, b) = (self.below(a), self.below(b));
        assert_eq!(a.is_some(), b.is_some(), "renamed out of the store's directory");
        a.zip(b)
    }

    /// The path of a name in a directory that is open, or in none.
    fn at(&self, dir: &str, name: &str) -> Option<PathBuf> {
        if dir == "AT_FDCWD" {
            return self.below(name);
        }
        let (dir, _) = self.ours.get(&dir.parse().ok()?)?;
        Some(dir.join(String::from_utf8_lossy(&unhex(name)).as_ref()))
    }

    /// The path, relative to the store's directory.
    fn below(&self, hex: &str) -> Option<PathBuf> {
        let path = PathBuf::from(String::from_utf8_lossy(&unhex(hex)).into_owned());
        path.strip_prefix(&self.root).ok().map(Path::to_owned)
    }
}

/// The bytes of `"\x61\x62"`.
fn unhex(quoted: &str) -> Vec<u8> {
    let inner = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let inner = inner.unwrap_or_else(|| panic!("no whole string: {}", &quoted[..quoted.len().min(40)]));
    let digit = |byte: u8| (byte & 15) + 9 * (byte >> 6);
    let bytes = inner.as_bytes().chunks_exact(4);
    bytes.map(|hex| digit(hex[2]) << 4 | digit(hex[3])).collect()
}
