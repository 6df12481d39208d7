//! What this device is: capacity, conditions, addresses, labels.
