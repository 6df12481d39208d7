//! A program of the control plane: a child process in the testbed's control group.

use std::{
    fs::File,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{cache::Cache, command, ground::Ground};

/// A running program and how to start it again.
#[derive(Debug)]
pub(super) struct Daemon {
    program: PathBuf,
    args: Vec<String>,
    name: String,
    child: Child,
    /// Where it logs.
    pub(super) log: PathBuf,
}

impl Daemon {
    /// Starts a program of the cache with its flags.
    pub(super) fn start(ground: &Ground, cache: &Cache, name: &str, args: Vec<String>) -> Result<Self> {
        let program = cache.program(name)?;
        let log = ground.log(name);
        let child = spawn(ground, &program, &args, &log)?;
        Ok(Self {
            program,
            args,
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// See [`command::step_aside`].
    pub(super) fn step_aside(&self, aside: bool) -> Result<()> {
        command::step_aside(self.child.id(), aside)
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again as it was.
    pub(super) fn restart(&mut self, ground: &Ground) -> Result<()> {
        self.child = spawn(ground, &self.program, &self.args, &self.log)?;
        Ok(())
    }

    /// An error that names the log when the program has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!(
                "{} ended with {status}; its log is {}",
                self.name,
                self.log.display()
            ),
        }
    }
}

fn spawn(ground: &Ground, program: &Path, args: &[String], log: &Path) -> Result<Child> {
    let log = File::options().create(true).append(true).open(log)?;
    ground
        .cgroup()
        .command(program)?
        .args(args)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))
}
