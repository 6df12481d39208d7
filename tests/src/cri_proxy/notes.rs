//! What a proxy notes, and how it reads it.

use std::sync::Arc;

use k8s_cri::v1::{
    CreateContainerRequest, CreateContainerResponse, ExecSyncRequest, ExecSyncResponse, PullImageRequest,
    PullImageResponse, RemoveContainerRequest, RemovePodSandboxRequest, RunPodSandboxRequest,
    RunPodSandboxResponse, StartContainerRequest, StopContainerRequest, StopPodSandboxRequest,
    UpdateContainerResourcesRequest,
};
use parking_lot::Mutex;
use prost::Message;
use serde::Serialize;
use serde_json::Value;

/// The length of a message's head: a flag and four bytes of length.
const HEAD: usize = 5;

/// A call that ended.
#[derive(Clone, Debug, Serialize)]
pub struct Call {
    /// The method's name, such as `RunPodSandbox`.
    pub method: &'static str,
    /// The request.
    pub request: Value,
    /// The answer; null for a refusal.
    pub answer: Value,
    /// The gRPC status; 0 is success.
    pub status: String,
}

/// The calls through one proxy.
#[derive(Debug, Default)]
pub struct Recorder {
    calls: Mutex<Vec<Call>>,
}

impl Recorder {
    /// Everything noted so far, in the order in which calls ended.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().clone()
    }

    /// The calls that the filter wants.
    pub fn matching(&self, wanted: impl Fn(&Call) -> bool) -> Vec<Call> {
        self.calls
            .lock()
            .iter()
            .filter(|call| wanted(call))
            .cloned()
            .collect()
    }

    pub(super) fn begin(self: &Arc<Self>, method: &'static Method, body: &[u8]) -> Pending {
        Pending {
            recorder: self.clone(),
            method,
            request: (method.request)(body),
        }
    }
}

/// A call that is under way.
pub(super) struct Pending {
    recorder: Arc<Recorder>,
    method: &'static Method,
    request: Value,
}

impl Pending {
    pub(super) fn end(self, status: &str, answer: &[u8]) {
        let call = Call {
            method: self.method.name,
            request: self.request,
            answer: (self.method.answer)(answer),
            status: status.to_owned(),
        };
        self.recorder.calls.lock().push(call);
    }
}

/// A method that is noted, and how its messages are read.
pub(super) struct Method {
    name: &'static str,
    request: fn(&[u8]) -> Value,
    answer: fn(&[u8]) -> Value,
}

impl Method {
    /// The method of a call's path, when it is one to be noted.
    pub(super) fn of(path: &str) -> Option<&'static Self> {
        let name = path.rsplit('/').next()?;
        METHODS.iter().find(|method| method.name == name)
    }
}

const METHODS: [Method; 10] = [
    Method {
        name: "RunPodSandbox",
        request: read::<RunPodSandboxRequest>,
        answer: read::<RunPodSandboxResponse>,
    },
    Method {
        name: "CreateContainer",
        request: read::<CreateContainerRequest>,
        answer: read::<CreateContainerResponse>,
    },
    Method {
        name: "StartContainer",
        request: read::<StartContainerRequest>,
        answer: nothing,
    },
    Method {
        name: "StopContainer",
        request: read::<StopContainerRequest>,
        answer: nothing,
    },
    Method {
        name: "StopPodSandbox",
        request: read::<StopPodSandboxRequest>,
        answer: nothing,
    },
    Method {
        name: "RemoveContainer",
        request: read::<RemoveContainerRequest>,
        answer: nothing,
    },
    Method {
        name: "RemovePodSandbox",
        request: read::<RemovePodSandboxRequest>,
        answer: nothing,
    },
    Method {
        name: "PullImage",
        request: read::<PullImageRequest>,
        answer: read::<PullImageResponse>,
    },
    Method {
        name: "ExecSync",
        request: read::<ExecSyncRequest>,
        answer: read::<ExecSyncResponse>,
    },
    Method {
        name: "UpdateContainerResources",
        request: read::<UpdateContainerResourcesRequest>,
        answer: nothing,
    },
];

/// The message in a gRPC body, with the fields that our definitions do not know counted.
fn read<M: Message + Default + Serialize>(body: &[u8]) -> Value {
    let Some(message) = body.get(HEAD..) else {
        return Value::Null;
    };
    let Ok(decoded) = M::decode(message) else {
        return Value::Null;
    };
    let mut value = serde_json::to_value(&decoded).unwrap_or_default();
    let unknown = message.len().saturating_sub(decoded.encoded_len());
    if unknown > 0
        && let Some(fields) = value.as_object_mut()
    {
        fields.insert("unknown_bytes".into(), unknown.into());
    }
    value
}

const fn nothing(_: &[u8]) -> Value {
    Value::Null
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(message: &impl Message) -> Vec<u8> {
        let mut body = vec![0; HEAD];
        message.encode(&mut body).unwrap();
        body
    }

    #[test]
    fn a_call_is_noted_with_its_request_answer_and_status() {
        let recorder = Arc::new(Recorder::default());
        let method = Method::of("/runtime.v1.RuntimeService/CreateContainer").unwrap();
        let request = CreateContainerRequest {
            pod_sandbox_id: "s".into(),
            ..Default::default()
        };
        let answer = CreateContainerResponse {
            container_id: "c".into(),
        };
        recorder
            .begin(method, &framed(&request))
            .end("0", &framed(&answer));
        let call = recorder.calls().remove(0);
        assert_eq!((call.method, call.status.as_str()), ("CreateContainer", "0"));
        assert_eq!(call.request["pod_sandbox_id"], "s");
        assert_eq!(call.answer["container_id"], "c");
    }

    #[test]
    fn fields_that_our_definitions_do_not_know_are_counted() {
        let mut body = framed(&StartContainerRequest {
            container_id: "c".into(),
        });
        // Field 99, a varint of 1.
        body.extend([0x98, 0x06, 0x01]);
        assert_eq!(read::<StartContainerRequest>(&body)["unknown_bytes"], 3);
    }

    #[test]
    fn a_refusal_and_garbage_have_no_message() {
        assert_eq!(read::<StartContainerRequest>(&[]), Value::Null);
        assert_eq!(read::<StartContainerRequest>(&[0, 0, 0, 0, 1, 0xff]), Value::Null);
    }

    #[test]
    fn what_only_looks_is_not_noted() {
        assert!(Method::of("/runtime.v1.RuntimeService/ListContainers").is_none());
    }
}
