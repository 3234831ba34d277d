//! Every kind of check against the real thing: up while it is there, down soon after it is gone, up again.

use std::future::Future;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use safekit::config::upkeep::{Check, CheckKind, ModuleAt, When, Witness};
use safekit::driver::check::{self, Finding, Handle, Remote, Surroundings};
use safekit::driver::clock;
use safekit::types::module::{Action, ModuleReport, ResourceState, Role, Status};
use safekit::types::{ModuleState, NodeId};
use safekit_tests::lab;
use safekit_tests::netns::{SCRATCH, in_new_namespace, ip, sysctl};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

const INTERVAL: Duration = Duration::from_millis(200);
const TIMEOUT: Duration = Duration::from_millis(400);
/// Of every change, whatever the kind: a probe, its timeout, the silence of a node, and a busy machine.
const SEEN_WITHIN: Duration = Duration::from_secs(6);
const PAGE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nall is on";
const ADDRESS: &str = "10.77.0.1";

type Step = Box<dyn FnMut(&mut World) -> Result<()>>;

/// What is looked at, and how it goes and comes back.
struct Row {
    name: &'static str,
    kind: CheckKind,
    gone: Step,
    back: Step,
}

#[test]
fn every_kind_sees_the_real_thing_go_and_come_back() -> Result<()> {
    story(|| async {
        let mut world = World::new()?;
        for mut row in table() {
            (row.back)(&mut world)?;
            let mut watched = Watched::start(&[check(row.name, row.kind)], &world);
            let first = watched.until(ResourceState::Up).await.with_context(|| row.name)?;
            (row.gone)(&mut world)?;
            let lost = watched.until(ResourceState::Down).await.with_context(|| row.name)?;
            let said = watched.said.clone();
            (row.back)(&mut world)?;
            let again = watched.until(ResourceState::Up).await.with_context(|| row.name)?;
            println!("{:16} up {first:8.1?}  down {lost:8.1?}  up again {again:8.1?}  {said}", row.name);
            ensure!(watched.handle.is_alive(), "a check has ended by itself");
        }
        Ok(())
    })
}

/// The probe comes once in an hour: only the death itself can tell.
#[test]
fn the_death_of_a_process_is_seen_within_milliseconds() -> Result<()> {
    story(|| async {
        let mut world = World::new()?;
        let mut kind = process();
        if let CheckKind::Process { at_least, .. } = &mut kind {
            *at_least = 2;
        }
        let mut spans = Vec::new();
        for _ in 0..9 {
            world.start("one")?;
            world.start("two")?;
            let slow = Check { interval: Duration::from_secs(3600), fall: 3, ..check("death", kind.clone()) };
            let mut watched = Watched::start(&[slow], &world);
            watched.until(ResourceState::Up).await?;
            world.end("one");
            spans.push(watched.until(ResourceState::Down).await?);
            world.end("two");
        }
        spans.sort();
        println!(
            "a death is seen after {:.1?} (median), {:.1?} at most, of {}",
            spans[4],
            spans[8],
            spans.len()
        );
        ensure!(spans[4] < Duration::from_millis(50), "{spans:?}");
        Ok(())
    })
}

/// The probe comes once in ten seconds, and the kernel's link watch tells of what follows another change within a second
/// only when that is over: a loss soon after a return is the slow case.
#[test]
fn a_lost_carrier_is_seen_within_milliseconds() -> Result<()> {
    story(|| async {
        let mut world = World::new()?;
        peer_up(&mut world)?;
        let kind = CheckKind::Link { interface: "eth0".into() };
        let slow = Check { interval: Duration::from_secs(10), fall: 3, ..check("link", kind) };
        let mut watched = Watched::start(&[slow], &world);
        let mut spans = Vec::new();
        for turn in 0..9 {
            watched.until(ResourceState::Up).await?;
            // Each at another moment between two questions for it.
            sleep(Duration::from_millis(100 + 7 * turn)).await;
            peer_down(&mut world)?;
            spans.push(watched.until(ResourceState::Down).await?);
            peer_up(&mut world)?;
        }
        spans.sort();
        println!("a lost carrier is seen after {:.1?} (median), {:.1?} at most", spans[4], spans[8]);
        ensure!(spans[4] < Duration::from_millis(50), "{spans:?}");
        ensure!(spans[8] < Duration::from_millis(500), "{spans:?}");
        Ok(())
    })
}

