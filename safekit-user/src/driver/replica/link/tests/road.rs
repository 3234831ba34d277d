//! A road between the nodes that breaks: after so many bytes it ends, or turns a bit.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};

use super::*;

#[derive(Clone, Copy, Debug)]
enum Fault {
    Cut,
    Bit,
}

/// Forwards the first connection; the fault is on the way from the node that dials.
fn road(at: SocketAddr, to: SocketAddr, fault: Fault, after: usize) {
    let listener = TcpListener::bind(at).expect("a road");
    std::thread::spawn(move || {
        let (near, _) = listener.accept().expect("somebody comes");
        drop(listener);
        let far = TcpStream::connect(to).expect("somebody is there");
        let back = (far.try_clone().expect("a handle"), near.try_clone().expect("a handle"));
        let returning = std::thread::spawn(move || carry(&back.0, &back.1, Fault::Cut, usize::MAX));
        carry(&near, &far, fault, after);
        returning.join().expect("it ends");
    });
}

fn carry(mut from: &TcpStream, mut to: &TcpStream, fault: Fault, after: usize) {
    let mut bytes = [0; 4096];
    let mut carried = 0;
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        let mut bytes = &mut bytes[..length];
        if (carried..carried + length).contains(&after) {
            match fault {
                Fault::Cut => bytes = &mut bytes[..after - carried],
                Fault::Bit => bytes[after - carried] ^= 1,
            }
        }
        carried += length;
        if to.write_all(bytes).is_err() || (carried > after && matches!(fault, Fault::Cut)) {
            break;
        }
    }
    let _ended = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// Until the road breaks, each frame arrives; after it, none that is not one; and both sides find out.
fn break_road(test: u8, fault: Fault, after: usize) -> Broken {
    let over = SocketAddr::from(([127, 77, test, 9], 4898));
    road(over, address(test, N2), fault, after);
    let two = Port::open(setup(test, N2, &KEY)).expect("a port");
    until("a listener", || TcpStream::connect(address(test, N2)).is_ok());
    let one = Port::open(Setup { theirs: over, ..setup(test, N1, &KEY) }).expect("a port");
    let (link, mut incoming) = one.next(1, PATIENCE).expect("a connection");
    let (_link_two, mut incoming_two) = two.next(1, PATIENCE).expect("a connection");
    for position in 1.. {
        link.queue(&write(position), &bulk(position));
        link.kick();
        let away = link.sent_bytes() as usize + link.queued_bytes();
        if link.is_closed() || away > after + (100 << 10) {
            break;
        }
    }
    let (count, broken) = read_in_order(&mut incoming_two);
    assert!(count > 0, "{fault:?} after {after}: nothing arrived before it");
    assert!(incoming.frame().is_err());
    assert!(link.is_closed());
    broken
}

#[test]
fn a_road_that_ends_anywhere_is_an_end_after_whole_frames() {
    story(|| {
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..20 {
            let broken = break_road(20, Fault::Cut, random.usize(20_000..200_000));
            assert!(matches!(broken, Broken::Cut | Broken::Network(_)), "{broken}");
        }
    });
}

#[test]
fn a_bit_that_turns_anywhere_is_noticed() {
    story(|| {
        let mut random = fastrand::Rng::with_seed(12);
        for _ in 0..20 {
            let broken = break_road(21, Fault::Bit, random.usize(20_000..200_000));
            assert!(matches!(broken, Broken::Tls(_)), "{broken}");
        }
    });
}
