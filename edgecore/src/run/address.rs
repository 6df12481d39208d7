//! The device's last address, on flash: pods that start without a network are told of it.
//!
//! A change is written when it is seen. Where the address changes again and again, as on a bad link, it is written
//! once in a while, the newest then.

use std::future::pending;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::sleep;
use tracing::warn;

use crate::node::host_ip::HostIp;
use crate::store::{Batch, Db, Table};

/// The row of [`Table::Meta`] with the address.
const ROW: &str = "device-address";
/// The least time between two writes.
const PACE: Duration = Duration::from_mins(5);

/// What stands on flash.
pub(super) struct LastAddress {
    db: Db,
    kept: Option<IpAddr>,
}

impl LastAddress {
    /// Reads it.
    pub(super) async fn load(db: Db) -> Self {
        let row = db.get(Table::Meta, ROW).await.ok().flatten();
        let kept = row.and_then(|row| std::str::from_utf8(&row).ok()?.parse().ok());
        Self { db, kept }
    }

    /// The one of an earlier run, or that was written last.
    pub(super) const fn kept(&self) -> Option<IpAddr> {
        self.kept
    }

    /// Writes the address whenever it is another one; for ever.
    pub(super) async fn follow(&mut self, host_ip: &HostIp) {
        let mut changes = host_ip.changes();
        loop {
            let address = *changes.borrow_and_update();
            if self.keep(address).await {
                sleep(PACE).await;
            } else if changes.changed().await.is_err() {
                pending::<()>().await;
            }
        }
    }

    /// Writes this address if another one, or none, stands there; whether that took a write.
    pub(super) async fn keep(&mut self, address: Option<IpAddr>) -> bool {
        let Some(address) = address.filter(|address| self.kept != Some(*address)) else {
            return false;
        };
        let batch = Batch::new().put(Table::Meta, ROW, address.to_string().into_bytes());
        match self.db.commit(batch).await {
            Ok(()) => self.kept = Some(address),
            Err(error) => warn!(%error, "the device's address was not kept"),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    fn address(last: u8) -> IpAddr {
        [198, 18, 0, last].into()
    }

    async fn on_flash(db: &Db) -> Option<IpAddr> {
        LastAddress::load(db.clone()).await.kept()
    }

    /// What is written within that time.
    async fn after(last: &mut LastAddress, seen: &HostIp, time: Duration) -> Option<IpAddr> {
        let _ = timeout(time, last.follow(seen)).await;
        on_flash(&last.db).await
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_changes_is_kept_for_a_boot_without_a_network() {
        let (seen, second) = (HostIp::default(), Duration::from_secs(1));
        let mut last = LastAddress::load(Db::in_memory()).await;
        assert_eq!(after(&mut last, &seen, second).await, None);
        for nth in [7, 8] {
            seen.learn(Some(address(nth)));
            assert_eq!(after(&mut last, &seen, second).await, Some(address(nth)));
        }
        seen.learn(None);
        assert_eq!(after(&mut last, &seen, second).await, Some(address(8)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_changes_every_second_is_written_once_in_five_minutes() {
        let (db, seen) = (Db::in_memory(), HostIp::default());
        let mut last = LastAddress::load(db.clone()).await;
        let flapping = async {
            let mut writes = Vec::new();
            for second in 0..890_u16 {
                seen.learn(Some(address(u8::try_from(second % 200).unwrap())));
                sleep(Duration::from_secs(1)).await;
                let kept = on_flash(&db).await;
                if writes.last() != Some(&kept) {
                    writes.push(kept);
                }
            }
            writes
        };
        let writes = tokio::select! {
            () = last.follow(&seen) => unreachable!(),
            writes = flapping => writes,
        };
        assert_eq!(writes.len(), 3, "{writes:?}");
        // The newest, once it is quiet.
        seen.learn(Some(address(250)));
        let told = after(&mut last, &seen, PACE + PACE).await;
        assert_eq!(told, Some(address(250)));
    }
}