/// What is not ours does not count, and neither does what is dead but not buried.
#[test]
fn zombies_and_processes_of_other_networks_do_not_count() -> Result<()> {
    story(|| async {
        let mut world = World::new()?;
        let elsewhere = Command::new("unshare").args(["-n", "sleep", "7654321"]).spawn()?;
        world.programs.push(("elsewhere".into(), elsewhere));
        let mut zombie = Command::new("sleep").arg("7654321").spawn()?;
        zombie.kill()?;
        let mut watched = Watched::start(&[check("alone", process())], &world);
        let down = watched.until(ResourceState::Down).await;
        zombie.wait()?;
        down?;
        world.start("one")?;
        watched.until(ResourceState::Up).await?;
        Ok(())
    })
}

#[test]
fn a_program_ends_with_all_that_it_started() -> Result<()> {
    story(|| async {
        let world = World::new()?;
        let run = "sleep 8765432 & sleep 8765432";
        let late = check("late", CheckKind::Custom { run: run.into(), reports: false });
        let mut watched = Watched::start(&[late], &world);
        watched.until(ResourceState::Down).await?;
        ensure!(watched.said.contains("no answer within 400 ms"), "{}", watched.said);
        drop(watched);
        let reports = check("reports", CheckKind::Custom { run: run.into(), reports: true });
        let watched = Watched::start(&[reports], &world);
        until("the program runs", || running("8765432").is_ok_and(|count| count == 2)).await?;
        drop(watched);
        until("it has ended", || running("8765432").is_ok_and(|count| count == 0)).await
    })
}

#[test]
fn a_program_that_reports_is_believed_and_started_again() -> Result<()> {
    story(|| async {
        let world = World::new()?;
        let run = format!("echo once >> {SCRATCH}/starts; echo out of paper; exit 3");
        let kind = CheckKind::Custom { run, reports: true };
        let printer = Check { fall: 2, ..check("printer", kind) };
        let mut watched = Watched::start(&[printer, check("other", process())], &world);
        let report = |watched: &Watched, name, state| watched.handle.report(name, state, "uid 0");
        ensure!(report(&watched, "other", ResourceState::Up).is_err(), "a process takes no reports");
        ensure!(report(&watched, "nobody", ResourceState::Up).is_err(), "nor does what is not there");
        watched.active_first(true);
        report(&watched, "printer", ResourceState::Up)?;
        watched.until(ResourceState::Up).await?;
        watched.until(ResourceState::Down).await?;
        ensure!(watched.said.contains("exit code 3: out of paper"), "{}", watched.said);
        let starts = std::fs::read_to_string(Path::new(SCRATCH).join("starts"))?.lines().count();
        ensure!(starts >= 2, "it was started again: {starts}");
        let info = &watched.handle.infos()[0];
        ensure!((info.state, info.active) == (ResourceState::Down, true), "{info:?}");
        watched.active_first(false);
        watched.until(ResourceState::Init).await?;
        Ok(())
    })
}

fn table() -> Vec<Row> {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let page = |world: &mut World| world.serve(PAGE);
    let other = |status: &'static str| move |world: &mut World| world.serve(status);
    let http = |body: Option<&str>| CheckKind::Http {
        url: "http://127.0.0.1:8077/health".into(),
        status: (200, 399),
        body: body.map(str::to_owned),
        verify: true,
    };
    let ping = |address: &str| CheckKind::Ping { address: address.parse().expect("an address") };
    let health = ModuleAt::Url("http://127.0.0.1:8077/health/base".into());
    let module = |at| CheckKind::Module { module: "base".into(), at };
    let custom = format!("test -e {SCRATCH}/up || {{ echo no file; exit 3; }}");
    vec![
        row(
            "process",
            process(),
            |world| {
                world.end("one");
                Ok(())
            },
            |world| world.start("one"),
        ),
        row("tcp", CheckKind::Tcp { address: loopback, port: 8077 }, World::close, page),
        row("http", http(None), other("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"), page),
        row(
            "http body",
            http(Some("all .* on")),
            other("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\noff"),
            page,
        ),
        row("http silent", http(None), other(""), page),
        row("ping raw", ping("10.77.0.2"), peer_down, peer_up),
        row("ping raw v6", ping("fd77::2"), peer_down, peer_up),
        row("ping", ping("10.77.0.2"), peer_down, peer_up_for_datagrams),
        row("ping v6", ping("fd77::2"), peer_down, peer_up_for_datagrams),
        row("link", CheckKind::Link { interface: "eth0".into() }, peer_down, peer_up),
        row(
            "address",
            CheckKind::Address { address: ADDRESS.parse().expect("an address") },
            no_address,
            address,
        ),
        row("module here", module(ModuleAt::Here), |world| world.module(false), |world| world.module(true)),
        row(
            "module there",
            module(ModuleAt::Node(NodeId(1))),
            |world| world.other(false),
            |world| world.other(true),
        ),
        row("module by URL", module(health), other("HTTP/1.1 503 Down\r\nContent-Length: 0\r\n\r\n"), page),
        row("custom", CheckKind::Custom { run: custom, reports: false }, no_file, file),
        row("witness", CheckKind::Witness(Witness::Node(NodeId(1))), |_| Ok(()), |world| world.other(true)),
    ]
}

