//! Tasks with a name, an owner and a fate.
