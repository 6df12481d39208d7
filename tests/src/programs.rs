//! The programs under test, as `make build` leaves them.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};

/// Where `make build` puts static release binaries, below the workspace.
const BUILT: &str = "target/x86_64-unknown-linux-gnu/release";

/// The programs under test.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The cluster side.
    pub cloudcore: PathBuf,
    /// The device side.
    pub edgecore: PathBuf,
}

impl Programs {
    /// Those in `$TOMBOLO_PROGRAMS`, else those of `make build`.
    pub fn find() -> Result<Self> {
        let dir = env::var_os("TOMBOLO_PROGRAMS").map_or_else(|| workspace().join(BUILT), PathBuf::from);
        let programs = Self {
            cloudcore: dir.join("cloudcore"),
            edgecore: dir.join("edgecore"),
        };
        for program in [&programs.cloudcore, &programs.edgecore] {
            ensure!(
                program.exists(),
                "{} is not there: run `make build`",
                program.display()
            );
        }
        Ok(programs)
    }
}

/// The root of the source tree.
pub fn workspace() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests)
}