fn row(
    name: &'static str,
    kind: CheckKind,
    gone: impl FnMut(&mut World) -> Result<()> + 'static,
    back: impl FnMut(&mut World) -> Result<()> + 'static,
) -> Row {
    Row { name, kind, gone: Box::new(gone), back: Box::new(back) }
}

fn check(name: &str, kind: CheckKind) -> Check {
    Check {
        name: name.to_owned(),
        kind,
        interval: INTERVAL,
        timeout: TIMEOUT,
        rise: 1,
        fall: 1,
        when: When::Up,
        action: Action::Restart,
        services: Vec::new(),
        share_when_down: 0,
    }
}

/// `sleep 7654321`, of which there is no other.
fn process() -> CheckKind {
    let arguments = Some("^sleep 7654[0-9]{3}$".to_owned());
    CheckKind::Process { name: "sleep".into(), arguments, at_least: 1, at_most: None }
}

/// Checks, and what they found.
struct Watched {
    handle: Handle,
    findings: mpsc::Receiver<Finding>,
    said: String,
}

impl Watched {
    fn start(checks: &[Check], world: &World) -> Self {
        let (sender, findings) = mpsc::channel(16);
        let handle = check::start(checks, world.surroundings(), sender);
        let watched = Self { handle, findings, said: String::new() };
        watched.active_first(true);
        watched
    }

    fn active_first(&self, active: bool) {
        self.handle.set_active(vec![active]);
    }

    /// How long it took until the first check was `wanted`.
    async fn until(&mut self, wanted: ResourceState) -> Result<Duration> {
        let begun = clock::now();
        loop {
            let finding = timeout(SEEN_WITHIN, self.findings.recv()).await;
            let finding = finding.with_context(|| format!("{wanted:?}; {:?}", self.handle.infos()))?;
            let finding = finding.context("the checks have ended")?;
            self.said = finding.output;
            if finding.check == 0 && finding.state == wanted {
                return Ok(clock::now().since(begun));
            }
        }
    }
}

/// What the checks look at.
struct World {
    neighbour: Neighbour,
    programs: Vec<(String, Child)>,
    server: Option<Server>,
    modules: watch::Sender<Arc<Vec<ModuleReport>>>,
    remotes: watch::Sender<Arc<Vec<Remote>>>,
}

impl World {
    fn new() -> Result<Self> {
        let (modules, remotes) = (watch::Sender::default(), watch::Sender::default());
        Ok(Self { neighbour: Neighbour::new()?, programs: Vec::new(), server: None, modules, remotes })
    }

    fn surroundings(&self) -> Surroundings {
        Surroundings {
            module: "web".into(),
            node: "n1".into(),
            directory: SCRATCH.into(),
            variables: vec![("COLOUR".into(), "blue".into())],
            modules: self.modules.subscribe(),
            remotes: self.remotes.subscribe(),
            names: vec!["n1".into(), "n2".into()],
        }
    }

    fn start(&mut self, name: &str) -> Result<()> {
        let program = Command::new("sleep").arg("7654321").spawn().context("cannot run sleep")?;
        self.programs.push((name.to_owned(), program));
        Ok(())
    }

    fn end(&mut self, name: &str) {
        let Some(place) = self.programs.iter().position(|(known, _)| known == name) else { return };
        let (_, mut program) = self.programs.remove(place);
        // Not waited for before somebody had to see it.
        let _gone = program.kill();
        std::thread::spawn(move || program.wait());
    }

    fn serve(&mut self, answer: &'static str) -> Result<()> {
        self.server = None;
        self.server = Some(Server::start(answer)?);
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        self.server = None;
        Ok(())
    }

