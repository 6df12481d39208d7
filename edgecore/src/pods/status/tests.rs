//! What users see of a pod at each step of its life.
