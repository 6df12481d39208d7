//! Those who use the cluster, and the controllers beside cloudcore.

use std::time::Duration;

use protocol::object::{Kind, ObjectKey};
use serde_json::json;

use super::objects::{self, PodSpec, key};
use super::world::World;

/// As `--node-monitor-grace-period`.
const GRACE: Duration = Duration::from_secs(50);
/// After so long without its Node a pod is collected.
const ORPHANED: Duration = Duration::from_secs(40);
const CONTROLLERS: Duration = Duration::from_secs(10);
const PODS: usize = 6;

impl World {
    /// Everything starts.
    pub(crate) fn begin(&mut self) {
        for n in 0..3 {
            self.make(Kind::Service, &format!("v{n}"), n);
        }
        for r in 0..self.replicas.len() {
            self.start_replica(r);
        }
        for e in 0..self.edges.len() {
            self.start_edge(e);
        }
        self.after(CONTROLLERS, Self::controllers);
        self.after(CONTROLLERS, Self::collect_statuses);
        self.after(Duration::from_secs(5), Self::user);
        self.begin_devices();
        self.plan_faults();
    }

    fn user(&mut self) {
        if self.calm {
            return;
        }
        // Often several things at once.
        for _ in 0..=self.dice.below(3) {
            self.use_cluster();
        }
        let pause = self.dice.next_of(self.menu.user);
        self.after(pause, Self::user);
    }

    fn use_cluster(&mut self) {
        let name = format!("p{}", self.dice.below(PODS));
        let pod = key(Kind::Pod, name.as_str());
        let content = self.dice.roll() % 1_000;
        match self.dice.below(20) {
            0..=5 => self.make_pod(&name),
            6..=7 => self.delete_gracefully(&pod),
            8 => self.force(&pod),
            9 => {
                self.force(&pod);
                self.make_pod(&name);
            }
            10 => self.edit(&pod, |pod| {
                pod["spec"]["containers"][0]["image"] = json!(format!("shop:{content}"));
            }),
            11 => self.edit(&pod, |pod| {
                pod["metadata"]["annotations"] = json!({"note": content.to_string()});
            }),
            12..=14 => {
                let n = self.dice.below(4);
                self.make(Kind::ConfigMap, &format!("c{n}"), content);
            }
            15 => {
                let n = self.dice.below(3);
                self.make(Kind::Secret, &format!("s{n}"), content);
            }
            16 => {
                let n = self.dice.below(4);
                self.force(&key(Kind::ConfigMap, format!("c{n}")));
            }
            17 => {
                let n = self.dice.below(3);
                self.make(Kind::Service, &format!("v{n}"), content);
            }
            18 => {
                let n = self.dice.below(3);
                self.force(&key(Kind::Service, format!("v{n}")));
            }
            _ if self.dice.chance(0.2) => {
                let e = self.dice.below(self.edges.len());
                let node = self.edges[e].node.clone();
                self.force(&ObjectKey::new(Kind::Node, "", node.as_ref()));
            }
            _ => {}
        }
    }

    fn make_pod(&mut self, name: &str) {
        let e = self.dice.below(self.edges.len());
        let mut some = |most: usize| -> Vec<u8> {
            let count = self.dice.below(most);
            let mut all: Vec<u8> = (0..count)
                .map(|_| u8::try_from(self.dice.below(4)).unwrap())
                .collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        let spec = PodSpec {
            config_maps: some(4),
            secrets: some(2),
            image: 1,
            policy: "Always",
        };
        let policy = ["Always", "Always", "Always", "OnFailure", "Never"][self.dice.below(5)];
        let pod = objects::pod(name, self.edges[e].node.as_ref(), &PodSpec { policy, ..spec });
        if let Ok(made) = self.api.create(Kind::Pod, pod) {
            self.say(|| format!("user: pod {name} made (uid {}) for edge {e}", made.uid));
            self.api_changed(&made);
        }
    }

    fn make(&mut self, kind: Kind, name: &str, content: u64) {
        let key = key(kind, name);
        let object = objects::plain(kind, name, content);
        let made = if self.api.get(&key).is_some() {
            let content = object["data"].clone();
            let spec = object["spec"].clone();
            self.api.change(&key, move |now| {
                if kind == Kind::Service {
                    now["spec"] = spec;
                } else {
                    now["data"] = content;
                }
            })
        } else {
            self.api.create(kind, object)
        };
        if let Ok(made) = made {
            self.say(|| format!("user: {key} is {content} at {}", made.revision));
            self.api_changed(&made);
        }
    }

    fn edit(&mut self, key: &ObjectKey, change: impl FnOnce(&mut serde_json::Value)) {
        if let Ok(changed) = self.api.change(key, change) {
            self.say(|| format!("user: {key} edited at {}", changed.revision));
            self.api_changed(&changed);
        }
    }

    fn delete_gracefully(&mut self, key: &ObjectKey) {
        self.edit(key, |pod| {
            if pod["metadata"]["deletionTimestamp"].is_null() {
                pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
                pod["metadata"]["deletionGracePeriodSeconds"] = json!(30);
            }
        });
    }

    /// Deletes at once what is there.
    fn force(&mut self, key: &ObjectKey) {
        // 404: it is gone already.
        let _ = self.remove(key);
    }

    /// Gone from the API server.
    pub(crate) fn remove(&mut self, key: &ObjectKey) -> Result<(), u16> {
        let uid = self
            .api
            .get(key)
            .map(|object| object.uid.clone())
            .ok_or(404_u16)?;
        self.api.delete(key, None)?;
        self.say(|| format!("API: {key} ({uid}) is gone at {}", self.api.now.head));
        self.laws.api_lost(&uid);
        self.wake_watches(key);
        Ok(())
    }

    pub(crate) fn lease_renewed(&mut self, node: &str) {
        let now = self.now;
        self.laws.renewed.insert(node.to_owned(), now);
    }

    /// The node controller and the pod garbage collector.
    fn controllers(&mut self) {
        for e in 0..self.edges.len() {
            let node = self.edges[e].node.clone();
            let key = ObjectKey::new(Kind::Node, "", node.as_ref());
            let Some(found) = self.api.get(&key) else {
                self.collect(node.as_ref());
                continue;
            };
            self.laws.nodeless.remove(node.as_ref());
            let ready = objects::condition(&found.value, "Ready") != Some("Unknown");
            let renewed = self.laws.renewed.get(node.as_ref()).copied().unwrap_or_default();
            if ready && self.now.saturating_sub(renewed) > GRACE {
                self.say(|| format!("node controller: {node} is cut off"));
                self.edit(&key, |node| objects::set_condition(node, "Ready", "Unknown"));
                let pods: Vec<ObjectKey> = self
                    .api
                    .pods_of(node.as_ref())
                    .map(|pod| pod.key.clone())
                    .collect();
                for pod in pods {
                    self.edit(&pod, |pod| objects::set_condition(pod, "Ready", "False"));
                }
            }
        }
        self.after(CONTROLLERS, Self::controllers);
    }

    fn collect(&mut self, node: &str) {
        let now = self.now;
        let since = *self.laws.nodeless.entry(node.to_owned()).or_insert(now);
        if now - since < ORPHANED {
            return;
        }
        let pods: Vec<ObjectKey> = self.api.pods_of(node).map(|pod| pod.key.clone()).collect();
        for pod in pods {
            self.force(&pod);
        }
    }
}
