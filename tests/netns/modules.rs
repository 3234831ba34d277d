//! Applications under a farm module: the real nginx, started, watched, restarted, given up.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use safekit::driver::clock;
use safekit::front::demo::farm::{Design, Farm, MODULE};
use safekit::front::demo::interrupt::Interrupt;
use safekit::front::demo::scenario::{seen, wait_whole};
use safekit::front::demo::topology::node_name;
use safekit::types::module::{ModuleState, Role, Status};
use safekit::types::{Instant, ModuleInfo, NodeId};
use safekit_tests::lab;

const N1: NodeId = NodeId(0);
const N2: NodeId = NodeId(1);
const NODES: usize = 3;
const UP: ModuleState = ModuleState::new(Role::Up, Status::Ready);
const WITHIN: Duration = Duration::from_secs(10);

/// nginx on three nodes, each with its own configuration, started by the module.
pub(crate) struct Site {
    pub(crate) farm: Farm,
    files: PathBuf,
}

impl Site {
    /// `extra`: more lines of the module, below its scripts and checks.
    fn build(extra: &[&str]) -> anyhow::Result<Self> {
        Self::build_with(extra, "")
    }

    /// The same, with more `sections` at the end of the file.
    pub(crate) fn build_with(extra: &[&str], sections: &str) -> anyhow::Result<Self> {
        let binary = lab::binary()?;
        let files = directory(&binary)?;
        for node in 0..NODES as u8 {
            write_nginx(&files, NodeId(node))?;
        }
        let mut upkeep = vec![
            "scripts:".to_owned(),
            format!("  directory: {}", files.display()),
            "  timeout: 3s".to_owned(),
            "  start: ./start".to_owned(),
            "  stop: ./stop".to_owned(),
            "checks:".to_owned(),
            "  - { name: nginx, process: { name: nginx, at_least: 1, interval: 1s, timeout: 1s }, action: restart }"
                .to_owned(),
        ];
        upkeep.extend(extra.iter().map(|line| (*line).to_owned()));
        let design = Design { server: Vec::new(), upkeep, ..Design::demo(&binary, NODES) };
        let mut farm = Farm::designed(&binary, design)?;
        let text = std::fs::read_to_string(farm.config())?;
        std::fs::write(farm.config(), text + sections)?;
        for node in farm.ids() {
            farm.start(node)?;
        }
        Ok(Self { farm, files })
    }

    pub(crate) fn wait_up(&mut self) -> anyhow::Result<()> {
        lab::wait_until("the module is up on all nodes", WITHIN, || {
            self.farm.ids().all(|node| self.module(node).is_some_and(|module| module.state == UP))
        })
        .with_context(|| self.words())?;
        wait_whole(&mut self.farm, &Interrupt::default())?;
        Ok(())
    }

    fn module(&self, node: NodeId) -> Option<ModuleInfo> {
        let snapshot = self.farm.sight(node).snapshot?;
        snapshot.modules.into_iter().find(|module| module.name == MODULE)
    }

    fn master(&self, node: NodeId) -> anyhow::Result<Pid> {
        let text = std::fs::read_to_string(self.files.join(format!("{}.pid", node_name(node))))?;
        Pid::from_raw(text.trim().parse()?).context("a pid is positive")
    }

    /// nginx and its workers, as a crash would end them.
    pub(crate) fn kill_nginx(&self, node: NodeId) -> anyhow::Result<Instant> {
        let master = self.master(node)?;
        let workers =
            std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", master.as_raw_nonzero()))?;
        let began = clock::now();
        kill_process(master, Signal::KILL)?;
        for worker in workers.split_whitespace().filter_map(|pid| pid.parse().ok().and_then(Pid::from_raw)) {
            let _gone = kill_process(worker, Signal::KILL);
        }
        Ok(began)
    }

    /// Buckets of the module's first group that `node` owns, as the first of the others sees it.
    fn owned(&self, node: NodeId) -> Option<u32> {
        let other = self.farm.ids().find(|it| *it != node)?;
        let snapshot = self.farm.sight(other).snapshot?;
        snapshot.farms.first()?.groups.first()?.shares.get(usize::from(node.0)).copied()
    }

    pub(crate) fn words(&self) -> String {
        let mut text = seen(&self.farm);
        for node in self.farm.ids() {
            let _ = writeln!(
                text,
                "{}: {:?}\n{}",
                node_name(node),
                self.module(node),
                self.farm.last_words(node)
            );
        }
        text
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // The applications outlive their daemons: that is what a daemon's restart needs.
        for node in 0..NODES as u8 {
            if let Ok(master) = self.master(NodeId(node)) {
                let _gone = kill_process(master, Signal::TERM);
            }
        }
        let _left = std::fs::remove_dir_all(&self.files);
    }
}

