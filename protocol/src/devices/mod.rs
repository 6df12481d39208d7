//! Devices as both ends know them: the custom resources of `devices.kubeedge.io/v1beta1`, and what
//! a node reports of one.
//!
//! What it is: the types that existing manifests and mappers were written for, field by field, with
//! what Tombolo adds marked as such. What it is not: their meaning. What a value does to a twin is
//! decided on the node (`edgecore/src/devices`), what may be written is checked in
//! `cloudcore/src/devices`.
//!
//! **Invariant:** reading and writing keeps every known field; unknown ones are ignored, so that
//! manifests for a newer version are served as far as this one knows them.

pub mod check;
mod device;
mod identity;
mod model;
mod push;
mod status;

pub use device::{
    Desired, Device, DeviceMethod, DeviceProperty, DeviceSpec, LegacyStatus, ModelReference, ProtocolConfig,
    StateReport, VisitorConfig,
};
pub use identity::{DeviceIdentity, DeviceName, NotADeviceName};
pub use model::{AccessMode, DeviceModel, DeviceModelSpec, ModelProperty, PropertyType};
pub use push::{
    DbMethod, Influxdb2, Influxdb2Client, Influxdb2Data, Mysql, MysqlClient, PushHttp, PushMethod, PushMqtt,
    PushOtel, Redis, RedisClient, TdEngine, TdEngineClient,
};
pub use status::{DeviceState, DeviceStatus, DeviceStatusStatus, Twin, TwinValue};

/// The API group of Device, DeviceModel and DeviceStatus.
pub const GROUP: &str = "devices.kubeedge.io";
/// The version that is served.
pub const VERSION: &str = "v1beta1";
/// Both, as they stand in `apiVersion`.
pub const API_VERSION: &str = "devices.kubeedge.io/v1beta1";

/// Settings whose keys are the driver's or the mapper's own.
pub type FreeForm = serde_json::Map<String, serde_json::Value>;
