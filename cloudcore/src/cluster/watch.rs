//! One watch: a list, then changes for ever, as raw bytes.
//!
//! What it is: the loop that lists (streaming where the server has it, paged where not), follows,
//! resumes after a disconnect, relists after 410 and backs off with jitter. What it is not: a
//! cache; a [`Sink`] decides what is kept.
//!
//! ```text
//! Listing --end of list--> Following --410, 403--> Listing
//!    `--refused: paged--^      `--cut--> Following, from the last revision
//! ```
//!
//! **Invariant:** every list is consistent (resourceVersion unset), so a sink never sees an older
//! world after a newer one except by [`Sink::listed`] with a lower revision, which is a restore.

mod lines;

use std::time::Duration;

use bytes::Bytes;
use protocol::object::Revision;
use rand::RngExt;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::api::{Actor, Api, ApiError, Call, Status};
use super::thin::{Thin, ThinMeta};
use lines::Lines;

/// How long the server keeps one watch open; it closes it by itself afterwards.
const WATCH_SECONDS: u64 = 300;
/// Silence past this means that the connection is dead: the server should have closed the watch.
const SILENCE_LIMIT: Duration = Duration::from_secs(WATCH_SECONDS + 20);
/// Objects a page of a plain list.
const PAGE: u32 = 500;
const BACK_OFF_FIRST: Duration = Duration::from_millis(250);
const BACK_OFF_MOST: Duration = Duration::from_secs(30);
/// The first pause after a refusal: most often the authorizer has not seen a binding of a moment ago yet, and
/// a pod waits for the answer.
const REFUSED_FIRST: Duration = Duration::from_millis(8);

/// What is watched.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// Path of the collection, for example `/api/v1/pods`.
    pub(super) path: String,
    /// Selector in query form, for example `fieldSelector=spec.nodeName%21%3D`; may be empty.
    pub(super) selector: String,
    /// Whether the objects' metadata is enough.
    pub(super) only_metadata: bool,
}

/// Who is told. Calls come in the order of the server's history.
pub(super) trait Sink: Send {
    /// A list begins: what is not put before [`Sink::listed`] is gone.
    fn listing(&mut self);
    /// An object is so now.
    fn put(&mut self, meta: &ThinMeta<'_>, object: &[u8]);
    /// An object was deleted; `meta` carries the revision of the deletion.
    fn gone(&mut self, meta: &ThinMeta<'_>, object: &[u8]);
    /// The list is complete at this revision.
    fn listed(&mut self, revision: Revision);
    /// Everything up to this revision has been told.
    fn at(&mut self, revision: Revision);
    /// The watch failed; it is tried again after a pause. Returning false ends it.
    fn failed(&mut self, error: &ApiError) -> bool;
}

/// How one round of a watch ended.
enum End {
    /// The server closed it, or the connection broke: go on from the last revision.
    Cut,
    /// The revision is too old: list again.
    Expired,
    /// The server knows no streaming lists.
    NoStreaming,
    /// Somebody asked for a fresh list.
    Relist,
}

/// Watches until the sink says enough. Never returns otherwise; drop it to stop it.
pub(super) async fn follow(
    api: &Api,
    actor: Actor<'_>,
    source: &Source,
    sink: &mut impl Sink,
    relist: &Notify,
) {
    let mut watcher = Watcher {
        api,
        actor,
        source,
        from: None,
        streaming: true,
        pause: BACK_OFF_FIRST,
        refused: REFUSED_FIRST,
    };
    loop {
        let started = Instant::now();
        match watcher.round(sink, relist).await {
            Ok(End::Cut) => {}
            Ok(End::Expired | End::Relist) => watcher.from = None,
            Ok(End::NoStreaming) => {
                watcher.streaming = false;
                continue;
            }
            Err(error) => {
                // 504: the revision is from a future that a restored etcd does not know. After a refusal the
                // sink hears the state again: a watch that is only resumed tells nothing of what did not change.
                if matches!(error.code(), 403 | 410 | 504) {
                    watcher.from = None;
                }
                if !sink.failed(&error) {
                    return;
                }
                if error.is_forbidden() {
                    watcher.rest_refused().await;
                    continue;
                }
            }
        }
        watcher.rest(started.elapsed()).await;
    }
}

struct Watcher<'a> {
    api: &'a Api,
    actor: Actor<'a>,
    source: &'a Source,
    from: Option<Revision>,
    streaming: bool,
    pause: Duration,
    refused: Duration,
}

impl Watcher<'_> {
    async fn round(&mut self, sink: &mut impl Sink, relist: &Notify) -> Result<End, ApiError> {
        if self.from.is_none() && !self.streaming {
            let revision = list(self.api, self.actor, self.source, sink).await?;
            self.from = Some(revision);
        }
        let path = self.watch_path();
        let call = Call::get(path);
        let call = if self.source.only_metadata {
            call.only_metadata()
        } else {
            call
        };
        let body = match self.api.watch(self.actor, call).await {
            Ok(body) => body,
            Err(error) if self.from.is_none() && refuses_streaming(error.code()) => {
                return Ok(End::NoStreaming);
            }
            Err(error) => return Err(error),
        };
        self.read(Lines::new(body), sink, relist).await
    }

