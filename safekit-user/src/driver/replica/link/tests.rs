//! Two nodes on loopback addresses, and what can happen between them.

mod meeting;
mod road;
mod speed;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::config::Config;
use crate::driver::cluster::tls::Identities;
use crate::types::replica::{Acknowledge, ObjectId, Position};
use crate::types::{ClusterKey, NodeId};
use crate::wire::replica::{Message, Operation};

const KEY: ClusterKey = ClusterKey::new([7; 32]);
const OTHER_KEY: ClusterKey = ClusterKey::new([8; 32]);
const PATIENCE: Duration = Duration::from_secs(20);
const N1: NodeId = NodeId(0);
const N2: NodeId = NodeId(1);
const N3: NodeId = NodeId(2);

/// A test that hangs fails.
fn story(body: impl FnOnce() + Send + 'static) {
    let (done, finished) = channel();
    let thread = std::thread::spawn(move || {
        body();
        done.send(()).expect("somebody waits");
    });
    if finished.recv_timeout(PATIENCE * 3) == Err(RecvTimeoutError::Timeout) {
        panic!("it hangs");
    }
    if let Err(panicked) = thread.join() {
        std::panic::resume_unwind(panicked);
    }
}

fn identities(key: &ClusterKey, me: NodeId) -> Arc<Identities> {
    let node = |number| format!("    - {{ name: web{number}, addresses: {{ lan: 10.0.0.{number} }} }}\n");
    let nodes: String = (1..=3).map(node).collect();
    let text = format!(
        "cluster:\n  name: shop\n  networks: [{{ name: lan, port: 4899 }}]\n  nodes:\n{nodes}modules:\n  - name: www\n    \
         kind: farm\n    virtual_ips: [{{ address: 10.99.0.100, interface: eth0 }}]\n    rules: [{{ protocol: tcp, \
         port: 80 }}]\n"
    );
    let config: Config = crate::config::parse(&text, "farm.yaml").expect("a farm");
    Identities::of(std::slice::from_ref(key), &config, me)
}

/// Tests run side by side, each with a number of its own.
fn address(test: u8, node: NodeId) -> SocketAddr {
    SocketAddr::from(([127, 77, test, node.0 + 1], 4898))
}

/// web1 dials, web2 listens.
fn setup(test: u8, me: NodeId, key: &ClusterKey) -> Setup {
    let peer = NodeId(1 - me.0);
    let key = key.clone();
    Setup {
        cluster: "shop".to_owned(),
        module: format!("m{test}"),
        own_name: format!("web{}", me.0 + 1),
        peer_name: format!("web{}", peer.0 + 1),
        peer,
        own: address(test, me),
        theirs: address(test, peer),
        dials: me == N1,
        directories: 2,
        stall: PATIENCE,
        silence: PATIENCE,
        identities: Box::new(move || Ok(identities(&key, me))),
    }
}

struct End {
    port: Port,
    link: Link,
    incoming: Incoming,
}

/// Connected for directory 1. `change` is for both setups.
fn pair(test: u8, change: impl Fn(&mut Setup)) -> (End, End) {
    let [two, one] = [N2, N1].map(|node| {
        let mut setup = setup(test, node, &KEY);
        change(&mut setup);
        Port::open(setup).expect("a port")
    });
    let end = |port: Port| {
        let (link, incoming) = port.next(1, PATIENCE).expect("a connection");
        End { port, link, incoming }
    };
    let one = end(one);
    (one, end(two))
}

fn threads(test: u8) -> usize {
    let name = format!("link-m{test}\n");
    let tasks = std::fs::read_dir("/proc/self/task").expect("this process");
    tasks
        .filter(|task| {
            let comm = task.as_ref().map(|task| task.path().join("comm"));
            comm.is_ok_and(|comm| std::fs::read_to_string(comm).is_ok_and(|comm| comm == name))
        })
        .count()
}

fn write(position: u64) -> Frame {
    let operation = Operation::Write { object: ObjectId(7), offset: position };
    Frame::Operation { position: Position(position), acknowledge: Acknowledge::Disk, operation }
}

/// The contents of the write at this position: mostly little, now and then up to a mebibyte.
fn bulk(position: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(position);
    let length = if random.u8(..10) == 0 { random.usize(..=1 << 20) } else { random.usize(..3000) };
    let mut bytes = vec![position as u8; length];
    bytes.chunks_mut(1024).for_each(|chunk| chunk[0] = random.u8(..));
    bytes
}

fn read(incoming: &mut Incoming, position: u64) -> Result<(), Broken> {
    let (frame, contents) = incoming.frame()?;
    assert_eq!(frame, write(position));
    assert!(contents == bulk(position), "the contents of {position}");
    Ok(())
}

/// The frames 1, 2, 3 and so on until something else happens.
fn read_in_order(incoming: &mut Incoming) -> (u64, Broken) {
    let mut count = 0;
    loop {
        match read(incoming, count + 1) {
            Ok(()) => count += 1,
            Err(broken) => return (count, broken),
        }
    }
}

