//! What is said to a person: by programs that refuse, and by pods that wait.

use anyhow::{Context, Result, ensure};
use tests::{
    Testbed, pods,
    wait::{Look, until},
};

use crate::world::PATIENCE;

/// Holds that every one of the words is in the text, in whatever case.
pub(crate) fn mentions(text: &str, words: &[&str]) -> Result<()> {
    let lower = text.to_lowercase();
    for word in words {
        ensure!(lower.contains(&word.to_lowercase()), "{word:?} is not in: {text}");
    }
    Ok(())
}

/// What the first container of a pod waits for, as `reason: message`.
async fn waits(testbed: &Testbed, name: &str) -> Result<String> {
    let pods = pods::list(&testbed.client(), "default", &format!("app={name}")).await?;
    let pod = pods.first().context("no such pod")?;
    let state = pods::containers(pod)
        .first()
        .and_then(|container| container.state.clone()?.waiting);
    let waiting = state.with_context(|| pods::table(&pods))?;
    Ok(format!(
        "{}: {}",
        waiting.reason.unwrap_or_default(),
        waiting.message.unwrap_or_default()
    ))
}

/// Waits for a warning about that object with that reason and message.
pub(crate) async fn until_event(testbed: &Testbed, name: &str, reason: &str, message: &str) -> Result<()> {
    until(&format!("the event {reason} of {name}"), PATIENCE, || async {
        let only = format!("involvedObject.name={name},reason={reason},type=Warning");
        let format = r#"jsonpath={range .items[*]}{.message}{"\n"}{end}"#;
        let words = ["get", "events", "--field-selector", &only, "-o", format];
        let events = testbed.kubectl(words).await?;
        let is_told = events.lines().any(|line| line.trim_end() == message.trim_end());
        Ok(Look::when(is_told, || events.clone()))
    })
    .await
}

/// Waits until the first container of a pod waits and says so with these words.
pub(crate) async fn until_waits(testbed: &Testbed, name: &str, words: &[&str]) -> Result<()> {
    until(&format!("{name} to wait with {words:?}"), PATIENCE, || async {
        let said = waits(testbed, name).await?;
        Ok(Look::when(mentions(&said, words).is_ok(), || said.clone()))
    })
    .await
}