    fn watch_path(&self) -> String {
        let Source { path, selector, .. } = self.source;
        let start = match self.from {
            Some(Revision(revision)) => format!("resourceVersion={revision}"),
            None => "sendInitialEvents=true&resourceVersionMatch=NotOlderThan".to_owned(),
        };
        format!(
            "{path}?watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&{start}&{selector}"
        )
    }

    async fn read(
        &mut self,
        mut lines: Lines,
        sink: &mut impl Sink,
        relist: &Notify,
    ) -> Result<End, ApiError> {
        let mut listing = self.from.is_none();
        if listing {
            sink.listing();
        }
        loop {
            let line = tokio::select! {
                line = timeout(SILENCE_LIMIT, lines.next()) => line,
                // A list under way is finished first: requests that come faster than it would starve it.
                () = relist.notified(), if !listing => return Ok(End::Relist),
            };
            let Ok(Some(line)) = line else { return Ok(End::Cut) };
            match self.take(&line, listing, sink)? {
                Step::Went => {}
                Step::Listed => listing = false,
                Step::End(end) => return Ok(end),
            }
        }
    }

    fn take(&mut self, line: &[u8], listing: bool, sink: &mut impl Sink) -> Result<Step, ApiError> {
        let event: RawEvent<'_> = self.parse(line)?;
        let object = event.object.get().as_bytes();
        if event.kind == "ERROR" {
            return self.error(object, listing);
        }
        let Thin { metadata } = self.parse(object)?;
        match event.kind {
            "ADDED" | "MODIFIED" => sink.put(&metadata, object),
            "DELETED" => sink.gone(&metadata, object),
            "BOOKMARK" if listing && metadata.ends_list() => {
                sink.listed(metadata.revision());
                self.reached(metadata.revision());
                return Ok(Step::Listed);
            }
            _ => {}
        }
        if !listing {
            sink.at(metadata.revision());
            self.reached(metadata.revision());
        }
        Ok(Step::Went)
    }

    fn error(&self, object: &[u8], listing: bool) -> Result<Step, ApiError> {
        let status: Status = self.parse(object)?;
        match status.code {
            410 => Ok(Step::End(End::Expired)),
            code if listing && refuses_within(code) => Ok(Step::End(End::NoStreaming)),
            code => Err(ApiError::Refused {
                action: format!("watch {}", self.source.path),
                code,
                reason: status.reason,
                message: status.message,
                retry_after: None,
            }),
        }
    }

    /// What was told need not be asked for again; progress also ends the back-off.
    fn reached(&mut self, revision: Revision) {
        self.from = Some(revision);
        self.pause = BACK_OFF_FIRST;
        self.refused = REFUSED_FIRST;
    }

    fn parse<'b, T: Deserialize<'b>>(&self, text: &'b [u8]) -> Result<T, ApiError> {
        let action = || format!("watch {}", self.source.path);
        serde_json::from_slice(text).map_err(|source| ApiError::Garbled {
            action: action(),
            source,
        })
    }

