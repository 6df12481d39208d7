//! What the surroundings get wrong: clocks, ports, rights, a runtime that is late.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::Path,
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use tests::{
    Testbed, cloudcore,
    command::run_within,
    control_plane::kubeconfig,
    testbed::node_ready,
    wait::{Look, throughout},
};

use crate::{
    told::mentions,
    world::{EDGE, PATIENCE, World},
};

crate::tests![
    a_clock_years_ahead_is_refused_by_name_and_one_a_year_behind_does_not_matter,
    cloudcore_names_the_port_that_is_in_use,
    cloudcore_names_the_kubeconfig_that_is_missing,
    cloudcore_names_the_rules_that_it_lacks,
    a_second_edgecore_on_a_device_is_refused,
    a_node_joins_without_containerd_and_waits_for_it,
];

/// In seconds.
const YEAR: i64 = 365 * 24 * 60 * 60;

async fn a_clock_years_ahead_is_refused_by_name_and_one_a_year_behind_does_not_matter(
    world: &World,
) -> Result<()> {
    let (device, testbed) = (world.device().await?, world.with_cloudcore().await?);
    let token = cloudcore::token(testbed, &[]).await?;
    match device.enrol_at(20 * YEAR, &token, &[]).await {
        Ok(said) => bail!("it was let in: {said}"),
        Err(error) => mentions(
            &format!("{error:#}"),
            &["ago by this machine's clock", "set the clock"],
        )?,
    }
    // Nothing was used up: the same token serves the same device once its clock is no longer ahead.
    device.enrol_at(-YEAR, &token, &[]).await?;
    device.install_service_at(-YEAR)?;
    node_ready(&testbed.client(), device.machine.name(), PATIENCE).await?;
    world.retire(device).await
}

/// cloudcore on the host, as an operator may run it, and why it ended.
async fn cloudcore_ends(testbed: &Testbed, kubeconfig: &Path, words: &[&str]) -> Result<String> {
    let mut command = tokio::process::Command::new(&testbed.programs.cloudcore);
    command.arg("run").arg("--kubeconfig").arg(kubeconfig).args(words);
    match run_within(Duration::from_secs(20), command).await {
        Ok(said) => bail!("it ended well: {said}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

async fn cloudcore_names_the_port_that_is_in_use(world: &World) -> Result<()> {
    let testbed = world.with_cloudcore().await?;
    let admin = testbed.plane.admin_kubeconfig();
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let (tcp, udp) = (TcpListener::bind(local(0))?, UdpSocket::bind(local(0))?);
    let (tcp, udp) = (
        tcp.local_addr().map(|at| (tcp, at))?,
        udp.local_addr().map(|at| (udp, at))?,
    );
    let free = local(0).to_string();
    for (listen, observe, taken) in [
        (tcp.1.to_string(), &free, tcp.1),
        (udp.1.to_string(), &free, udp.1),
        (free.clone(), &tcp.1.to_string(), tcp.1),
    ] {
        let words = ["--listen", &listen, "--observe", observe];
        let said = cloudcore_ends(testbed, &admin, &words).await?;
        let (_, reason) = said.split_once("ended with").unwrap_or(("", &said));
        mentions(reason, &["in use", &taken.port().to_string()])?;
    }
    Ok(())
}

async fn cloudcore_names_the_kubeconfig_that_is_missing(world: &World) -> Result<()> {
    let testbed = world.testbed().await?;
    let missing = testbed.ground.dir().join("missing.kubeconfig");
    let said = cloudcore_ends(testbed, &missing, &[]).await?;
    let (_, reason) = said.split_once("ended with").unwrap_or(("", &said));
    mentions(reason, &["missing.kubeconfig", "--kubeconfig"])
}

async fn cloudcore_names_the_rules_that_it_lacks(world: &World) -> Result<()> {
    let testbed = world.testbed().await?;
    let nobody = testbed.ground.dir().join("nobody.kubeconfig");
    kubeconfig::save(&nobody, &testbed.plane.kubeconfig_for("nobody", &[])?)?;
    let said = cloudcore_ends(testbed, &nobody, &[]).await?;
    let rule = r#"apiGroups: [""], resources: ["pods"], verbs: ["watch"]"#;
    mentions(&said, &["cloudcore lacks rights", rule])
}

async fn a_second_edgecore_on_a_device_is_refused(world: &World) -> Result<()> {
    let (testbed, edge) = world.with_edge().await?;
    let first = edge.machine.service_pid("edgecore")?;
    match edge.edgecore(&["run"]).await {
        Ok(said) => bail!("it ran and ended well: {said}"),
        Err(error) => mentions(&format!("{error:#}"), &["edgecore runs already"])?,
    }
    ensure!(
        edge.machine.service_pid("edgecore")? == first,
        "the first one was disturbed"
    );
    edge.edgecore(&["status"]).await?;
    node_ready(&testbed.client(), EDGE, PATIENCE).await
}

async fn a_node_joins_without_containerd_and_waits_for_it(world: &World) -> Result<()> {
    let (device, testbed) = (world.device().await?, world.with_cloudcore().await?);
    device.machine.stop("containerd")?;
    let token = cloudcore::token(testbed, &[]).await?;
    let said = device.join(&token, &[]).await?;
    mentions(&said, &["no container runtime answers", "containerd.sock"])?;
    let pid = device.machine.service_pid("edgecore")?;
    throughout("edgecore waiting", Duration::from_secs(10), || async {
        let now = device.machine.service_pid("edgecore")?;
        Ok(Look::when(now == pid, || format!("pid {now} after {pid}")))
    })
    .await?;
    device.machine.start("containerd")?;
    node_ready(&testbed.client(), device.machine.name(), PATIENCE).await?;
    ensure!(
        device.machine.service_pid("edgecore")? == pid,
        "edgecore ended meanwhile"
    );
    world.retire(device).await
}
