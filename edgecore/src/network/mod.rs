//! The default pod network and the way of pods to the API server.
