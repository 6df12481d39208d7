//! Whether the service, the running edgecore and this doctor are one program. Pure.

use super::super::Finding;
use super::super::facts::{Program, Programs, Seen, Started};

const CHECK: &str = "program";

/// What the service will start, what runs, and what looks; nothing where there is only what looks.
pub(super) fn programs(programs: &Seen<Programs>) -> Option<Finding> {
    let Programs { own, service, daemon } = match programs {
        Ok(programs) => programs,
        Err(why) => {
            let remedy = "systemctl cat edgecore; which edgecore";
            return Some(Finding::unknown(CHECK, why, remedy));
        }
    };
    let wrong = match (service, daemon) {
        (Some(service), daemon) => unit(service)
            .or_else(|| {
                daemon
                    .as_ref()
                    .and_then(|daemon| running(daemon, &service.program))
            })
            .or_else(|| looking(own, "the service starts", &service.program)),
        (None, Some(daemon)) => looking(own, "edgecore runs from", daemon),
        (None, None) => return None,
    };
    let all = || Finding::ok(CHECK, format!("edgecore is {} everywhere", own.path));
    Some(wrong.unwrap_or_else(all))
}

/// What is wrong with the unit itself.
fn unit(service: &Started) -> Option<Finding> {
    let Started {
        program,
        root,
        is_stale,
    } = service;
    let path = &program.path;
    if program.content.is_none() {
        return Some(Finding::failed(
            CHECK,
            format!("the service starts {path}, and there is no such file"),
            "put the program there: install -m 755 edgecore, with that path; or mend ExecStart: systemctl edit --full \
             edgecore",
        ));
    }
    if root != "/" {
        return Some(Finding::warning(
            CHECK,
            format!("the service reads and writes below {root}, and this doctor looks at /"),
            "give the doctor the same --root; or mend ExecStart: systemctl edit --full edgecore",
        ));
    }
    is_stale.then(|| {
        Finding::warning(
            CHECK,
            "the unit of the service was changed, and systemd goes by the old text",
            "systemctl daemon-reload; then systemctl restart edgecore (pods run on)",
        )
    })
}

/// What runs, where the next start brings something else.
fn running(daemon: &Program, started: &Program) -> Option<Finding> {
    const RESTART: &str = "systemctl restart edgecore (pods run on)";
    if daemon.content == started.content {
        return None;
    }
    let (runs, starts) = (&daemon.path, &started.path);
    Some(if runs == starts {
        let seen = format!("{runs} was replaced, and the one from before still runs");
        Finding::warning(CHECK, seen, RESTART)
    } else {
        Finding::warning(
            CHECK,
            format!("edgecore runs from {runs}, and the service starts another program, {starts}"),
            "which is the right one? put it where the service has it, and systemctl restart edgecore (pods run on)",
        )
    })
}

/// What looks, where it is another program than the one that it looks at.
fn looking(own: &Program, what: &str, other: &Program) -> Option<Finding> {
    (own.content != other.content).then(|| {
        Finding::warning(
            CHECK,
            format!(
                "this doctor is {}, and {what} another program, {}",
                own.path, other.path
            ),
            "use that one; or, if this is the newer, install it there and systemctl restart edgecore (pods run on)",
        )
    })
}
