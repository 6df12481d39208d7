//! How the broker receives the node, and a stranger; for those who look for what is wrong.
//!
//! The node is shown as its own client: brokers may name clients after their users, so any other name may
//! lead to the same session. It goes on, nothing in it is acknowledged, and it is left as it was. The
//! stranger has a name that nobody else has, and the broker keeps nothing of it.
//!
//! **Invariant:** what waits at the broker for the node still waits there afterwards.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::Mqtt;
use super::credentials::Access;
use super::packets::{Incoming, refuses_five};
use super::version::{Greeting, Lost, Session, Version};
use super::wire::{Stream, dial};

/// How long the broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// How an answer to a connection begins.
const CONNACK: u8 = 0x20;

/// How somebody is received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Let in.
    LetIn,
    /// Turned away: another name or password is wanted.
    Refused,
    /// Nobody answers, and why.
    Unreached(String),
    /// Answered in a way that says neither.
    Odd(String),
}

/// How the broker receives whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knock {
    /// The node, as edgecore shows itself.
    pub own: Answer,
    /// Somebody without a name; not known where the node shows a certificate, or may.
    pub stranger: Option<Answer>,
    /// Whether the node has a name and a password.
    pub has_login: bool,
}

/// Knocks as the node, unless it `is_in` already, and, beside that, as nobody. An error says why the
/// credentials cannot be used.
///
/// A node that is in would be thrown out by it: its answer is known.
pub async fn knock(config: &Mqtt, node: &str, is_in: bool) -> Result<Knock, String> {
    let access = Access::read(config, node).map_err(|error| error.to_string())?;
    let has_login = access.login.is_some();
    let own = async {
        if is_in {
            return Answer::LetIn;
        }
        received(as_node(&access)).await
    };
    let stranger = async {
        if !has_login || access.has_certificate {
            return None;
        }
        Some(received(as_nobody(&access)).await)
    };
    let (own, stranger) = tokio::join!(own, stranger);
    // Without a name and without encryption the node is nobody itself.
    let is_nobody = !has_login && access.tls().is_none();
    let stranger = stranger.or_else(|| is_nobody.then(|| own.clone()));
    Ok(Knock {
        own,
        stranger,
        has_login,
    })
}

async fn received(asking: impl Future<Output = Answer>) -> Answer {
    let late = || Answer::Unreached(format!("no answer within {} s", PATIENCE.as_secs()));
    timeout(PATIENCE, asking).await.unwrap_or_else(|_| late())
}

/// In the versions that edgecore speaks, in its order: a session keeps the settings of the last one.
async fn as_node(access: &Access) -> Answer {
    let mut greeting = Greeting::default();
    let first = ask(access, greeting).await;
    let Ok(Err(lost @ (Lost::Version | Lost::HungUp))) = &first else {
        return meaning(first);
    };
    greeting.lost(lost, false);
    meaning(ask(access, greeting).await)
}

/// Over MQTT 3.1.1, where a session that begins clean is never kept.
async fn as_nobody(access: &Access) -> Answer {
    let mut nobody = access.clone();
    nobody.client_id.push_str("-nobody");
    nobody.login = None;
    let greeting = Greeting {
        version: Version::Three,
        session: Session::Clean,
    };
    meaning(ask(&nobody, greeting).await)
}

fn meaning(answer: Result<Result<(), Lost>, String>) -> Answer {
    match answer {
        Ok(Ok(())) => Answer::LetIn,
        Ok(Err(Lost::Denied(_))) => Answer::Refused,
        Ok(Err(lost)) => Answer::Odd(lost.to_string()),
        Err(why) => Answer::Unreached(why),
    }
}

/// Connects and leaves; the outer error is of those that nobody answered.
async fn ask(access: &Access, greeting: Greeting) -> Result<Result<(), Lost>, String> {
    let stream = dial(access).await.map_err(|error| error.to_string())?;
    Ok(greet(stream, access, greeting).await)
}

async fn greet(mut stream: Box<dyn Stream>, access: &Access, greeting: Greeting) -> Result<(), Lost> {
    let Greeting { version, session } = greeting;
    let (mut hello, mut answer, mut leave) = (BytesMut::new(), BytesMut::new(), BytesMut::new());
    version.connect(session, access, &mut hello)?;
    version.leave(&mut leave)?;
    let of_system = |error| Lost::of_system(&error);
    stream.write_all(&hello).await.map_err(of_system)?;
    stream.flush().await.map_err(of_system)?;
    loop {
        if stream.read_buf(&mut answer).await.map_err(of_system)? == 0 {
            return Err(Lost::HungUp);
        }
        // Whatever else it says, it is no broker that answers.
        let is_answer = answer.starts_with(&[CONNACK]);
        if !is_answer || (version == Version::Five && refuses_five(&answer)) {
            return Err(Lost::Version);
        }
        match version.read(&mut answer)? {
            Some(Incoming::Up { .. }) => break,
            Some(_) => return Err(Lost::Version),
            None => {}
        }
    }
    // Without a goodbye it would still be over, only noted as a loss.
    let _ = stream.write_all(&leave).await;
    let _ = stream.flush().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_broker_that_is_not_there_is_told_from_one_that_hangs_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = Mqtt {
            address: listener.local_addr().unwrap().to_string().parse().unwrap(),
            ..Mqtt::default()
        };
        let hang_up = async {
            for _ in 0..2 {
                drop(listener.accept().await.unwrap());
            }
        };
        let (knocked, ()) = tokio::join!(knock(&config, "pump-7", false), hang_up);
        let knocked = knocked.unwrap();
        assert!(matches!(knocked.own, Answer::Odd(_)), "{knocked:?}");
        assert_eq!((knocked.stranger, knocked.has_login), (Some(knocked.own), false));
        drop(listener);
        let gone = knock(&config, "pump-7", false).await.unwrap();
        assert!(matches!(gone.own, Answer::Unreached(_)), "{gone:?}");
        let is_in = knock(&config, "pump-7", true).await.unwrap();
        assert_eq!(is_in.own, Answer::LetIn, "it is not asked");
    }

    #[tokio::test]
    async fn somebody_who_is_no_broker_is_odd() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = Mqtt {
            address: listener.local_addr().unwrap().to_string().parse().unwrap(),
            ..Mqtt::default()
        };
        let greets = async {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(b"SSH-2.0-x\r\n").await.unwrap();
                let _ = stream.read(&mut [0; 64]).await;
            }
        };
        let (knocked, ()) = tokio::join!(knock(&config, "pump-7", false), greets);
        assert!(matches!(knocked.unwrap().own, Answer::Odd(_)));
    }
}
