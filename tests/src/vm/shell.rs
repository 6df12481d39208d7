//! The shell on a virtual machine's second serial line.
//!
//! A line goes in as `nonce line`; out come `<nonce>`, what it printed, `<nonce code>`. The nonce tells an answer from what
//! the line echoes while the machine boots, and from the answer to a question that was given up.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::Mutex,
    time::timeout,
};

/// More than any line prints.
const MOST_BYTES: usize = 1 << 20;

/// Where it listens, and one question at a time.
#[derive(Debug)]
pub(super) struct Shell {
    socket: PathBuf,
    asking: Mutex<()>,
    nonce: AtomicU64,
}

/// What became of a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) printed: String,
    pub(super) code: i32,
}

impl Shell {
    pub(super) fn at(socket: PathBuf) -> Self {
        Self {
            socket,
            asking: Mutex::new(()),
            nonce: AtomicU64::new(0),
        }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Runs a line.
    pub(super) async fn run(&self, line: &str, limit: Duration) -> Result<Done> {
        ensure!(!line.contains('\n'), "one line at a time: {line}");
        let _asking = self.asking.lock().await;
        let nonce = format!("n{}", self.nonce.fetch_add(1, Ordering::Relaxed));
        match timeout(limit, self.ask(&nonce, line)).await {
            Ok(done) => done,
            Err(_) => bail!("no answer within {limit:?} to: {line}"),
        }
    }

    async fn ask(&self, nonce: &str, line: &str) -> Result<Done> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        stream.write_all(format!("{nonce} {line}\n").as_bytes()).await?;
        let mut read = Vec::new();
        loop {
            ensure!(read.len() < MOST_BYTES, "too much is printed by: {line}");
            if stream.read_buf(&mut read).await? == 0 {
                bail!("the machine is off: {line}");
            }
            if let Some(done) = answer(&String::from_utf8_lossy(&read), nonce) {
                return Ok(done);
            }
        }
    }
}

fn answer(read: &str, nonce: &str) -> Option<Done> {
    let (_, begun) = read.split_once(&format!("<{nonce}>"))?;
    let (printed, end) = begun.split_once(&format!("<{nonce} "))?;
    let (code, _) = end.split_once('>')?;
    Some(Done {
        printed: printed.to_owned(),
        code: code.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_from_echoes_and_older_answers() {
        assert_eq!(answer("n2 echo hi\r\n<n1>x<n1 0><n2>hi\n", "n2"), None);
        let done = answer("n2 echo hi\r\n<n1>x<n1 0><n2>hi\n<n2 3>", "n2");
        let printed = "hi\n".to_owned();
        assert_eq!(done, Some(Done { printed, code: 3 }));
    }
}
