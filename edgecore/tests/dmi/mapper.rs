//! The mapper in Go: built, started, told what to do, and asked what it heard.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use prost::Message as _;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::PATIENCE;

/// Where the program and the compiled dmi.proto are.
pub(crate) struct Program {
    binary: PathBuf,
    descriptors: PathBuf,
}

/// The program, built once; none where there is no Go.
pub(crate) async fn program() -> Option<&'static Program> {
    static PROGRAM: OnceCell<Option<Program>> = OnceCell::const_new();
    PROGRAM.get_or_init(build).await.as_ref()
}

async fn build() -> Option<Program> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let program = Program {
        binary: dir.join("mapper"),
        descriptors: dir.join("dmi.descriptors"),
    };
    let proto = here.join("../protocol/proto");
    let compiled = protox::compile(["dmi.proto"], [proto]).unwrap();
    std::fs::write(&program.descriptors, compiled.encode_to_vec()).unwrap();

    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&program.binary)
        .arg(".")
        .current_dir(here.join("../tests/mapper"))
        .status()
        .await;
    match built {
        Err(error) => {
            eprintln!("not tested with a mapper in Go: {error}");
            None
        }
        Ok(status) => {
            assert!(status.success(), "tests/mapper does not build");
            Some(program)
        }
    }
}

/// A running mapper.
pub(crate) struct Mapper {
    process: Child,
    commands: ChildStdin,
    events: Lines<BufReader<ChildStdout>>,
}

impl Mapper {
    /// Starts one that serves `modbus`, unless the arguments say otherwise.
    pub(crate) fn start(program: &Program, edgecore: &Path, socket: &Path, arguments: &[&str]) -> Self {
        let mut process = Command::new(&program.binary)
            .arg("-descriptors")
            .arg(&program.descriptors)
            .arg("-edgecore")
            .arg(edgecore)
            .arg("-socket")
            .arg(socket)
            .arg("-protocol=modbus")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            commands: process.stdin.take().unwrap(),
            events: BufReader::new(process.stdout.take().unwrap()).lines(),
            process,
        }
    }

    /// The next thing that it says, which must be this.
    pub(crate) async fn heard(&mut self, event: &str) -> Value {
        let line = timeout(PATIENCE, self.events.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("no {event} in time")).unwrap();
        let said: Value =
            serde_json::from_str(&line.unwrap_or_else(|| panic!("ended before {event}"))).unwrap();
        assert_eq!(said["event"], event, "{said}");
        said
    }

    /// Does what it is told; the error if it could not.
    pub(crate) async fn obeys(&mut self, command: &Value) -> Option<String> {
        let line = format!("{command}\n");
        self.commands.write_all(line.as_bytes()).await.unwrap();
        loop {
            let line = timeout(PATIENCE, self.events.next_line())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            let said: Value = serde_json::from_str(&line).unwrap();
            // A call that is made again may come in between.
            if said["event"] == "obeyed" {
                return said["error"].as_str().map(str::to_owned);
            }
        }
    }

    /// Ends it as a crash would.
    pub(crate) async fn kill(mut self) {
        self.process.kill().await.unwrap();
    }
}
