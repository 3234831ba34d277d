//! The filter is replaced under live traffic: no connection notices, and the stack sees no frame that it should not.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::{self, Scope};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use safekit::config::Balance;
use safekit::driver::datapath::{self, Datapath, ModeChoice, Plan};
use safekit::engine::farm::Table;
use safekit::types::{Bucket, BucketBits, Instant};
use safekit_ebpf::abi::{self, BUCKETS};
use safekit_ebpf::verdict::Reason;
use safekit_tests::fixture::{GROUP, HASH_KEY, OWN_MAC, PORT_CONNECTION, VIP, plan};
use safekit_tests::netns::{SCRATCH, in_new_namespace, ip, sysctl};
use safekit_tests::packets::{ACK, ethernet};
use safekit_tests::rows::CLIENT;
use safekit_tests::wire::Wire;

const REPLACEMENTS: usize = 20;
const CONNECTIONS: u16 = 12;
const FIRST_PORT: u16 = 40_000;
const FAR: Instant = Instant(u64::MAX / 2);

fn pins() -> PathBuf {
    Path::new(SCRATCH).join("pins")
}

fn pinned(plan: &Plan) -> Result<Datapath> {
    Ok(Datapath::load(plan, Some(&pins()), ModeChoice::Auto)?)
}

#[test]
fn twenty_takeovers_under_traffic_break_no_connection_and_let_nothing_through() -> Result<()> {
    in_new_namespace(|| {
        node()?;
        let listener = TcpListener::bind((VIP, PORT_CONNECTION))?;
        let mut datapath = pinned(&plan())?;
        open(&mut datapath)?;
        let course = Course::default();
        thread::scope(|scope| {
            // However this ends, the threads end too.
            let _end = EndOnDrop(&course.ended);
            let client = Client::start(scope, &course)?;
            serve(scope, &listener, &course)?;
            client.ready.recv_timeout(Duration::from_secs(10)).context("the client has no connections")?;
            ensure!(resets()? == 0, "connecting caused no reset");
            for round in 0..REPLACEMENTS {
                let before = course.exchanged.load(Ordering::Relaxed);
                let next = pinned(&plan())?;
                // The old life ends a moment later, as a daemon that is replaced would.
                drop(std::mem::replace(&mut datapath, next));
                // Until the tables come, connections go by their sockets.
                course.wait_for(before + 200).with_context(|| format!("after replacement {round}"))?;
                open(&mut datapath)?;
            }
            let before = course.exchanged.load(Ordering::Relaxed);
            course.wait_for(before + 1000)?;
            ensure!(course.broken.load(Ordering::Relaxed) == 0, "connections broke");
            ensure!(course.strays.load(Ordering::Relaxed) > 1000, "foreign frames came all the time");
            ensure!(resets()? == 0, "the stack answered {} frames of foreign buckets", resets()?);
            Ok(())
        })?;
        datapath.detach()?;
        Ok(())
    })
}

