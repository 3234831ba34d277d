//! A node with the right key that speaks nonsense: whatever it says, the copy here is left as it is, and people can read
//! why the connection has ended.
//!
//! ```text
//!   this story, as node a ── Port, Link ──▶ safekit replica --node b
//! ```

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use safekit::config::key::read_ring;
use safekit::driver::clock;
use safekit::driver::cluster::tls::Identities;
use safekit::driver::replica::link::{Incoming, Link, Port, Setup};
use safekit::types::NodeId;
use safekit::types::replica::{Acknowledge, DataGeneration, MirrorRole, ObjectId, Position};
use safekit::wire::replica::{Copied, Copy, Copying, Entry, Frame, Kind, Message, Meta, Operation, VERSION};

use crate::stage::{MODULE, NODES, Options, PATIENCE, Stage, story};
use crate::trees;

const GENERATION: DataGeneration = DataGeneration(77);
const BELONGS: &str = "sent what does not belong here";
const NAME: &str = "frame was refused: a name is not one that a file can have";
const OWN: &str = "the name belongs to this program";
const SOMETHING: ObjectId = ObjectId(1_000_000);

/// How far the conversation goes before the nonsense begins.
#[derive(Clone, Copy, Debug)]
enum Until {
    Connected,
    /// The other side lets itself be overwritten.
    Overwriting,
    /// It follows.
    Following,
}

fn port(stage: &Stage) -> Result<Port> {
    let config = safekit::config::load(&stage.config(0))?;
    let ring = read_ring(&config.cluster.key_file)?;
    let identities = Identities::of(&ring.accepted(), &config, NodeId(0));
    let setup = Setup {
        cluster: config.cluster.name.clone(),
        module: MODULE.to_owned(),
        own_name: NODES[0].to_owned(),
        peer_name: NODES[1].to_owned(),
        peer: NodeId(1),
        own: "127.0.0.1:4900".parse()?,
        theirs: "127.0.0.2:4900".parse()?,
        dials: true,
        directories: 1,
        stall: Duration::from_secs(5),
        silence: Duration::from_secs(5),
        identities: Box::new(move || Ok(identities.clone())),
    };
    Ok(Port::open(setup)?)
}

fn hello(version: u32) -> Frame {
    let copy = Copy {
        generation: Some(GENERATION),
        parent: None,
        history: Vec::new(),
        half_copied: false,
        peer_out: true,
        led: true,
        distrusted: false,
        fresh_from: 16,
    };
    Frame::Message(Message::Hello { version, copy, leads: true, wants_to_lead: true })
}

fn entry(name: &[u8]) -> Entry {
    Entry {
        name: name.to_vec(),
        object: SOMETHING,
        kind: Kind { mode: 0o100_644, device: 0, target: Vec::new() },
    }
}

fn names(name: &[u8]) -> Frame {
    Frame::Copying(Copying::Names { directory: ObjectId::ROOT, entries: vec![entry(name)], last: true })
}

fn operation(position: u64, operation: Operation) -> Frame {
    Frame::Operation { position: Position(position), acknowledge: Acknowledge::Disk, operation }
}

fn create(name: &[u8]) -> Frame {
    let made = Operation::Create {
        parent: ObjectId::ROOT,
        entry: entry(name),
        meta: Meta { mode: 0o100_644, ..Meta::default() },
        attributes: Vec::new(),
    };
    operation(1, made)
}

fn rename(name: &[u8], new_name: &[u8]) -> Frame {
    let renamed = Operation::Rename {
        object: SOMETHING,
        parent: ObjectId::ROOT,
        name: name.to_vec(),
        new_parent: ObjectId::ROOT,
        new_name: new_name.to_vec(),
        replaced: None,
        exchanged: false,
    };
    operation(1, renamed)
}

/// What it is, when it is said, and what people read of it afterwards.
fn all() -> Vec<(&'static str, Until, &'static str, Frame)> {
    use Until::{Connected, Following, Overwriting};
    let write = |position, object| operation(position, Operation::Write { object, offset: 0 });
    let remove = Operation::Remove {
        parent: ObjectId::ROOT,
        name: b"..".to_vec(),
        object: ObjectId::ROOT,
        directory: true,
    };
    vec![
        ("a later version", Connected, "speaks version", hello(VERSION + 1)),
        ("an operation out of the blue", Connected, BELONGS, write(1, ObjectId::ROOT)),
        ("contents out of the blue", Connected, BELONGS, names(b"new")),
        (
            "an answer that nobody asked for",
            Connected,
            BELONGS,
            Frame::Copied(Copied::PassEnded { number: 1, lost: Vec::new() }),
        ),
        ("the end of what has not begun", Connected, BELONGS, Frame::Message(Message::Finished)),
        ("the name above, copied", Overwriting, NAME, names(b"..")),
        ("the directory itself, copied", Overwriting, NAME, names(b".")),
        ("an absolute name, copied", Overwriting, NAME, names(b"/etc/safekit-nonsense")),
        ("a way, copied", Overwriting, NAME, names(b"../../outside/copied")),
        ("no name, copied", Overwriting, NAME, names(b"")),
        ("a name with a zero, copied", Overwriting, NAME, names(b"a\0b")),
        ("a name of this program's own, copied", Overwriting, OWN, names(b".safekit")),
        ("a position ahead", Following, BELONGS, write(9, SOMETHING)),
        ("an object that nobody knows", Following, "is not known here", write(1, SOMETHING)),
        ("the directory as a file", Following, "is no ordinary file", write(1, ObjectId::ROOT)),
        ("the name above", Following, NAME, create(b"..")),
        ("an absolute name", Following, NAME, create(b"/etc/safekit-nonsense")),
        ("a way", Following, NAME, create(b"../../outside/made")),
        ("a name of this program's own", Following, OWN, create(b".safekit")),
        ("a name from outside", Following, NAME, rename(b"../../outside/precious", b"stolen")),
        ("the removal of what is above", Following, NAME, operation(1, remove)),
    ]
}

