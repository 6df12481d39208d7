//! Power that ends between two steps, for tests of what a program leaves that was killed.

use std::cell::Cell;

thread_local! {
    static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Lets so many steps be taken; the next one panics in its place, and with it all that would have come after.
pub(in crate::cli) fn cut_after(steps: usize) {
    LEFT.set(Some(steps));
}

/// Lets every step be taken again.
pub(in crate::cli) fn restore() {
    LEFT.set(None);
}

/// One step: a file that is written, or an order to the service manager.
pub(in crate::cli) fn step() {
    let Some(left) = LEFT.get() else { return };
    let Some(left) = left.checked_sub(1) else {
        panic!("the power is cut here")
    };
    LEFT.set(Some(left));
}
