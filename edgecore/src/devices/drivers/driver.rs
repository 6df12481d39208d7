//! What a driver is: it reads the settings of devices, and serves all devices behind one endpoint.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use futures::future::BoxFuture;
use protocol::devices::DeviceName;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::written::Written;
use crate::devices::{Served, ServedProperty, Twins};

/// A way to reach devices, in this process.
///
/// The settings of a device are read once per change of its manifest; devices behind one endpoint (a
/// broker, a bus, an address) are served by one task, since they share its connection.
pub(crate) trait Driver: Send + Sync + 'static {
    /// What devices share.
    type Endpoint: Clone + Ord + Debug + Send + Sync + 'static;
    /// What one device asks for.
    type Device: Send + Sync + 'static;

    /// The `protocolName` of its devices.
    fn protocol(&self) -> &'static str;

    /// Whether devices of this `protocolName` are its.
    fn serves(&self, protocol: &str) -> bool {
        protocol == self.protocol()
    }

    /// The settings of a device.
    fn read(&self, served: &Served) -> Reading<Self::Endpoint, Self::Device>;

    /// Serves the devices behind an endpoint until it is told to stop.
    fn serve(
        self: Arc<Self>,
        endpoint: Self::Endpoint,
        units: watch::Receiver<Units<Self::Device>>,
        hands: Hands,
    ) -> BoxFuture<'static, ()>;
}

/// The devices behind one endpoint.
pub(crate) type Units<D> = Arc<BTreeMap<DeviceName, Unit<D>>>;

/// One device of a driver.
pub(crate) struct Unit<D> {
    /// What it asks for.
    pub(crate) settings: Arc<D>,
    /// What that was read from.
    pub(crate) written: Written,
    /// Whether something of its manifest cannot be served.
    pub(crate) faulty: bool,
}

impl<D> Clone for Unit<D> {
    fn clone(&self) -> Self {
        Self {
            settings: Arc::clone(&self.settings),
            written: self.written,
            faulty: self.faulty,
        }
    }
}

impl<D> PartialEq for Unit<D> {
    fn eq(&self, other: &Self) -> bool {
        self.faulty == other.faulty && self.written == other.written
    }
}

/// What a driver's task works with.
#[derive(Clone)]
pub(crate) struct Hands {
    /// The twins.
    pub(crate) twins: Arc<dyn Twins>,
    /// Tells the task to end.
    pub(crate) stop: CancellationToken,
}

/// What was read of a manifest.
#[derive(Debug, PartialEq)]
pub(crate) struct Reading<E, D> {
    /// Where the device is, and what of it can be served; none if it cannot be at all.
    pub(crate) good: Option<(E, D)>,
    /// What is wrong.
    pub(crate) mistakes: Vec<Mistake>,
}

/// Something that is wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// The property; none if it concerns the whole device.
    pub(crate) property: Option<String>,
    /// What is wrong, with the key.
    pub(crate) text: String,
}

impl Mistake {
    /// Mistakes of the whole device.
    pub(crate) fn of_device(texts: Vec<String>) -> impl Iterator<Item = Self> {
        texts.into_iter().map(|text| Self { property: None, text })
    }

    /// Mistakes of one property.
    pub(crate) fn of_property(property: &str, texts: Vec<String>) -> impl Iterator<Item = Self> {
        texts.into_iter().map(move |text| Self {
            property: Some(property.to_owned()),
            text,
        })
    }
}

/// The properties of a device that can be served, by name; what is wrong with the others goes to the mistakes.
pub(crate) fn properties<P>(
    served: &Served,
    mistakes: &mut Vec<Mistake>,
    mut read: impl FnMut(&ServedProperty) -> Result<P, Vec<String>>,
) -> BTreeMap<String, P> {
    let mut properties = BTreeMap::new();
    let visited = |property: &&ServedProperty| !property.visitor.is_empty();
    for property in served.properties.iter().filter(visited) {
        match read(property) {
            Ok(good) => drop(properties.insert(property.name.clone(), good)),
            Err(wrong) => mistakes.extend(Mistake::of_property(&property.name, wrong)),
        }
    }
    properties
}