/// The daemon has gone and its filter works on: connections live, new ones have to wait for the next life.
#[test]
fn a_filter_left_behind_keeps_connections_and_takes_no_new_one() -> Result<()> {
    in_new_namespace(|| {
        node()?;
        let listener = TcpListener::bind((VIP, PORT_CONNECTION))?;
        let mut datapath = pinned(&plan())?;
        open(&mut datapath)?;
        let course = Course::default();
        thread::scope(|scope| {
            let _end = EndOnDrop(&course.ended);
            let client = Client::start(scope, &course)?;
            serve(scope, &listener, &course)?;
            client.ready.recv_timeout(Duration::from_secs(10)).context("the client has no connections")?;
            let shared = datapath.shared_counters();
            datapath.leave_pinned()?;
            let before = course.exchanged.load(Ordering::Relaxed);
            course.wait_for(before + 1000)?;
            let opening = |counters: &datapath::Counters| -> Result<u64> {
                let all = counters.read()?;
                Ok(all.iter().filter(|it| it.reason == Reason::Lease).map(|it| it.packets).sum())
            };
            client.knock.send(())?;
            for _ in 0..200 {
                if opening(&shared)? > 0 {
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
            ensure!(opening(&shared)? > 0, "a new connection is refused by the lease");
            pinned(&plan())?.detach()?;
            Ok(())
        })
    })
}

#[test]
fn names_follow_the_new_life_and_nothing_of_the_old_one_stays() -> Result<()> {
    in_new_namespace(|| {
        node()?;
        ip("link add eth9 type veth peer name far9")?;
        ip("link set eth9 up")?;
        let mut wider = plan();
        wider.virtual_ips[0].interface = "eth9".into();
        let first = pinned(&wider)?;
        let names = |prefix: &str| -> Result<Vec<String>> {
            let entries = std::fs::read_dir(pins())?;
            let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
            let mut names = names.collect::<Result<Vec<_>>>()?;
            names.retain(|name| name.starts_with(prefix));
            names.sort();
            Ok(names)
        };
        assert_eq!(names("link-")?, ["link-generic-eth0", "link-generic-eth9"]);
        assert_eq!(names("guard-")?, ["guard-eth0", "guard-eth9"]);
        drop(first);

        // eth9 leaves the plan, eth0 has another name, and eth1 vanishes while nobody looks.
        ip("link set eth0 down")?;
        ip("link set eth0 name port0")?;
        ip("link set port0 up")?;
        let mut narrower = plan();
        narrower.virtual_ips.iter_mut().for_each(|vip| {
            vip.interface = if vip.interface == "eth0" { "port0" } else { "eth1" }.into();
        });
        let second = pinned(&narrower)?;
        assert_eq!(names("link-")?, ["link-generic-eth1", "link-generic-port0"]);
        ensure!(!ip("link show eth9")?.contains("xdp"), "an interface that left the plan has no filter");
        assert_eq!(std::fs::read_link(pins().join("ABI"))?, Path::new(&abi::ABI_VERSION.to_string()));
        assert_eq!(names("new-")?, Vec::<String>::new());
        drop(second);

        ip("link delete eth1")?;
        ip("link add eth1 type veth peer name far1")?;
        let third = pinned(&narrower)?;
        ensure!(ip("link show eth1")?.contains("xdp"), "the interface that came back has a filter");
        third.detach()?;
        assert_eq!((names("link-")?, names("guard-")?, names("ABI")?), Default::default());
        Ok(())
    })
}

/// eth0 is the node's, with the virtual IP on lo; far0 is for the client. eth1 is there for the plan.
fn node() -> Result<()> {
    let own = mac(OWN_MAC);
    for line in [
        "link add eth0 type veth peer name far0".to_owned(),
        "link add eth1 type veth peer name far1".to_owned(),
        format!("link set eth0 address {own}"),
        "link set eth0 up".to_owned(),
        "link set eth1 up".to_owned(),
        format!("address add {VIP}/32 dev lo"),
        "address add 10.99.0.2/24 dev eth0".to_owned(),
    ] {
        ip(&line)?;
    }
    // Asking for the client under the virtual IP would bring an answer that the filter drops.
    sysctl("net.ipv4.conf.eth0.arp_announce", "2")?;
    sysctl("net.ipv4.conf.eth0.arp_ignore", "1")
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// The client's connections are ours, all other buckets are foreign.
fn open(datapath: &mut Datapath) -> Result<()> {
    let table = Table { mine: of_the_client(), transitional: BucketBits::none(BUCKETS) };
    datapath.write_table(GROUP, &table)?;
    Ok(datapath.set_lease(FAR)?)
}

fn of_the_client() -> BucketBits {
    let mut mine = BucketBits::none(BUCKETS);
    for port in FIRST_PORT..=FIRST_PORT + CONNECTIONS {
        mine.insert(bucket(port));
    }
    mine
}

fn bucket(port: u16) -> Bucket {
    datapath::bucket(HASH_KEY, Balance::Connection, CLIENT.into(), port)
}

/// RST segments that this namespace's stack has sent.
fn resets() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp")?;
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next().context("no names")?, lines.next().context("no values")?);
    let place = names.split_whitespace().position(|name| name == "OutRsts").context("no OutRsts")?;
    Ok(values.split_whitespace().nth(place).context("no value")?.parse()?)
}

#[derive(Default)]
struct Course {
    exchanged: AtomicU64,
    broken: AtomicU64,
    strays: AtomicU64,
    ended: AtomicBool,
}

impl Course {
    fn wait_for(&self, exchanges: u64) -> Result<()> {
        for _ in 0..1000 {
            if self.exchanged.load(Ordering::Relaxed) >= exchanges {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(5));
        }
        anyhow::bail!("traffic stands still")
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Echoes what comes on each connection.
fn serve<'a>(scope: &'a Scope<'a, '_>, listener: &TcpListener, course: &'a Course) -> Result<()> {
    let listener = listener.try_clone()?;
    listener.set_nonblocking(true)?;
    scope.spawn(move || {
        while !course.has_ended() {
            let Ok((mut connection, _)) = listener.accept() else {
                thread::sleep(Duration::from_millis(2));
                continue;
            };
            scope.spawn(move || {
                let _set = connection.set_nonblocking(false);
                let _set = connection.set_read_timeout(Some(Duration::from_secs(10)));
                let mut buffer = [0; 64];
                while connection.read_exact(&mut buffer).is_ok() && connection.write_all(&buffer).is_ok() {}
            });
        }
    });
    Ok(())
}

struct Client {
    /// All connections stand.
    ready: mpsc::Receiver<()>,
    /// Asks for one more connection, which nobody waits for.
    knock: mpsc::Sender<()>,
}

impl Client {
    /// In a namespace of its own, which far0 is moved to.
    fn start<'a>(scope: &'a Scope<'a, '_>, course: &'a Course) -> Result<Self> {
        let (ready_sender, ready) = mpsc::channel();
        let (knock, knocks) = mpsc::channel();
        let (born, moved_here) = mpsc::channel();
        let (moved, arrived) = mpsc::channel();
        scope.spawn(move || {
            // SAFETY: the network namespace changes for this thread only.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("a namespace for the client");
            born.send(rustix::thread::gettid().as_raw_nonzero().get()).expect("the test waits");
            arrived.recv().expect("far0 has been moved");
            client(scope, course, &ready_sender, &knocks).expect("the client's world");
        });
        let thread = moved_here.recv_timeout(Duration::from_secs(5))?;
        ip(&format!("link set far0 netns {thread}"))?;
        moved.send(())?;
        Ok(Self { ready, knock })
    }
}

fn client<'a>(
    scope: &'a Scope<'a, '_>,
    course: &'a Course,
    ready: &mpsc::Sender<()>,
    knocks: &mpsc::Receiver<()>,
) -> Result<()> {
    ip(&format!("address add {CLIENT}/24 dev far0"))?;
    ip("link set far0 up")?;
    // Its own MAC, as with directed delivery: without a filter the stack would take every frame.
    ip(&format!("neigh add {VIP} lladdr {} dev far0 nud permanent", mac(OWN_MAC)))?;
    for place in 0..CONNECTIONS {
        let connection = connect(FIRST_PORT + place)?;
        scope.spawn(move || exchange(connection, place, course));
    }
    let wire = Wire::on("far0")?;
    ready.send(())?;
    let mine = of_the_client();
    let foreign = (50_000..=u16::MAX).filter(|port| !mine.contains(bucket(*port)));
    for port in foreign.cycle().take_while(|_| !course.has_ended()) {
        let stray = ethernet(OWN_MAC).ipv4(CLIENT, VIP).tcp_numbered(port, PORT_CONNECTION, ACK, 1, 1);
        wire.send(&stray.for_a_stack())?;
        course.strays.fetch_add(1, Ordering::Relaxed);
        if knocks.try_recv().is_ok() {
            scope.spawn(|| connect(FIRST_PORT + CONNECTIONS).is_err());
        }
        thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}

fn connect(port: u16) -> Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let end = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&end, &SocketAddr::from((CLIENT, port)))?;
    rustix::net::sockopt::set_socket_timeout(
        &end,
        rustix::net::sockopt::Timeout::Send,
        Some(Duration::from_secs(2)),
    )?;
    connect(&end, &SocketAddr::from((VIP, PORT_CONNECTION)))?;
    let stream = TcpStream::from(end);
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(stream)
}

fn exchange(mut connection: TcpStream, place: u16, course: &Course) {
    let mut count = 0_u64;
    while !course.has_ended() {
        count += 1;
        let mut question = [place as u8; 64];
        question[..8].copy_from_slice(&count.to_le_bytes());
        let mut answer = [0; 64];
        let answered = connection.write_all(&question).is_ok() && connection.read_exact(&mut answer).is_ok();
        if !answered || answer != question {
            course.broken.fetch_add(1, Ordering::Relaxed);
            return;
        }
        course.exchanged.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(1));
    }
}
