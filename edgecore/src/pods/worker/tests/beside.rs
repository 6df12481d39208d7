//! What is told beside a start, and what is not.

use std::pin::pin;
use std::time::Duration;

use tokio::time::sleep;

use super::super::telling::{SOON, beside};

async fn start_that_takes(span: Duration) -> bool {
    sleep(span).await;
    true
}

#[tokio::test(start_paused = true)]
async fn a_start_that_is_quick_leaves_nothing_to_tell() {
    let start = pin!(start_that_takes(SOON / 2));
    let told = async { Some("Pending") };
    assert_eq!(beside(told, start, (SOON, || false)).await, (true, None));
}

#[tokio::test(start_paused = true)]
async fn a_start_that_takes_long_is_told_while_it_goes_on() {
    let start = pin!(start_that_takes(SOON * 100));
    let began = tokio::time::Instant::now();
    let told = async { Some(began.elapsed()) };
    let (noted, told) = beside(told, start, (SOON, || false)).await;
    assert!(noted && told.is_some_and(|at| at < SOON * 2), "{told:?}");
}
