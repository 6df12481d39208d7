//! How long a call may take, and how it ends.

use std::future::Future;
use std::time::Duration;

use tonic::{Response, Status};

use crate::runtime::RuntimeError;

/// How long an ordinary call may take: the kubelet's `runtimeRequestTimeout`.
pub(super) const DEADLINE: Duration = Duration::from_mins(2);
/// A sandbox waits for its network plugins, so it gets twice as long, as in the kubelet.
pub(super) const SANDBOX_DEADLINE: Duration = Duration::from_mins(4);
/// How long a list may take: it only reads the runtime's memory.
pub(super) const LIST_DEADLINE: Duration = Duration::from_secs(30);

/// One unary call with its deadline and its typed error.
pub(super) async fn within<T>(
    call: &'static str,
    after: Duration,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, RuntimeError> {
    match tokio::time::timeout(after, answer).await {
        Err(_) => Err(RuntimeError::Deadline { call, after }),
        Ok(Err(status)) => Err(RuntimeError::from_status(call, &status)),
        Ok(Ok(response)) => Ok(response.into_inner()),
    }
}

/// Makes "it is not there" a success, for the calls that remove.
pub(super) fn idempotent(result: Result<(), RuntimeError>) -> Result<(), RuntimeError> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}