/// Frames of the other side, until `wanted`; an error when the connection ends before.
fn hear(incoming: &mut Incoming, wanted: &Message) -> Result<()> {
    let until = clock::now() + PATIENCE;
    while clock::now() < until {
        let (frame, _) = incoming.frame()?;
        if frame == Frame::Message(wanted.clone()) {
            return Ok(());
        }
    }
    bail!("{wanted:?} does not come")
}

fn say(link: &Link, frame: &Frame) {
    let takes_bulk = matches!(frame, Frame::Operation { operation: Operation::Write { .. }, .. });
    link.queue(frame, if takes_bulk { b"nonsense" } else { b"" });
    link.kick();
}

fn converse(link: &Link, incoming: &mut Incoming, until: Until) -> Result<()> {
    let message = |message| {
        link.queue(&Frame::Message(message), &[]);
        link.kick();
    };
    if matches!(until, Until::Connected) {
        return Ok(());
    }
    link.queue(&hello(VERSION), &[]);
    message(Message::Regions { touches: Vec::new(), last: true });
    hear(incoming, &Message::Regions { touches: Vec::new(), last: true })?;
    message(Message::Overwrite { everything: true });
    hear(incoming, &Message::Ready)?;
    if matches!(until, Until::Overwriting) {
        return Ok(());
    }
    message(Message::Finish { generation: GENERATION, history: Vec::new(), fresh_from: 2_000_000 });
    hear(incoming, &Message::Finished)
}

/// The other side ends the connection.
fn until_ended(incoming: &mut Incoming) -> Result<()> {
    let until = clock::now() + PATIENCE;
    while clock::now() < until {
        if incoming.frame().is_err() {
            return Ok(());
        }
    }
    bail!("the connection goes on")
}

#[test]
fn nonsense_changes_nothing_and_is_named() -> Result<()> {
    story("nonsense", Options::default(), |stage| {
        let outside = stage.mount(1).join("../../outside");
        fs::create_dir(&outside)?;
        fs::write(outside.join("precious"), b"precious")?;
        fs::write(stage.mount(1).join("own"), b"own")?;
        stage.start(1)?;
        let before = (trees::tree(&stage.below(1))?, trees::tree(&outside)?);
        let port = port(stage)?;
        let mut refused = 0;
        for (what, until, expected, nonsense) in all() {
            let told = || -> Result<()> {
                let (link, mut incoming) = port.next(0, PATIENCE)?;
                converse(&link, &mut incoming, until)?;
                say(&link, &nonsense);
                until_ended(&mut incoming)
            };
            told().with_context(|| what.to_owned())?;
            stage.until(what, |stage| {
                let info = stage.info(1)?;
                Ok(!info.connected && info.role == MirrorRole::Wait)
            })?;
            let info = stage.info(1)?;
            ensure!(info.why.contains(expected), "{what}: {}", info.why);
            refused += u64::from(expected == NAME);
            ensure!(info.refused == refused, "{what}: {refused} frames were refused, not {}", info.refused);
            let after = (trees::tree(&stage.below(1))?, trees::tree(&outside)?);
            ensure!(after == before, "{what} has changed something: {after:#?}");
        }
        Ok(())
    })
}

#[test]
fn bytes_that_are_none_of_tls_are_counted() -> Result<()> {
    story("bytes", Options::default(), |stage| {
        stage.start(1)?;
        for _ in 0..3 {
            let mut stranger = TcpStream::connect_timeout(&"127.0.0.2:4900".parse()?, PATIENCE)?;
            stranger.write_all(&[0xa5; 4096])?;
        }
        stage.until("they are counted", |stage| Ok(stage.info(1)?.refused >= 3))?;
        stage.until("people are told", |stage| Ok(stage.info(1)?.why.contains("does not speak as a node")))
    })
}
