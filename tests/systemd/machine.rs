//! A systemd of its own: process 1 of new namespaces, below a cgroup of its own, with this machine's programs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use safekit::driver::scripts::services::Systemctl;
use safekit_tests::lab;

/// What systemd finds when it starts: nothing that this machine could miss afterwards is written to.
const PREPARE: &str = "\
set -e
mount --make-rprivate /
mount -t proc proc /proc
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /run/systemd/system /run/lab
mount --bind \"$1\" /run/lab
for place in /etc /usr/bin /var/lib; do
  mkdir -p /run/over$place/upper /run/over$place/work
  mount -t overlay -o lowerdir=$place,upperdir=/run/over$place/upper,workdir=/run/over$place/work overlay $place
done
for place in /tmp /var/log; do mount -t tmpfs tmpfs $place; done
mkdir -p /var/log/nginx
echo web$2 >/etc/hostname
ip link set lo up
for network in 0 1; do
  ip link add eth$network type veth peer name wire$network
  ip addr add 10.$((99 - network)).0.$2/24 dev eth$network
  ip link set eth$network up
  ip link set wire$network up
done
export container=safekit-lab
exec /lib/systemd/systemd --system --unit=basic.target --show-status=false
";
const BOOT_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) struct Machine {
    dir: PathBuf,
    cgroup: PathBuf,
    outer: Child,
    /// systemd, as this machine numbers it.
    pid: u32,
}

impl Machine {
    /// It is called web1, web2 and so on, and has 10.99.0.1, 10.99.0.2 … and the same in 10.98.0.0/24.
    pub(crate) fn boot(number: u32) -> anyhow::Result<Self> {
        if !Path::new("/lib/systemd/systemd").exists() {
            bail!("there is no systemd here: `cargo xtask setup` installs it");
        }
        let name = format!("safekit-lab-systemd-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(&name);
        fs::create_dir_all(&dir)?;
        let cgroup = cgroups().context("no cgroups (version 2) are mounted")?.join(&name);
        fs::create_dir(&cgroup)?;
        let join = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", cgroup.display());
        let outer = Command::new("/bin/sh")
            .args(["-c", &join, "sh", "unshare", "--cgroup", "--mount", "--pid", "--net", "--uts", "--ipc"])
            .args(["--fork", "--kill-child", "/bin/sh", "-c", PREPARE, "sh"])
            .arg(&dir)
            .arg(number.to_string())
            .stdin(Stdio::null())
            .stdout(fs::File::create(dir.join("boot.log"))?)
            .stderr(fs::File::create(dir.join("boot.errors"))?)
            .spawn()?;
        let mut machine = Self { dir, cgroup, outer, pid: 0 };
        machine.wait_until_up()?;
        Ok(machine)
    }

    fn wait_until_up(&mut self) -> anyhow::Result<()> {
        let outer = self.outer.id();
        let children = format!("/proc/{outer}/task/{outer}/children");
        let waited = lab::wait_until("systemd is up", BOOT_TIMEOUT, || {
            let text = fs::read_to_string(&children).unwrap_or_default();
            let Some(pid) = text.split_whitespace().next().and_then(|pid| pid.parse().ok()) else {
                return false;
            };
            self.pid = pid;
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            comm.trim() == "systemd"
                && ["running", "degraded"]
                    .contains(&self.output(&["systemctl", "is-system-running"]).as_str())
        });
        waited.with_context(|| fs::read_to_string(self.dir.join("boot.errors")).unwrap_or_default())?;
        self.write_programs()
    }

    /// `systemctl` and `journalctl` of that machine, for who runs on this one.
    fn write_programs(&self) -> anyhow::Result<()> {
        for program in ["systemctl", "journalctl"] {
            let path = self.dir.join(program);
            let enter = self.enter().join(" ");
            fs::write(&path, format!("#!/bin/sh\nexec {enter} {program} \"$@\"\n"))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    }

    fn enter(&self) -> Vec<String> {
        let words = ["nsenter", "-t", &self.pid.to_string(), "-m", "-p", "-n", "-C", "-u", "-i", "--"];
        words.map(str::to_owned).to_vec()
    }

    pub(crate) fn systemctl(&self) -> Systemctl {
        Systemctl {
            program: self.dir.join("systemctl"),
            journal: self.dir.join("journalctl"),
            runs: self.dir.clone(),
        }
    }

    /// That machine sees it as `/run/lab`, also when everything else of it has gone.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What a command on that machine prints; empty when it cannot be run.
    pub(crate) fn output(&self, words: &[&str]) -> String {
        let output = self.command(words).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    }

    /// The same for a command that has to succeed.
    pub(crate) fn run(&self, words: &[&str]) -> anyhow::Result<String> {
        let output = self.command(words).output()?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        ensure!(output.status.success(), "{words:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
        Ok(said)
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let enter = self.enter();
        let mut command = Command::new(&enter[0]);
        command.args(&enter[1..]).args(words);
        command
    }

    /// Its ends of the two networks go to another network namespace, and are ports of its bridges there.
    pub(crate) fn plug_into(&self, switch: u32, number: u32) -> anyhow::Result<()> {
        for network in 0..2 {
            let (wire, port) = (format!("wire{network}"), format!("port{network}-{number}"));
            self.run(&["ip", "link", "set", &wire, "name", &port])?;
            let from_here =
                ["-t", &self.pid.to_string(), "-n", "ip", "link", "set", &port, "netns", &switch.to_string()];
            ensure!(Command::new("nsenter").args(from_here).status()?.success(), "cannot plug in {port}");
            let bridge = format!("br{network}");
            let there =
                ["-t", &switch.to_string(), "-n", "ip", "link", "set", &port, "master", &bridge, "up"];
            ensure!(Command::new("nsenter").args(there).status()?.success(), "cannot plug in {port}");
        }
        Ok(())
    }

    /// Whether its first process is still there.
    pub(crate) fn is_up(&mut self) -> bool {
        self.outer.try_wait().is_ok_and(|ended| ended.is_none())
    }

    /// A path of that machine, as this one sees it.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        // Its own mounts, seen through its first process.
        PathBuf::from(format!("/proc/{}/root{path}", self.pid))
    }

    pub(crate) fn install(&self, units: &[(&str, &str)]) -> anyhow::Result<()> {
        for (name, text) in units {
            fs::write(self.path(&format!("/run/systemd/system/{name}.service")), text)?;
        }
        self.output(&["systemctl", "daemon-reload"]);
        Ok(())
    }

    pub(crate) fn first_line_of_page(&self) -> String {
        let ask = "exec 3<>/dev/tcp/127.0.0.1/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; head -1 <&3";
        self.output(&["bash", "-c", ask])
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // With its first process the kernel ends all others of the namespace.
        let _gone = fs::write(self.cgroup.join("cgroup.kill"), "1");
        let _gone = self.outer.kill();
        let _gone = self.outer.wait();
        let _gone = lab::wait_until("the cgroups are empty", Duration::from_secs(5), || {
            remove_tree(&self.cgroup);
            !self.cgroup.exists()
        });
        let _gone = fs::remove_dir_all(&self.dir);
    }
}

/// Cgroups are removed from the leaves up, and hold no files of ours.
fn remove_tree(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _not_empty_yet = fs::remove_dir(cgroup);
}

fn cgroups() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        right.starts_with("cgroup2 ").then(|| left.split(' ').nth(4).map(PathBuf::from)).flatten()
    })
}
