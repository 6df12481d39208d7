//! The cloud half of a session: its Lease. Its streams have files of their own.

mod desired;
mod reported;

use std::time::Duration;

use cloudcore::cluster::fence::{self, LeaseWrite, Proof};
use cloudcore::cluster::{Fence, RENEW_EVERY};

use super::api::Code;
use super::cloud::{Replica, Session};
use super::link::Down;
use super::world::World;

/// As `cluster/lease.rs`.
const FENCE_TRIES: usize = 5;
impl World {
    pub(crate) fn greet(&mut self, r: usize, id: u64) {
        let replica = &mut self.replicas[r];
        replica.last_session += 1;
        let node = self.edges[self.links[&id].edge].node.clone();
        let name = format!("r{r}.{}/{node}/{}", replica.life, replica.last_session);
        self.take_lease(r, id, name, FENCE_TRIES);
    }

    fn take_lease(&mut self, r: usize, id: u64, name: String, tries: usize) {
        let node = self.edges[self.links[&id].edge].node.clone();
        let reads = node.clone();
        self.request(
            r,
            move |world| Ok(world.api.lease(reads.as_ref()).cloned()),
            move |world, read| match read {
                Ok(current) => {
                    let write = fence::take(current.as_ref(), &node, &name, world.wall());
                    world.write_take(r, id, (name, tries), write);
                }
                Err(_) => world.turn_away(id),
            },
        );
    }

    fn write_take(&mut self, r: usize, id: u64, (name, tries): (String, usize), write: LeaseWrite) {
        let Some(link) = self.links.get(&id) else { return };
        let node = self.edges[link.edge].node.clone();
        let (taken, by) = (node.clone(), name.clone());
        self.request(
            r,
            move |world| {
                let lease = world.write_lease(taken.as_ref(), write)?;
                Ok((lease, world.laws.took(&by)))
            },
            move |world, result| match result {
                Ok((lease, ordinal)) => {
                    let proof = Proof::new(&name, &lease);
                    world.replicas[r].leases.insert(node.clone(), proof);
                    if !world.links.get(&id).is_some_and(|link| link.cloud_open) {
                        return;
                    }
                    let session = Session {
                        fence: Some(Fence::new(node.clone(), name.clone(), lease)),
                        node,
                        name,
                        ordinal,
                        heard: world.now,
                        folding: 0,
                        desired: None,
                        reported: None,
                    };
                    world.enter(r, id, session);
                }
                Err(404 | 409) if tries > 1 && world.links.contains_key(&id) => {
                    world.take_lease(r, id, name, tries - 1);
                }
                Err(_) => world.turn_away(id),
            },
        );
    }

    fn turn_away(&mut self, id: u64) {
        let retry = Duration::from_secs(5);
        self.send_down(id, Down::Reject { retry });
        if let Some(link) = self.links.get_mut(&id) {
            link.cloud_open = false;
        }
    }

    fn write_lease(&mut self, node: &str, write: LeaseWrite) -> Result<serde_json::Value, Code> {
        let (lease, create) = match write {
            LeaseWrite::Create(lease) => (lease, true),
            LeaseWrite::Replace(lease) => (lease, false),
        };
        let lease = self.api.write_lease(node, lease, create)?;
        self.laws.lease_written(node, &lease, self.api.restores);
        self.lease_renewed(node);
        Ok(lease)
    }

    pub(crate) fn plan_renewal(&mut self, r: usize, id: u64) {
        let life = self.replicas[r].life;
        self.after(RENEW_EVERY, move |world| {
            if world.replicas[r].life == life {
                world.renew(r, id);
            }
        });
    }

    fn renew(&mut self, r: usize, id: u64) {
        let wall = self.wall();
        let Some(session) = self.session(r, id) else {
            return;
        };
        let Some(fence) = &session.fence else { return };
        let (write, node) = (fence.renewal(wall), session.node.clone());
        self.request(
            r,
            move |world| world.write_lease(node.as_ref(), write),
            move |world, result| match result {
                Err(404 | 409) => world.reread(r, id),
                other => world.renewed(r, id, other),
            },
        );
    }

    fn reread(&mut self, r: usize, id: u64) {
        let Some(session) = self.session(r, id) else {
            return;
        };
        let node = session.node.clone();
        let reads = node.clone();
        self.request(
            r,
            move |world| Ok(world.api.lease(reads.as_ref()).cloned()),
            move |world, read| {
                let wall = world.wall();
                let Ok(found) = read else {
                    return world.plan_renewal(r, id);
                };
                let Some(session) = world.session(r, id) else {
                    return;
                };
                let Some(fence) = &session.fence else { return };
                match fence.after_conflict(found.as_ref(), wall) {
                    Ok(write) => world.request(
                        r,
                        move |world| world.write_lease(node.as_ref(), write),
                        move |world, result| world.renewed(r, id, result),
                    ),
                    Err(by) => {
                        world.send_down(id, Down::Superseded);
                        world.end_session(r, id, &format!("superseded by {by}"));
                    }
                }
            },
        );
    }

    fn renewed(&mut self, r: usize, id: u64, result: Result<serde_json::Value, Code>) {
        let Replica { sessions, leases, .. } = &mut self.replicas[r];
        if let (Ok(lease), Some(session)) = (result, sessions.get_mut(&id))
            && let Some(fence) = &mut session.fence
        {
            if let Some(proof) = leases
                .get_mut(&session.node)
                .filter(|p| p.session() == session.name)
            {
                proof.renewed(&lease);
            }
            fence.wrote(lease);
        }
        self.plan_renewal(r, id);
    }
}