    fn module(&mut self, is_ready: bool) -> Result<()> {
        self.modules.send_replace(Arc::new(vec![report(is_ready)]));
        Ok(())
    }

    fn other(&mut self, is_ready: bool) -> Result<()> {
        let said = (Some(clock::now()), vec![report(is_ready)]);
        self.remotes.send_replace(Arc::new(vec![Remote::default(), said]));
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for (_, program) in &mut self.programs {
            let _gone = program.kill();
            let _reaped = program.wait();
        }
    }
}

fn report(is_ready: bool) -> ModuleReport {
    let state = if is_ready { ModuleState::new(Role::Up, Status::Ready) } else { ModuleState::STOPPED };
    ModuleReport { module: "base".into(), state, cause: None, starts: 1, resources: Vec::new() }
}

/// Gives everybody the same answer; none at all when it is empty.
struct Server {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(answer: &'static str) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 8077))?;
        listener.set_nonblocking(true)?;
        let ends = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&ends);
        let serve = move || {
            let mut silent = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                let Ok((mut client, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(2));
                    continue;
                };
                if answer.is_empty() {
                    silent.push(client);
                    continue;
                }
                let _limited = client.set_read_timeout(Some(Duration::from_millis(200)));
                let _asked = client.read(&mut [0; 1024]);
                let _answered = client.write_all(answer.as_bytes());
            }
        };
        Ok(Self { ends, thread: Some(std::thread::spawn(serve)) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}

/// Another machine, at the other end of a cable to eth0.
struct Neighbour(Child);

impl Neighbour {
    fn new() -> Result<Self> {
        let it = Self(Command::new("unshare").args(["-n", "sleep", "86400"]).spawn()?);
        let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net"));
        let pid = it.0.id().to_string();
        lab::wait_until("the neighbour has its network", Duration::from_secs(5), || {
            network(&pid).is_ok_and(|its| network("thread-self").is_ok_and(|ours| its != ours))
        })?;
        ip(&format!("link add eth0 type veth peer name eth0 netns {pid}"))?;
        ip("link set eth0 up")?;
        ip("address add 10.77.0.9/24 dev eth0")?;
        ip("address add fd77::9/64 dev eth0 nodad")?;
        it.ip("address add 10.77.0.2/24 dev eth0")?;
        Ok(it)
    }

    fn ip(&self, line: &str) -> Result<()> {
        let pid = self.0.id().to_string();
        let status = Command::new("nsenter").args(["-t", &pid, "-n", "ip"]).args(line.split(' ')).status()?;
        ensure!(status.success(), "ip {line}: {status}");
        Ok(())
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn peer_down(world: &mut World) -> Result<()> {
    world.neighbour.ip("link set eth0 down")
}

/// IPv6 addresses were lost with the link.
fn peer_up(world: &mut World) -> Result<()> {
    world.neighbour.ip("link set eth0 up")?;
    world.neighbour.ip("address replace fd77::2/64 dev eth0 nodad")
}

/// From now on without privileges.
fn peer_up_for_datagrams(world: &mut World) -> Result<()> {
    sysctl("net.ipv4.ping_group_range", "0 2147483647")?;
    peer_up(world)
}

fn address(_: &mut World) -> Result<()> {
    ip(&format!("address replace {ADDRESS}/24 dev eth0")).map(drop)
}

fn no_address(_: &mut World) -> Result<()> {
    ip(&format!("address del {ADDRESS}/24 dev eth0")).map(drop)
}

fn file(_: &mut World) -> Result<()> {
    std::fs::write(Path::new(SCRATCH).join("up"), "").context("cannot write the file")
}

fn no_file(_: &mut World) -> Result<()> {
    std::fs::remove_file(Path::new(SCRATCH).join("up")).context("cannot remove the file")
}

/// Processes of this machine with this argument.
fn running(argument: &str) -> Result<usize> {
    let output =
        Command::new("pgrep").args(["-fx", &format!("sleep {argument}")]).stdin(Stdio::null()).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().count())
}

async fn until(what: &str, holds: impl Fn() -> bool) -> Result<()> {
    for _ in 0..100 {
        if holds() {
            return Ok(());
        }
        sleep(Duration::from_millis(20)).await;
    }
    bail!("{what}: not within 2 s")
}

/// In a network of its own.
fn story<F: Future<Output = Result<()>>>(story: impl FnOnce() -> F + Send) -> Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    in_new_namespace(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(story())
    })
}
