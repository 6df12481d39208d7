//! What a replica writes of a device: the real order of requests and the real documents.
//!
//! Follows `devices/writer.rs` and `devices/status.rs`.

use cloudcore::cluster::{KnownDevice, fence, status_entry};
use cloudcore::devices::attempt::{Ask, Attempt};
use cloudcore::devices::document::{Base, state_patch};
use cloudcore::devices::judge::{Found, Verdict, judge};
use cloudcore::devices::report::Report;
use protocol::devices::{Device, DeviceIdentity};
use protocol::object::{Digest, Kind, ObjectKey, Revision};
use serde_json::Value;

use std::sync::Arc;

use super::cloud::{key_of, ours, read_device, read_model};
use crate::api::{Code, Stored};
use crate::world::World;
use crate::writes::Under;

/// A write of a device under way.
struct Writing {
    under: Under,
    device: DeviceIdentity,
    attempt: Attempt,
}

impl World {
    pub(crate) fn write_device(&mut self, under: Under, device: DeviceIdentity) {
        if self.replicas[under.r].lists.contains_key(&Kind::Device) && self.is_first(&under, &device) {
            self.list_first(under, device);
        } else {
            self.write_in_turn(under, device);
        }
    }

    /// Waits until the device may be written again.
    pub(super) fn write_in_turn(&mut self, under: Under, device: DeviceIdentity) {
        let now = self.instant();
        let half = self.reported_half(under.r, under.id, under.stream);
        let past = half.and_then(|half| half.devices.get(&device.uid));
        let due = past.map_or(now, |past| past.pace.due(now));
        let pause = due.saturating_duration_since(now);
        self.after(pause, move |world| {
            if world.reported_half(under.r, under.id, under.stream).is_some() {
                world.admit_device(under, device);
            }
        });
    }

    fn admit_device(&mut self, under: Under, device: DeviceIdentity) {
        let replica = &self.replicas[under.r];
        let index = &replica.index;
        if !replica.lists.contains_key(&Kind::Device) {
            return self.finish(under, Err((503, false)));
        }
        let known = ours(index, &device, &under.node);
        if let Some((known, (spec, model))) =
            known.and_then(|known| Some((known.clone(), read_device(index, &known.key)?)))
        {
            let report = Report::read(&under.job.payload, &spec, model.as_ref()).unwrap();
            return self.begin_device(under, device, Attempt::new(known, report));
        }
        self.ask_whose(under, device, |world, under, device, now| {
            let index = &world.replicas[under.r].index;
            let spec: Device = serde_json::from_value(now.value.clone()).unwrap();
            let model = spec
                .model_name()
                .map(|name| ObjectKey::new(Kind::DeviceModel, &now.key.namespace, name));
            let read = model.as_ref().and_then(|model| read_model(index, model));
            let report = Report::read(&under.job.payload, &spec, read.as_ref()).unwrap();
            let known = KnownDevice {
                key: now.key.clone(),
                uid: now.uid.clone(),
                revision: Revision(now.revision),
                node: under.node.to_string(),
                model,
                state: spec.status.and_then(|status| status.state),
                status: KnownDevice::of(index, &now.key).and_then(|known| known.status),
                content: (Digest::of(b""), None),
                is_here: true,
            };
            world.begin_device(under, device, Attempt::new(known, report));
        });
    }

    /// As `DeviceWriter::ask_whose`.
    fn ask_whose(
        &mut self,
        under: Under,
        device: DeviceIdentity,
        then: impl FnOnce(&mut Self, Under, DeviceIdentity, Arc<Stored>) + 'static,
    ) {
        let key = key_of(&device);
        self.request(
            under.r,
            move |world| Ok(world.api.get(&key).cloned()),
            move |world, read| {
                let now = match read {
                    Ok(now) => now,
                    Err(code) => return world.finish(under, Err((code, false))),
                };
                let found = now.as_deref().map(|now| Found {
                    uid: &now.uid,
                    node: now.value["spec"]["nodeName"].as_str().unwrap_or_default(),
                });
                let verdict = judge(found, &device, &under.node);
                match (verdict, now) {
                    (Verdict::Fits, Some(now)) => {
                        if world.reported_half(under.r, under.id, under.stream).is_some() {
                            then(world, under, device, now);
                        }
                    }
                    _ => world.finish(under, Err((409, true))),
                }
            },
        );
    }

    fn begin_device(&mut self, under: Under, device: DeviceIdentity, mut attempt: Attempt) {
        let half = self.reported_half(under.r, under.id, under.stream);
        let past = half.and_then(|half| half.devices.get(&device.uid));
        let ask = attempt.first(past.and_then(|past| past.written.as_ref()));
        self.ask_device(
            Writing {
                under,
                device,
                attempt,
            },
            ask,
        );
    }

