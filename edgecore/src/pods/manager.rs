//! Owner of the pods' workers.
