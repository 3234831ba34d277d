//! What a user would pick instead, from Debian's packages, configured as its own documentation advises.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

/// A multicast MAC that all nodes listen to: the way that iptables-extensions(8) describes for xt_cluster.
pub const SHARED_MAC: [u8; 6] = [0x01, 0, 0x5e, 0, 0x01, 0x01];

/// Both front ends of the kernel's packet filter. Debian's default is the second; the first is the older and shorter
/// way through the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Iptables {
    Legacy,
    Nft,
}

impl Iptables {
    fn program(self) -> &'static str {
        match self {
            Self::Legacy => "iptables-legacy",
            Self::Nft => "iptables-nft",
        }
    }

    /// The rules of iptables-extensions(8) in the caller's network namespace, without the detour over a mark: what
    /// is this node's passes, all else for `vip` is dropped.
    pub fn add_cluster_rules(self, vip: Ipv4Addr, nodes: usize, node: usize) -> Result<()> {
        // A connection's packets that another node has seen the beginning of must not begin one here.
        crate::netns::sysctl("net.netfilter.nf_conntrack_tcp_loose", "0")?;
        // Network cards verify checksums; the lab's do not, and the rival shall not pay for that.
        crate::netns::sysctl("net.netfilter.nf_conntrack_checksum", "0")?;
        for rule in cluster_rules(vip, nodes, node) {
            self.run(&rule)?;
        }
        Ok(())
    }

    /// The empty chain goes too where that is possible: an empty one still costs each packet a little.
    pub fn remove_cluster_rules(self) -> Result<()> {
        self.run("-t mangle -F PREROUTING")?;
        if self == Self::Nft {
            self.run("-t mangle -X")?;
        }
        Ok(())
    }

    /// Frames that were another node's.
    pub fn dropped(self) -> Result<u64> {
        let listing = self.run("-t mangle -L PREROUTING -nvx")?;
        let line = listing.lines().find(|line| line.split_whitespace().nth(2) == Some("DROP"));
        let count = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        count.with_context(|| format!("no rule that drops in:\n{listing}"))
    }

    fn run(self, arguments: &str) -> Result<String> {
        let program = self.program();
        let output = Command::new(program)
            .args(arguments.split_whitespace())
            .output()
            .with_context(|| format!("cannot run {program}"))?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{program} {arguments}`: {}", complaint.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// As typed after the program's name.
pub fn cluster_rules(vip: Ipv4Addr, nodes: usize, node: usize) -> [String; 2] {
    let all = format!("-t mangle -A PREROUTING -i eth0 -d {vip}");
    let mine =
        format!("--cluster-total-nodes {nodes} --cluster-local-node {node} --cluster-hash-seed 0x5afe517");
    [format!("{all} -m cluster {mine} -j ACCEPT"), format!("{all} -j DROP")]
}

/// How ours is configured: words in capitals are filled in.
pub const SAFEKIT: &str = "\
cluster:
  name: bench
  key_file: KEY
  networks:
    - { name: lan, port: 4800 }
    - { name: backup, port: 4800 }
  nodes:
    NODES
  heartbeat: { profile: PROFILE }

modules:
  - name: www
    kind: farm
    virtual_ips:
      - { address: ADDRESS, interface: eth0 }
    delivery: flood
    rules:
      - { protocol: tcp, port: PORT, balance: connection }
";

/// Something in front of the servers that takes connections and makes its own to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balancer {
    HaProxy,
    NginxStream,
}

impl Balancer {
    pub fn program(self) -> &'static str {
        match self {
            Self::HaProxy => "haproxy",
            Self::NginxStream => "nginx",
        }
    }

    pub fn command(self, config: &Path) -> Command {
        match self {
            Self::HaProxy => {
                let mut command = Command::new("haproxy");
                command.arg("-db").arg("-f").arg(config);
                command
            }
            Self::NginxStream => nginx(config),
        }
    }

    /// `dir` is for its own files.
    pub fn config(self, dir: &Path, port: u16, servers: &[SocketAddrV4]) -> String {
        match self {
            Self::HaProxy => haproxy_config(port, servers),
            Self::NginxStream => nginx_stream_config(dir, port, servers),
        }
    }
}

fn haproxy_config(port: u16, servers: &[SocketAddrV4]) -> String {
    let mut text = format!(
        "\
global
    maxconn 8000
    # One thread, as each server has one worker: on two processors more of them only take turns.
    nbthread 1

defaults
    mode tcp
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    # A server that dies between two checks costs a retry, not an error.
    retries 3
    option redispatch 1
    # Both save a packet at each end of a short connection.
    option tcp-smart-accept
    option tcp-smart-connect

frontend www
    bind *:{port} backlog 4096
    default_backend servers

backend servers
    balance roundrobin
    default-server check inter 1s fall 2 rise 2
"
    );
    for (number, server) in servers.iter().enumerate() {
        _ = writeln!(text, "    server n{} {server}", number + 1);
    }
    text
}

fn nginx_stream_config(dir: &Path, port: u16, servers: &[SocketAddrV4]) -> String {
    let mut text = format!(
        "\
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
pid {0}/stream.pid;
error_log {0}/stream-error.log;
worker_processes 1;
daemon off;
events {{ worker_connections 8192; }}
stream {{
    upstream servers {{
",
        dir.display()
    );
    for server in servers {
        _ = writeln!(text, "        server {server} max_fails=2 fail_timeout=2s;");
    }
    _ = write!(
        text,
        "    }}
    server {{
        listen {port} backlog=4096;
        proxy_connect_timeout 2s;
        proxy_pass servers;
    }}
}}
"
    );
    text
}

/// A small answer from memory, so that the web server's own work hides as little as possible of what is in front of it.
pub fn nginx_server(dir: &Path, name: &str, port: u16) -> String {
    let (dir, answer) = (dir.display(), "x".repeat(100));
    format!(
        "\
pid {dir}/{name}-nginx.pid;
error_log {dir}/{name}-nginx-error.log;
worker_processes 1;
daemon off;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    keepalive_requests 100000000;
    keepalive_timeout 600s;
    server {{
        listen {port} backlog=4096;
        location / {{ default_type text/plain; return 200 \"{answer} {name}\\n\"; }}
    }}
}}
"
    )
}

pub fn nginx(config: &Path) -> Command {
    let mut command = Command::new("nginx");
    // Debian's own messages before the configuration is read go to the terminal, which is our log.
    command.arg("-e").arg("stderr").arg("-c").arg(config);
    command
}

/// How often keepalived's master says that it lives. The understudy takes over after three of them and a bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Advertisement {
    /// As packaged: VRRP version 2, each second.
    Default,
    /// VRRP version 3 counts centiseconds: ten times a second.
    Tuned,
    /// As often as our own default heartbeat, or nearly.
    Eager,
}

impl Advertisement {
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "keepalived with HAProxy, 1 s (default)",
            Self::Tuned => "keepalived with HAProxy, 100 ms",
            Self::Eager => "keepalived with HAProxy, 30 ms",
        }
    }
}

/// Its packaged limit of 10 ms without a pause is less than one long turn on a busy machine: the kernel would kill it.
const REALTIME: &str = "    vrrp_version 3\n    vrrp_rt_priority 50\n    vrrp_rlimit_rttime 1000000\n";

pub fn keepalived_config(
    name: &str,
    advertisement: Advertisement,
    priority: u8,
    virtual_ip: Ipv4Addr,
) -> String {
    let (global, interval) = match advertisement {
        Advertisement::Default => ("", "1"),
        // Real-time priority, or a busy machine would lose its mastership by being late; ours has it too.
        Advertisement::Tuned => (REALTIME, "0.1"),
        Advertisement::Eager => (REALTIME, "0.03"),
    };
    format!(
        "\
global_defs {{
    router_id {name}
{global}}}
vrrp_instance www {{
    state BACKUP
    interface eth0
    virtual_router_id 51
    priority {priority}
    advert_int {interval}
    virtual_ipaddress {{
        {virtual_ip}/24 dev eth0
    }}
}}
"
    )
}

/// `pids` begins the names of its files.
pub fn keepalived(config: &Path, pids: &Path) -> Command {
    let mut command = Command::new("keepalived");
    command.args(["--dont-fork", "--log-console", "--log-detail", "--vrrp"]).arg("--use-file").arg(config);
    command.arg("--pid").arg(pids.with_extension("pid"));
    command.arg("--vrrp_pid").arg(pids.with_extension("vrrp.pid"));
    command
}

/// Names and versions of the packages that are there.
pub fn packages() -> Vec<String> {
    let names = ["nginx", "libnginx-mod-stream", "haproxy", "keepalived", "iptables"];
    let output =
        Command::new("dpkg-query").args(["-W", "-f", "${Package} ${Version}\n"]).args(names).output();
    let listing = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    listing.unwrap_or_default().lines().map(str::to_owned).collect()
}