/// Several threads that change files: the order of the positions is that of the calls.
fn send_from_threads(link: &Link, frames: u64) {
    let next = Mutex::new(1);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let mut position = next.lock().expect("nobody panics with it");
                    if *position > frames {
                        return;
                    }
                    link.queue(&write(*position), &bulk(*position));
                    *position += 1;
                    drop(position);
                    link.kick();
                    link.wait_for_room(4 << 20, PATIENCE).expect("the other side reads");
                }
            });
        }
    });
    link.wait_for_room(1, PATIENCE).expect("the other side reads");
}

#[test]
fn all_frames_of_many_threads_arrive_in_their_order_both_ways_at_once() {
    story(|| {
        const FRAMES: u64 = 500;
        let (one, two) = pair(1, |_| {});
        let links = [one.link.clone(), two.link.clone()];
        let [mut one, mut two] = std::thread::scope(|scope| {
            let readers = [one, two].map(|mut end| {
                scope.spawn(move || {
                    (1..=FRAMES).for_each(|position| read(&mut end.incoming, position).expect("all arrive"));
                    end
                })
            });
            let senders = links.each_ref().map(|link| scope.spawn(|| send_from_threads(link, FRAMES)));
            for sender in senders {
                sender.join().expect("all sent");
            }
            readers.map(|reader| reader.join().expect("all in order"))
        });
        one.link.queue(&write(FRAMES + 1), &bulk(FRAMES + 1));
        one.link.kick();
        one.link.wait_for_room(1, PATIENCE).expect("the other side reads");
        one.link.close("the story ends");
        assert_eq!(read(&mut one.incoming, 0), Err(Broken::Here("the story ends".to_owned())));
        assert_eq!(read(&mut two.incoming, FRAMES + 1), Ok(()), "what was sent before the end is there");
        assert_eq!(read(&mut two.incoming, 0), Err(Broken::Closed));
        assert!(links[0].sent_bytes() > 10 << 20 && links[1].sent_bytes() > 10 << 20);
    });
}

/// Whoever kicks is an application's thread, and must come back whatever the other side does.
#[test]
fn a_reader_that_stops_keeps_nobody_but_whoever_waits_for_room_and_is_given_up() {
    const STALL: Duration = Duration::from_secs(5);
    story(|| {
        let (one, two) = pair(2, |setup| setup.stall = STALL);
        let link = one.link.clone();
        let (kicked, kicks) = channel();
        let kicking = std::thread::spawn(move || {
            for position in 1..=64 {
                link.queue(&write(position), &[1; 1 << 20]);
                link.kick();
                kicked.send(()).expect("somebody counts");
            }
        });
        for _ in 0..64 {
            kicks.recv_timeout(Duration::from_secs(1)).expect("no kick waits");
        }
        kicking.join().expect("all are queued");
        assert!(one.link.queued_bytes() > 16 << 20, "no socket takes as much");
        let short = Duration::from_millis(200);
        assert_eq!(one.link.wait_for_room(1 << 20, short), Err(Ended::NoProgress(short)));
        assert!(!one.link.is_closed(), "that alone is no end");
        let stalled = Broken::Stalled(STALL);
        assert_eq!(one.link.wait_for_room(1, PATIENCE), Err(Ended::Broken(stalled.clone())));
        assert_eq!(one.link.end(), Some(stalled));
        one.link.queue(&write(65), b"nothing");
        one.link.kick();
        assert_eq!(one.link.queued_bytes(), 0, "nothing is kept for nobody");
        drop(two);
    });
}

#[test]
fn silence_ends_a_connection() {
    story(|| {
        let silence = Duration::from_millis(300);
        let (mut one, two) = pair(3, |setup| setup.silence = silence);
        two.link.queue(&Frame::Message(Message::Alive), b"");
        two.link.kick();
        assert_eq!(one.incoming.frame(), Ok((Frame::Message(Message::Alive), &b""[..])));
        assert_eq!(one.incoming.frame(), Err(Broken::Silent(silence)));
        assert_eq!(one.link.end(), Some(Broken::Silent(silence)));
        drop(two);
    });
}

#[test]
fn a_frame_that_no_file_system_can_have_is_refused_and_counted() {
    story(|| {
        let (one, mut two) = pair(4, |_| {});
        let name = b"..".to_vec();
        one.link.queue(&write(1), &bulk(1));
        one.link.queue(&Frame::Place { object: ObjectId(7), parent: ObjectId::ROOT, name }, b"");
        one.link.kick();
        assert_eq!(read_in_order(&mut two.incoming), (1, Broken::Refused(Refused::Name)));
        assert_eq!(two.port.refusals().frames, 1);
        let End { mut incoming, .. } = one;
        assert!(incoming.frame().is_err(), "the other side has ended it");
    });
}

