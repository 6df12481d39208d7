//! A systemd for tests: it says yes to everything and remembers what it was asked.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread::spawn;

use parking_lot::Mutex;

use super::wire::testing::{job_over, sent};
use super::*;

/// Listens until the test ends.
pub(in super::super) struct FakeSystemd {
    socket: PathBuf,
    calls: Arc<Mutex<Vec<String>>>,
}

impl FakeSystemd {
    pub(in super::super) fn start(socket: &Path) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&calls);
        spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = serve(stream, &noted);
            }
        });
        Self {
            socket: socket.to_owned(),
            calls,
        }
    }

    pub(in super::super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Each method and its unit.
    pub(in super::super) fn calls(&self) -> Vec<String> {
        self.calls.lock().clone()
    }
}

/// Reads the greeting, which has to come whole: the real one lets a call lie that it reads together with `BEGIN`.
pub(super) fn hear_greeting(stream: &mut UnixStream) -> io::Result<()> {
    let mut greeting = [0; 256];
    let read = stream.read(&mut greeting)?;
    assert!(greeting[..read].ends_with(b"\r\nBEGIN\r\n"));
    Ok(())
}

fn serve(mut stream: UnixStream, calls: &Mutex<Vec<String>>) -> io::Result<()> {
    hear_greeting(&mut stream)?;
    stream.write_all(b"OK 0123\r\n")?;
    let mut header = [0; HEADER];
    stream.read_exact(&mut header)?;
    let mut rest = vec![0; Message::rest(&header).unwrap()];
    stream.read_exact(&mut rest)?;
    let call = Message::parse(&header, &rest).unwrap();
    // Before the answer: whoever has it may ask what was called.
    calls.lock().push(format!("{} {}", call.member, call.text()));
    let answer = sent(2, &[], 1, &Body::default().text("/job/1"));
    let over = sent(4, &[(3, "s", "JobRemoved")], 0, &job_over("/job/1", "done"));
    stream.write_all(&[answer, over].concat())?;
    // Until the other side hangs up.
    let _ = stream.read(&mut [0]);
    Ok(())
}