    fn ask_device(&mut self, writing: Writing, ask: Ask) {
        let key = writing.attempt.device.key.clone();
        let node = writing.under.node.to_string();
        let r = writing.under.r;
        match ask {
            Ask::Look { .. } => self.look(writing),
            Ask::Patch(patch) => self.request(
                r,
                move |world| world.patch_device_status(&key, &patch, Some(&node)),
                move |world, result| world.device_written(writing, result),
            ),
            Ask::Create(status) => self.request(
                r,
                move |world| world.create_status(&key, status, Some(&node)),
                move |world, result| world.device_written(writing, result),
            ),
        }
    }

    /// The status, then the Lease, then the Device.
    fn look(&mut self, writing: Writing) {
        let key = writing.attempt.device.key.clone();
        self.request(
            writing.under.r,
            move |world| Ok(world.api.status(&key).cloned()),
            move |world, read| match read {
                Ok(found) => world.look_at_lease(writing, found),
                Err(code) => world.finish(writing.under, Err((code, false))),
            },
        );
    }

    fn look_at_lease(&mut self, writing: Writing, found: Option<Arc<Stored>>) {
        let node = writing.under.node.clone();
        self.request(
            writing.under.r,
            move |world| Ok(world.api.lease(node.as_ref()).cloned()),
            move |world, read| {
                let Writing {
                    under,
                    device,
                    mut attempt,
                } = writing;
                match &read {
                    Err(code) => return world.finish(under, Err((*code, false))),
                    Ok(Some(lease)) if fence::holder(lease) == Some(under.session.as_str()) => {}
                    Ok(Some(_)) => return world.finish(under, Err((409, false))),
                    Ok(None) => return world.finish(under, Err((503, false))),
                }
                world.ask_whose(under, device, move |world, under, device, _| {
                    match attempt.after_look(found.as_ref().map(|found| found.json.as_slice())) {
                        Ok(ask) => world.ask_device(
                            Writing {
                                under,
                                device,
                                attempt,
                            },
                            ask,
                        ),
                        Err(_) => world.finish(under, Err((503, false))),
                    }
                });
            },
        );
    }

    fn device_written(&mut self, writing: Writing, result: Result<Arc<Stored>, Code>) {
        let Writing {
            under,
            device,
            mut attempt,
        } = writing;
        if self.reported_half(under.r, under.id, under.stream).is_none() {
            return;
        }
        match result {
            Ok(written) => {
                let now = self.instant();
                let base = Base::of(&written.json).unwrap();
                let mut entry = status_entry(&written.json).unwrap();
                entry.said = Some(attempt.said(now));
                let index = &mut self.replicas[under.r].index;
                index.put_status(&attempt.device.key, entry, false);
                if let Some(half) = self.reported_half(under.r, under.id, under.stream) {
                    let past = half.devices.entry(device.uid.clone()).or_default();
                    past.pace.take(now);
                    past.written = Some(attempt.written(base));
                }
                self.show_state(&under, &attempt);
                self.finish(under, Ok(()));
            }
            Err(404 | 409) => match attempt.after_conflict() {
                Some(ask) => self.ask_device(
                    Writing {
                        under,
                        device,
                        attempt,
                    },
                    ask,
                ),
                None => self.finish(under, Err((409, false))),
            },
            Err(code) => self.finish(under, Err((code, false))),
        }
    }

    fn show_state(&mut self, under: &Under, attempt: &Attempt) {
        if attempt.device.state.as_deref() == attempt.report.state() {
            return;
        }
        let (key, patch) = (
            attempt.device.key.clone(),
            state_patch(&attempt.device, attempt.report.state()),
        );
        self.request(
            under.r,
            move |world| {
                let written = world.api.patch_status(&key, &patch)?;
                world.api_changed(&written);
                Ok(())
            },
            |_, _| {},
        );
    }
}

/// At the API server.
impl World {
    pub(super) fn create_status(
        &mut self,
        key: &ObjectKey,
        status: Value,
        by: Option<&str>,
    ) -> Result<Arc<Stored>, Code> {
        let made = self.api.create_status(key, status)?;
        self.status_changed(None, &made, by);
        Ok(made)
    }

    pub(super) fn patch_device_status(
        &mut self,
        key: &ObjectKey,
        patch: &Value,
        by: Option<&str>,
    ) -> Result<Arc<Stored>, Code> {
        let before = self.api.status(key).cloned().ok_or(404_u16)?;
        let written = self.api.patch_device_status(key, patch)?;
        if written.revision != before.revision {
            self.status_changed(Some(&before), &written, by);
        }
        Ok(written)
    }

    fn status_changed(&mut self, before: Option<&Stored>, after: &Stored, by: Option<&str>) {
        self.say(|| {
            let status = &after.value["status"];
            format!(
                "API: status of {} by {by:?} at {}: {status}",
                after.key, after.revision
            )
        });
        self.check_status(before, after, by);
        self.wake_statuses();
    }
}
