//! The rival: a GlusterFS volume with two replicas, from Debian's packages, with the settings it comes with.
//!
//! Each node has its own management daemon, with a private `/run`, `/var/lib/glusterd` and log directory; its brick is
//! the directory that others have at [`DATA`], and the volume is mounted over that path on the first node.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::mount::{MountFlags, mount, mount_bind};
use safekit::front::demo::topology::Network;
use safekit::types::NodeId;

use super::machine::{DATA, Lab, Machine, NODES, Running};
use crate::netns::SCRATCH;

const VOLUME: &str = "bench";
const START_TIMEOUT: Duration = Duration::from_secs(30);
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// Bricks and the healer go into the background, where nobody would end them after a kill of this program: they are in
/// a process namespace, which ends with the management daemon.
pub fn start<'lab>(lab: &'lab Lab, bricks: [&Path; 2]) -> Result<(Vec<Running>, Vec<Machine<'lab>>)> {
    let (mut processes, mut machines) = (Vec::new(), Vec::new());
    for (node, brick) in NODES.into_iter().zip(bricks) {
        let machine = Machine::make(lab, node, brick, || private_places(brick))?;
        let mut command = machine.command("unshare")?;
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args(["glusterd", "-N", "--log-level", "WARNING"]);
        processes.push(machine.start("glusterd", command)?);
        machines.push(machine);
    }
    let first = &machines[0];
    for machine in &machines {
        lab.wait_until("glusterd", START_TIMEOUT, || Ok(gluster(machine, "pool list").is_ok()))?;
    }
    let [own, other] = NODES.map(address);
    gluster(first, &format!("peer probe {other}"))?;
    lab.wait_until("a peer that is connected", START_TIMEOUT, || {
        let (pool, status) = (gluster(first, "pool list")?, gluster(first, "peer status")?);
        Ok(pool.matches("Connected").count() == NODES.len() && status.contains("Peer in Cluster"))
    })?;
    gluster(first, &format!("volume create {VOLUME} replica 2 {own}:{BRICK} {other}:{BRICK} force"))?;
    gluster(first, &format!("volume start {VOLUME}"))?;
    lab.wait_until("bricks that are online", START_TIMEOUT, || {
        let detail = gluster(first, &format!("volume status {VOLUME} detail"))?;
        Ok(online(&detail) == NODES.len())
    })?;
    processes.push(mount_volume(lab, first)?);
    Ok((processes, machines))
}

/// Not at [`DATA`]: the volume is mounted there.
const BRICK: &str = "/mnt/brick";

fn address(node: NodeId) -> std::net::Ipv4Addr {
    Network::Backup.address(node)
}

fn online(detail: &str) -> usize {
    detail.lines().filter(|line| line.starts_with("Online") && line.trim_end().ends_with('Y')).count()
}

fn private_places(brick: &Path) -> Result<()> {
    mount("run", "/run", "tmpfs", MountFlags::empty(), None)?;
    std::fs::create_dir("/run/gluster")?;
    std::fs::create_dir(BRICK)?;
    mount_bind(brick, BRICK)?;
    for (name, place) in [("glusterd", "/var/lib/glusterd"), ("logs", "/var/log/glusterfs")] {
        let own = Path::new(SCRATCH).join(name);
        std::fs::create_dir(&own)?;
        mount_bind(&own, place).with_context(|| format!("{place}: is glusterfs-server installed?"))?;
    }
    Ok(())
}

fn gluster(machine: &Machine<'_>, words: &str) -> Result<String> {
    let mut command = machine.command("gluster")?;
    command.arg("--mode=script").args(words.split(' '));
    machine.run("gluster", command, COMMAND_TIMEOUT).with_context(|| format!("gluster {words}"))
}

fn mount_volume(lab: &Lab, machine: &Machine<'_>) -> Result<Running> {
    let mut command = machine.command("glusterfs")?;
    command.args(["-N", &format!("--volfile-server={}", address(NODES[0]))]);
    command.args([&format!("--volfile-id={VOLUME}"), DATA]);
    let mut client = machine.start("glusterfs", command)?;
    lab.wait_until("a mounted volume", START_TIMEOUT, || {
        if let Some(status) = client.process.ended()? {
            bail!("glusterfs ended with {status}: {}", client.last_words());
        }
        let mut command = machine.command("stat")?;
        command.args(["--file-system", "--format=%T", DATA]);
        Ok(machine.run("stat", command, COMMAND_TIMEOUT)?.trim() == "fuseblk")
    })?;
    Ok(client)
}

#[cfg(test)]
mod tests {
    use super::online;

    #[test]
    fn a_brick_is_online_when_its_line_says_so() {
        let detail = "Brick                : Brick 10.98.0.1:/mnt/brick\nOnline               : Y                   \n\
                      Brick                : Brick 10.98.0.2:/mnt/brick\nOnline               : N                   \n";
        assert_eq!(online(detail), 1);
    }
}