/// Nothing of it reaches the frames, and neither side waits for the other.
#[test]
fn keys_change_under_way() {
    story(|| {
        let (mut one, mut two) = pair(5, |_| {});
        for position in 1..=40 {
            if position % 4 == 0 {
                let changed = one.link.0.shared.tls().refresh_traffic_keys();
                changed.expect("the handshake is over");
                one.link.0.shared.kick_for_tls();
            }
            for (from, to) in [(&one.link, &mut two.incoming), (&two.link, &mut one.incoming)] {
                from.queue(&write(position), &bulk(position));
                from.kick();
                let (frame, contents) = to.frame().expect("it arrives");
                assert!(frame == write(position) && contents == bulk(position), "{position}");
            }
        }
    });
}

#[test]
fn what_has_arrived_is_told_without_waiting() {
    story(|| {
        let (one, mut two) = pair(6, |_| {});
        assert!(!two.incoming.has_more());
        (1..=3).for_each(|position| one.link.queue(&write(position), b"x"));
        one.link.kick();
        let more: Vec<bool> = (0..3)
            .map(|_| {
                two.incoming.frame().expect("it arrives");
                two.incoming.has_more()
            })
            .collect();
        assert_eq!(more, [true, true, false], "one record has all three");
    });
}

/// Each thread that waits for anything of a connection comes back when any other ends it, and none is left over.
#[test]
fn threads_that_close_at_once_agree_on_the_reason_and_leave_nobody_behind() {
    story(|| {
        let (one, two) = pair(7, |_| {});
        until("two writers and a listener", || threads(7) >= 3);
        let End { port, link, mut incoming } = one;
        (1..=32).for_each(|position| link.queue(&write(position), &[1; 1 << 20]));
        link.kick();
        let reading = std::thread::spawn(move || incoming.frame().map(|_| ()).expect_err("it is closed"));
        let waiting = {
            let link = link.clone();
            std::thread::spawn(move || link.wait_for_room(1, PATIENCE).expect_err("it is closed"))
        };
        let closing: Vec<_> = (0..4)
            .map(|number| {
                let link = link.clone();
                std::thread::spawn(move || link.close(&format!("by {number}")))
            })
            .collect();
        closing.into_iter().for_each(|thread| thread.join().expect("it closes"));
        let end = link.end().expect("it is closed");
        assert!(matches!(&end, Broken::Here(why) if why.starts_with("by ")), "{end}");
        assert_eq!(reading.join().expect("it ends"), end);
        assert_eq!(waiting.join().expect("it ends"), Ended::Broken(end));
        drop((link, port, two));
        until("no thread", || threads(7) == 0);
    });
}

fn until(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = crate::driver::clock::now() + PATIENCE;
    while !ready() {
        assert!(crate::driver::clock::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What each end says when it cannot have a connection.
fn reasons(one: &Port, two: &Port) -> BTreeMap<&'static str, String> {
    let short = Duration::from_secs(2);
    std::thread::scope(|scope| {
        let dialing = scope.spawn(|| one.next(1, short).expect_err("they do not fit").0);
        let listening = scope.spawn(|| two.next(1, short).expect_err("they do not fit").0);
        BTreeMap::from([
            ("web1", dialing.join().expect("it gives up")),
            ("web2", listening.join().expect("it gives up")),
        ])
    })
}

/// Although much is queued before it, and the socket of the other side is not read yet.
#[test]
fn the_other_side_is_told_why() {
    story(|| {
        let (one, mut two) = pair(61, |_| ());
        let mut position = 0;
        while one.link.queued_bytes() < 1 << 20 {
            position += 1;
            one.link.queue(&write(position), &bulk(position));
            one.link.kick();
        }
        one.link.part("the disk is full");
        assert_eq!(one.link.end(), Some(Broken::Here("the disk is full".to_owned())));
        one.link.queue(&write(position + 1), b"");
        let mut read = 0;
        let why = loop {
            match two.incoming.frame().expect("it is told before the end") {
                (Frame::Farewell { why }, _) => break why,
                (frame, contents) => {
                    read += 1;
                    assert_eq!((frame, contents), (write(read), &bulk(read)[..]));
                }
            }
        };
        assert_eq!(why, "the disk is full");
        assert!(read <= position);
        drop(two);
        let End { link, mut incoming, port } = one;
        assert_eq!(incoming.frame().map(|_| ()), Err(Broken::Here("the disk is full".to_owned())));
        drop((incoming, link, port));
        until("no thread is left", || threads(61) == 0);
    });
}

/// Who does not listen keeps nobody.
#[test]
fn a_farewell_that_nobody_hears_ends_by_itself() {
    story(|| {
        let (one, two) = pair(62, |_| ());
        for position in 1..200 {
            one.link.queue(&write(position), &vec![1; 1 << 20]);
        }
        one.link.kick();
        let began = crate::driver::clock::now();
        one.link.part("the disk is full");
        let End { link, mut incoming, port } = one;
        drop(link);
        assert_eq!(incoming.frame().map(|_| ()), Err(Broken::Here("the disk is full".to_owned())));
        drop((incoming, port));
        assert!(crate::driver::clock::now().since(began) < PATIENCE / 2);
        drop(two);
        until("no thread is left", || threads(62) == 0);
    });
}
