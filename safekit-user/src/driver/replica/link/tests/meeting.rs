//! How connections are made, and who is sent away.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use rustls::{ClientConnection, StreamOwned};

use super::*;
use crate::driver::cluster::tls;
use crate::wire::replica::opening::Opening;

fn open(setup: Setup) -> Port {
    Port::open(setup).expect("a port")
}

/// A stranger who finds the listener.
fn knock(test: u8) -> TcpStream {
    let mut found = None;
    until("a listener", || {
        found = TcpStream::connect(address(test, N2)).ok();
        found.is_some()
    });
    let stream = found.expect("it was found");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

fn refused(port: &Port, count: u64, expected: &str) {
    until(expected, || {
        let refusals = port.refusals();
        refusals.connections >= count && refusals.last.is_some_and(|last| last.contains(expected))
    });
}

#[test]
fn strangers_are_sent_away_and_the_node_comes_in() {
    story(|| {
        let two = open(setup(30, N2, &KEY));
        let mut stranger = knock(30);
        stranger.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("it takes bytes");
        let _ended = stranger.read_to_end(&mut Vec::new());
        refused(&two, 1, "does not speak as a node");
        let silent: Vec<_> = (0..20).map(|_| knock(30)).collect();
        refused(&two, 2, "too many");
        let one = open(setup(30, N1, &KEY));
        let _ends = (one.next(1, PATIENCE).expect("in the end"), two.next(1, PATIENCE).expect("in the end"));
        until("each of them", || two.refusals().connections > 20);
        drop(silent);
    });
}

#[test]
fn another_cluster_key_is_named_on_both_sides() {
    story(|| {
        let (two, one) = (open(setup(31, N2, &KEY)), open(setup(31, N1, &OTHER_KEY)));
        knock(31);
        for (name, why) in reasons(&one, &two) {
            assert!(why.contains("another cluster key"), "{name}: {why}");
        }
        assert!(one.refusals().connections >= 1 && two.refusals().connections >= 1);
    });
}

#[test]
fn another_module_or_configuration_is_named_on_both_sides() {
    type Change = fn(Setup) -> Setup;
    let cases: [(u8, Change, &str); 3] = [
        (32, |setup| Setup { module: "mail".to_owned(), ..setup }, "module \"mail\""),
        (33, |setup| Setup { directories: 3, ..setup }, "3 directories"),
        (34, |setup| Setup { cluster: "bar".to_owned(), ..setup }, "cluster \"bar\""),
    ];
    story(move || {
        for (test, change, expected) in cases {
            let (two, one) = (open(setup(test, N2, &KEY)), open(change(setup(test, N1, &KEY))));
            knock(test);
            let reasons = reasons(&one, &two);
            assert!(reasons["web2"].contains(expected), "{reasons:?}");
            assert!(reasons["web1"].contains("and this node"), "{reasons:?}");
        }
    });
}

/// With the right key, and saying anything.
fn say(test: u8, me: NodeId, opening: &Opening) -> StreamOwned<ClientConnection, TcpStream> {
    let config = identities(&KEY, me).dial(N2);
    let client = ClientConnection::new(config, tls::server_name()).expect("a client");
    let mut stream = StreamOwned::new(client, knock(test));
    // Where the keys differ, there is no way to say it.
    let _unsaid = stream.write_all(&opening.encode().expect("it is short"));
    stream
}

#[test]
fn a_node_that_says_what_does_not_fit_is_refused_by_what_it_is() {
    story(|| {
        let two = open(setup(35, N2, &KEY));
        let right = Opening::new("shop", "m35", "web1", 2, 0);
        let cases: [(NodeId, Opening, &str); 4] = [
            (N1, Opening { version: 9, ..right.clone() }, "version 9"),
            (N1, Opening { directory: 2, ..right.clone() }, "directory number 2"),
            (N1, Opening { node: "web3".to_owned(), ..right.clone() }, "\"web3\""),
            (N3, right, "not the other one of this mirror"),
        ];
        for (count, (me, opening, expected)) in (1..).zip(cases) {
            let mut stream = say(35, me, &opening);
            let _ended = stream.read_to_end(&mut Vec::new());
            refused(&two, count, expected);
        }
        assert!(two.next(0, Duration::ZERO).is_err());
    });
}

#[test]
fn frames_that_come_with_the_opening_are_not_lost() {
    story(|| {
        let two = open(setup(36, N2, &KEY));
        let mut stream = say(36, N1, &Opening::new("shop", "m36", "web1", 2, 1));
        let mut frames = Vec::new();
        crate::wire::replica::encode(&write(1), &bulk(1), &mut frames);
        stream.write_all(&frames).expect("it takes bytes");
        let (_link, mut incoming) = two.next(1, PATIENCE).expect("it fits");
        assert!(stream.read(&mut [0; 4096]).expect("its opening") > 4);
        assert_eq!(incoming.frame().expect("a frame").0, write(1));
        drop(stream);
        assert_eq!(incoming.frame(), Err(Broken::Cut), "no farewell, no clean end");
    });
}

#[test]
fn a_newer_connection_takes_the_place_of_the_older_one_of_its_directory_alone() {
    story(|| {
        let (one, two) = pair(37, |_| {});
        let other = (one.port.next(0, PATIENCE).expect("one"), two.port.next(0, PATIENCE).expect("one"));
        let newer = (one.port.next(1, PATIENCE).expect("one"), two.port.next(1, PATIENCE).expect("one"));
        let replaced = Some(Broken::Here("a newer connection takes its place".to_owned()));
        assert_eq!(one.link.end(), replaced);
        until("the other side knows", || two.link.is_closed());
        for (link, _) in [&other.0, &other.1, &newer.0, &newer.1] {
            assert_eq!(link.end(), None);
        }
    });
}

#[test]
fn a_change_of_the_cluster_key_counts_for_the_next_connection() {
    story(|| {
        let key = Arc::new(Mutex::new(KEY));
        let [two, one] = [N2, N1].map(|me| {
            let key = Arc::clone(&key);
            let now = move || Ok(identities(&key.lock().expect("nobody panics with it"), me));
            open(Setup { identities: Box::new(now), ..setup(38, me, &KEY) })
        });
        let first = (one.next(1, PATIENCE).expect("by the old key"), two.next(1, PATIENCE).expect("by it"));
        *key.lock().expect("nobody panics with it") = OTHER_KEY;
        assert_eq!((first.0.0.end(), first.1.0.end()), (None, None), "what is there goes on");
        let _second = (one.next(1, PATIENCE).expect("by the new key"), two.next(1, PATIENCE).expect("by it"));
        let mut old = say(38, N1, &Opening::new("shop", "m38", "web1", 2, 1));
        let _ended = old.read_to_end(&mut Vec::new());
        refused(&two, 1, "another cluster key");
    });
}

#[test]
fn a_node_without_its_address_says_so_and_listens_when_it_is_there() {
    story(|| {
        let in_the_way = TcpListener::bind(address(39, N2)).expect("an address");
        let (two, one) = (open(setup(39, N2, &KEY)), open(setup(39, N1, &KEY)));
        let short = Duration::from_millis(300);
        let why = two.next(1, short).expect_err("it cannot listen").0;
        assert!(why.contains("cannot listen at 127.77.39.2:4898"), "{why}");
        drop(in_the_way);
        let _ends = (one.next(1, PATIENCE).expect("later"), two.next(1, PATIENCE).expect("later"));
        let nowhere = SocketAddr::from(([192, 0, 2, 1], 0));
        let three = open(Setup { own: nowhere, ..setup(39, N1, &KEY) });
        let why = three.next(1, short).expect_err("that is nobody's address").0;
        assert!(why.contains("does not have its address 192.0.2.1"), "{why}");
    });
}

#[test]
fn a_port_that_is_closed_lets_everybody_go() {
    story(|| {
        let (one, two) = pair(40, |_| {});
        let silent = knock(40);
        let End { port, link, mut incoming } = two;
        let port = Arc::new(port);
        let waiting = Arc::clone(&port);
        let next = std::thread::spawn(move || waiting.next(0, PATIENCE).expect_err("nobody comes").0);
        let reading = std::thread::spawn(move || incoming.frame().map(|_| ()).expect_err("it is closed"));
        port.close();
        let ends_here = "the module ends here".to_owned();
        assert_eq!(next.join().expect("it returns"), ends_here);
        assert_eq!(reading.join().expect("it returns"), Broken::Here(ends_here.clone()));
        assert_eq!(link.end(), Some(Broken::Here(ends_here)));
        assert!(port.next(1, PATIENCE).is_err());
        drop((link, port, silent, one));
        until("no thread", || threads(40) == 0);
    });
}