    /// Waits before the next round, unless the last one was long enough to be a normal end.
    async fn rest(&mut self, lasted: Duration) {
        if lasted > BACK_OFF_MOST {
            self.pause = BACK_OFF_FIRST;
        }
        sleep(full_jitter(self.pause)).await;
        self.pause = (self.pause * 2).min(BACK_OFF_MOST);
    }

    /// Waits after a refusal.
    async fn rest_refused(&mut self) {
        sleep(full_jitter(self.refused)).await;
        self.refused = (self.refused * 2).min(BACK_OFF_MOST);
    }
}

enum Step {
    Went,
    Listed,
    End(End),
}

#[derive(Deserialize)]
struct RawEvent<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// A server without streaming lists says Invalid, or (older ones) Bad Request.
const fn refuses_streaming(code: u16) -> bool {
    matches!(code, 400 | 422)
}

/// One whose etcd is too old for them has accepted the watch by then, and calls it an internal error. A list
/// is right in any case.
const fn refuses_within(code: u16) -> bool {
    refuses_streaming(code) || code == 500
}

/// A random part of the given pause, so that replicas and watches spread out.
pub(super) fn full_jitter(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random::<f64>())
}

/// Lists page by page, consistently, and tells the sink.
pub(super) async fn list(
    api: &Api,
    actor: Actor<'_>,
    source: &Source,
    sink: &mut impl Sink,
) -> Result<Revision, ApiError> {
    let mut next = String::new();
    sink.listing();
    loop {
        let page = format!("limit={PAGE}&continue={next}&");
        let told = tell_page((api, actor), source, &page, sink).await?;
        if told.next.is_empty() {
            return Ok(ended(&told, sink));
        }
        next = told.next;
    }
}

/// Lists in one answer, consistently, and tells the sink: for what is few. A list with a limit passes by the API
/// server's cache, and by its index of pods by node, so that all pods of the cluster would be read for one node's.
pub(super) async fn list_whole(
    api: &Api,
    actor: Actor<'_>,
    source: &Source,
    sink: &mut impl Sink,
) -> Result<Revision, ApiError> {
    sink.listing();
    let told = tell_page((api, actor), source, "", sink).await?;
    Ok(ended(&told, sink))
}

fn ended(last: &PageMeta, sink: &mut impl Sink) -> Revision {
    let revision = Revision(last.resource_version.parse().unwrap_or(0));
    sink.listed(revision);
    revision
}

async fn tell_page(
    (api, actor): (&Api, Actor<'_>),
    source: &Source,
    page: &str,
    sink: &mut impl Sink,
) -> Result<PageMeta, ApiError> {
    let Source { path, selector, .. } = source;
    let call = Call::get(format!("{path}?{page}{selector}"));
    let call = if source.only_metadata {
        call.list_of_metadata()
    } else {
        call
    };
    let text = api.call(actor, call).await?;
    let page: Page<'_> = parse_page(path, &text)?;
    for item in &page.items {
        put_item(source, item, sink)?;
    }
    Ok(page.metadata)
}

fn parse_page<'a>(path: &str, text: &'a Bytes) -> Result<Page<'a>, ApiError> {
    serde_json::from_slice(text).map_err(|source| ApiError::Garbled {
        action: format!("list {path}"),
        source,
    })
}

fn put_item(source: &Source, item: &RawValue, sink: &mut impl Sink) -> Result<(), ApiError> {
    let parsed: Result<Thin<'_>, _> = serde_json::from_str(item.get());
    let thin = parsed.map_err(|error| ApiError::Garbled {
        action: format!("list {}", source.path),
        source: error,
    })?;
    sink.put(&thin.metadata, item.get().as_bytes());
    Ok(())
}

#[derive(Deserialize)]
struct Page<'a> {
    metadata: PageMeta,
    // An empty list is written as null by some servers.
    #[serde(borrow, default, deserialize_with = "items_or_null")]
    items: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMeta {
    #[serde(default)]
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: String,
}

fn items_or_null<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<&'de RawValue>, D::Error> {
    Ok(Option::<Vec<&'de RawValue>>::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests;