fn directory(binary: &Path) -> anyhow::Result<PathBuf> {
    let base = binary.parent().context("the binary is in a directory")?;
    let dir = base.join(format!("nginx-{}-{}", std::process::id(), clock::now().0));
    std::fs::create_dir_all(&dir)?;
    for (name, text) in [
        ("start", "#!/bin/sh\nexec nginx -c \"$PWD/$SAFEKIT_NODE.conf\"\n"),
        // Twice: graceful, then forced; the second finds nothing, and that is well.
        (
            "stop",
            "#!/bin/sh\n[ -s \"$SAFEKIT_NODE.pid\" ] || exit 0\nkill -TERM \"$(cat $SAFEKIT_NODE.pid)\" 2>/dev/null\n\
             i=0; while [ -e \"$SAFEKIT_NODE.pid\" ] && kill -0 \"$(cat $SAFEKIT_NODE.pid)\" 2>/dev/null; do\n\
             i=$((i+1)); [ $i -gt 50 ] && exit 1; sleep 0.05; done\nrm -f \"$SAFEKIT_NODE.pid\"\nexit 0\n",
        ),
    ] {
        let path = dir.join(name);
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    Ok(dir)
}

fn write_nginx(files: &Path, node: NodeId) -> anyhow::Result<()> {
    let (dir, name) = (files.display(), node_name(node));
    let text = format!(
        "worker_processes 1;\npid {dir}/{name}.pid;\nerror_log {dir}/{name}.error;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; server {{ listen 80; return 200 \"{name}\\n\"; }} }}\n"
    );
    Ok(std::fs::write(files.join(format!("{name}.conf")), text)?)
}

/// The first promise of checkers: a crash is mended within a second, and its clients are elsewhere meanwhile.
#[test]
fn a_killed_nginx_is_restarted_and_its_share_moves_meanwhile() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let mut site = Site::build(&[])?;
    site.wait_up()?;
    let before = site.master(N2)?;
    let killed = site.kill_nginx(N2)?;
    let mut moved = None;
    lab::wait_until("nginx runs again and n2 serves", WITHIN, || {
        if moved.is_none() && site.owned(N2) == Some(0) {
            moved = Some(clock::now().since(killed));
        }
        site.master(N2).is_ok_and(|master| master != before)
            && site.module(N2).is_some_and(|module| module.state == UP && module.loops == 1)
            && moved.is_some()
    })
    .with_context(|| site.words())?;
    let back = clock::now().since(killed);
    eprintln!("… moved after {moved:?}, Ready again after {back:?}");
    lab::wait_until("n2 has its share again", WITHIN, || site.owned(N2).is_some_and(|owned| owned > 0))?;
    let module = site.module(N2).context("n2 knows its module")?;
    ensure!((module.loops, module.loops_max) == (1, 3), "{module:?}");
    Ok(())
}

/// Three restarts are bad luck, the fourth is a defect that a person has to see.
#[test]
fn a_module_that_dies_again_and_again_is_stopped_with_the_reason() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let mut site = Site::build(&["max_loop: 3 in 24h"])?;
    site.wait_up()?;
    for round in 1..=3 {
        let before = site.master(N2)?;
        site.kill_nginx(N2)?;
        lab::wait_until("nginx is restarted", WITHIN, || {
            site.master(N2).is_ok_and(|master| master != before)
                && site.module(N2).is_some_and(|module| module.state == UP && module.loops == round)
        })
        .with_context(|| site.words())?;
    }
    site.kill_nginx(N2)?;
    lab::wait_until("the module is stopped", WITHIN, || {
        site.module(N2).is_some_and(|module| module.state == ModuleState::STOPPED)
    })
    .with_context(|| site.words())?;
    let module = site.module(N2).context("n2 knows its module")?;
    let causes = module.causes.join("; ");
    ensure!(causes.contains("max_loop") && causes.contains("process.nginx"), "{causes}");
    ensure!(module.next_step.is_some_and(|step| step.contains("safekit start www")), "no next step");
    lab::wait_until("the others serve all", WITHIN, || site.owned(N2) == Some(0))?;
    // An operator's word is a new beginning.
    let dir = site.farm.node_dir(N2);
    let dir = dir.to_str().context("the run directory is plain text")?;
    let started = lab::safekit(&["start", MODULE, "--run-dir", dir, "--timeout", "10s"])?;
    ensure!(started.status.success(), "{started:?}");
    lab::wait_until("n2 serves again", WITHIN, || site.owned(N2).is_some_and(|owned| owned > 0))?;
    Ok(())
}

#[test]
fn a_start_script_that_fails_or_hangs_leaves_the_node_out_and_says_why() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    for (script, expected) in
        [("echo no licence; exit 3", "exit code 3"), ("echo thinking; sleep 60", "did not end within")]
    {
        let mut site = Site::build(&["max_loop: 1 in 1h"])?;
        site.wait_up()?;
        let dir = site.farm.node_dir(N1);
        let dir = dir.to_str().context("the run directory is plain text")?;
        ensure!(lab::safekit(&["stop", MODULE, "--run-dir", dir])?.status.success());
        lab::wait_until("the others serve all", WITHIN, || site.owned(N1) == Some(0))?;
        // The same file for all nodes; only n1 is started again.
        std::fs::write(site.files.join("start"), format!("#!/bin/sh\n{script}\n"))?;
        let started = lab::safekit(&["start", MODULE, "--run-dir", dir, "--timeout", "20s"])?;
        ensure!(started.status.code() == Some(1), "{started:?}");
        let module = site.module(N1).context("n1 knows its module")?;
        ensure!(module.causes.join("; ").contains(expected), "{module:?}");
        ensure!(site.owned(N1) == Some(0), "a node whose start failed got traffic");
    }
    Ok(())
}

#[test]
fn a_cable_that_is_pulled_moves_the_share_and_plugged_brings_it_back() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let mut site = Site::build(&["  - { name: lan, link: { interface: eth0 } }"])?;
    site.wait_up()?;
    site.farm.topology().link_down(N2)?;
    lab::wait_until("n2 waits", WITHIN, || {
        site.module(N2).is_some_and(|module| module.state.role == Role::Wait)
    })
    .with_context(|| site.words())?;
    let causes = site.module(N2).context("n2 knows its module")?.causes.join("; ");
    ensure!(causes.contains("link.lan"), "{causes}");
    lab::wait_until("the others serve all", WITHIN, || site.owned(N2) == Some(0))?;
    site.farm.topology().link_up(N2)?;
    site.wait_up()?;
    lab::wait_until("n2 has its share again", WITHIN, || site.owned(N2).is_some_and(|owned| owned > 0))?;
    Ok(())
}
