//! Generates the wire types from `proto/` (no protoc needed) and stamps the build time.

use std::{env, error::Error, time::SystemTime};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto/link.proto");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let descriptors = protox::compile(["proto/link.proto"], ["proto"])?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    #[cfg(feature = "dmi")]
    dmi()?;
    println!("cargo::rustc-env=TOMBOLO_BUILD_TIME={}", build_time()?);
    Ok(())
}

/// What edgecore and mappers say to each other. Maps are ordered, so that equal messages have equal bytes.
#[cfg(feature = "dmi")]
fn dmi() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto/dmi.proto");
    let descriptors = protox::compile(["proto/dmi.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}

/// Seconds since 1970; `SOURCE_DATE_EPOCH` makes the build reproducible.
fn build_time() -> Result<u64, Box<dyn Error>> {
    match env::var("SOURCE_DATE_EPOCH") {
        Ok(given) => Ok(given.parse()?),
        Err(_) => Ok(SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)?
            .as_secs()),
    }
}
