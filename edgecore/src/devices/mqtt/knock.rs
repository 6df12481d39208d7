//! How the broker receives the node, and a stranger; for those who look for what is wrong.
//!
//! It speaks MQTT 3.1.1 and asks for no session, under a client id of its own: the running node's session
//! is not touched, and the broker keeps nothing of it.

use std::time::Duration;

use bytes::BytesMut;
use futures::future::OptionFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::Mqtt;
use super::credentials::Access;
use super::version::{Session, Version};
use super::wire::dial;

/// How long the broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

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
    /// Somebody without a name; not known where the node itself has none and may show a certificate.
    pub stranger: Option<Answer>,
    /// Whether the node has a name and a password.
    pub has_login: bool,
}

/// Knocks as the node and, beside that, as nobody. An error says why the credentials cannot be used.
pub async fn knock(config: &Mqtt, node: &str) -> Result<Knock, String> {
    let mut access = Access::read(config, node).map_err(|error| error.to_string())?;
    access.client_id = format!("edgecore-{node}-doctor");
    let has_login = access.login.is_some();
    let stranger = has_login.then(|| {
        let mut nobody = access.clone();
        nobody.client_id.push_str("-nobody");
        nobody.login = None;
        async move { received(&nobody).await }
    });
    let (own, stranger) = tokio::join!(received(&access), OptionFuture::from(stranger));
    // Without a name and without encryption the node is nobody itself.
    let is_nobody = !has_login && access.tls().is_none();
    let stranger = stranger.or_else(|| is_nobody.then(|| own.clone()));
    Ok(Knock {
        own,
        stranger,
        has_login,
    })
}

async fn received(access: &Access) -> Answer {
    let late = || Answer::Unreached(format!("no answer within {} s", PATIENCE.as_secs()));
    timeout(PATIENCE, ask(access)).await.unwrap_or_else(|_| late())
}

async fn ask(access: &Access) -> Answer {
    let mut stream = match dial(access).await {
        Ok(stream) => stream,
        Err(error) => return Answer::Unreached(error.to_string()),
    };
    let mut hello = BytesMut::new();
    if let Err(lost) = Version::Three.connect(Session::Clean, access, &mut hello) {
        return Answer::Odd(lost.to_string());
    }
    let mut answer = [0; 4];
    let asked = async {
        stream.write_all(&hello).await?;
        stream.flush().await?;
        stream.read_exact(&mut answer).await
    };
    if let Err(error) = asked.await {
        return Answer::Odd(format!("it hung up: {error}"));
    }
    let read = read(answer);
    let mut leave = BytesMut::new();
    if read == Answer::LetIn && Version::Three.leave(&mut leave).is_ok() {
        // Without a goodbye it would still be over, only noted as a loss.
        let _ = stream.write_all(&leave).await;
        let _ = stream.flush().await;
    }
    read
}

/// The broker's answer to a connection of MQTT 3.1.1 (CONNACK, section 3.2 of the standard).
fn read(answer: [u8; 4]) -> Answer {
    match answer {
        [0x20, 2, _, 0] => Answer::LetIn,
        [0x20, 2, _, 2 | 4 | 5] => Answer::Refused,
        [0x20, 2, _, 1] => Answer::Odd("it does not speak MQTT 3.1.1".to_owned()),
        [0x20, 2, _, 3] => Answer::Odd("it says that it is not available".to_owned()),
        _ => Answer::Odd("it answers in something else than MQTT 3.1.1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn an_answer_is_told_by_its_code() {
        assert_eq!(read([0x20, 2, 0, 0]), Answer::LetIn);
        assert_eq!(read([0x20, 2, 0, 4]), Answer::Refused);
        assert_eq!(read([0x20, 2, 0, 5]), Answer::Refused);
        assert!(matches!(read([0x20, 2, 0, 1]), Answer::Odd(_)));
        assert!(matches!(read(*b"SSH-"), Answer::Odd(_)));
    }

    #[tokio::test]
    async fn a_broker_that_is_not_there_is_told_from_one_that_hangs_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = Mqtt {
            address: listener.local_addr().unwrap().to_string().parse().unwrap(),
            ..Mqtt::default()
        };
        let hang_up = async { drop(listener.accept().await.unwrap()) };
        let (knocked, ()) = tokio::join!(knock(&config, "pump-7"), hang_up);
        let knocked = knocked.unwrap();
        assert!(matches!(knocked.own, Answer::Odd(_)), "{knocked:?}");
        assert_eq!((knocked.stranger, knocked.has_login), (Some(knocked.own), false));
        drop(listener);
        let gone = knock(&config, "pump-7").await.unwrap();
        assert!(matches!(gone.own, Answer::Unreached(_)), "{gone:?}");
    }
}
