//! edgecore.yaml, parsed into types that cannot be wrong.
