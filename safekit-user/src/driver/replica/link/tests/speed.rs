//! How fast it is: figures for people, on a machine that does nothing else.
//! `cargo test -p safekit --lib link::tests::speed -- --ignored --nocapture`

use super::*;
use crate::driver::clock;

const SPAN: Duration = Duration::from_secs(2);

#[test]
#[ignore = "it measures and decides nothing"]
fn round_trips_and_throughput() {
    let (mut one, two) = pair(90, |_| {});
    let End { port, link, mut incoming } = two;
    let echo = std::thread::spawn(move || {
        while let Ok((frame, contents)) = incoming.frame() {
            if contents.is_empty() {
                link.queue(&frame, b"");
                link.kick();
            }
        }
        drop(port);
    });
    let alive = Frame::Message(Message::Alive);
    let (began, mut trips) = (clock::now(), 0_u64);
    while clock::now().since(began) < SPAN {
        one.link.queue(&alive, b"");
        one.link.kick();
        one.incoming.frame().expect("the echo");
        trips += 1;
    }
    println!("{:.0} round trips a second", trips as f64 / clock::now().since(began).as_secs_f64());

    let contents = vec![5; 1 << 20];
    let (began, mut mebibytes) = (clock::now(), 0_u64);
    while clock::now().since(began) < SPAN {
        one.link.queue(&write(mebibytes), &contents);
        one.link.kick();
        one.link.wait_for_room(4 << 20, PATIENCE).expect("it is read");
        mebibytes += 1;
    }
    one.link.queue(&alive, b"");
    one.link.kick();
    one.incoming.frame().expect("the echo, after all that came before");
    println!("{:.0} MiB a second one way", mebibytes as f64 / clock::now().since(began).as_secs_f64());
    drop(one);
    echo.join().expect("it ends");
}
