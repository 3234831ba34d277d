//! A process that speaks as the one that keeps a mirror's directories, and keeps none: for tests of what stands around it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use safekit::driver::clock;
use safekit::types::mirror::{
    CopyInfo, LatencyInfo, MirrorOrder, ReplicaReply, ReplicaRequest, SyncState, VerificationInfo,
};
use safekit::types::replica::{DataGeneration, MirrorRole};

/// Of the reports.
const INTERVAL: Duration = Duration::from_millis(100);

/// Until it is asked to end. Its copy serves only by force, follows at once, and differs in one object of two.
pub fn serve(socket: &Path) -> Result<()> {
    let _stale = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket).with_context(|| socket.display().to_string())?;
    let copy = Arc::new(Mutex::new(first()));
    for stream in listener.incoming() {
        let (stream, copy) = (stream?, Arc::clone(&copy));
        std::thread::spawn(move || answer(&stream, &copy));
    }
    Ok(())
}

fn answer(stream: &UnixStream, copy: &Mutex<CopyInfo>) -> Result<()> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    match serde_json::from_str(&line)? {
        ReplicaRequest::Watch => loop {
            let copies = vec![copy.lock().unwrap_or_else(PoisonError::into_inner).clone()];
            say(stream, &ReplicaReply::Copies { copies })?;
            std::thread::sleep(INTERVAL);
        },
        ReplicaRequest::Order { order: MirrorOrder::Verify } if !leads(copy) => {
            let error = "only the copy that serves can be compared".to_owned();
            let next_step = "`safekit mirror verify` on the other node".to_owned();
            say(stream, &ReplicaReply::Refused { error, next_step })
        }
        ReplicaRequest::Order { order } => {
            say(stream, &ReplicaReply::Taken)?;
            follow(order, copy);
            Ok(())
        }
        ReplicaRequest::Stop => {
            say(stream, &ReplicaReply::Taken)?;
            std::process::exit(0);
        }
    }
}

fn leads(copy: &Mutex<CopyInfo>) -> bool {
    copy.lock().unwrap_or_else(PoisonError::into_inner).role.leads()
}

fn follow(order: MirrorOrder, copy: &Mutex<CopyInfo>) {
    let mut copy = copy.lock().unwrap_or_else(PoisonError::into_inner);
    match order {
        MirrorOrder::Prim { force: false } => {
            copy.cannot_lead = Some("the other copy was never seen".to_owned());
        }
        MirrorOrder::Prim { force: true } => {
            copy.cannot_lead = None;
            copy.role = MirrorRole::Alone;
            copy.sync = SyncState::OutOfDate;
            copy.generation = Some(DataGeneration(7));
            copy.why = "it was told to serve, by force".to_owned();
        }
        MirrorOrder::Second { .. } => {
            copy.role = MirrorRole::Second;
            copy.sync = SyncState::InSync;
            copy.connected = true;
            copy.why = "it was told to follow".to_owned();
        }
        MirrorOrder::Verify => {
            let now = clock::now();
            copy.verification = Some(VerificationInfo {
                since: now,
                ended: Some(now),
                complete: true,
                objects: 2,
                bytes: 4096,
                differing: 1,
            });
        }
    }
}

fn say(mut stream: &UnixStream, reply: &ReplicaReply) -> Result<()> {
    let line = serde_json::to_string(reply)? + "\n";
    Ok(stream.write_all(line.as_bytes())?)
}

fn first() -> CopyInfo {
    CopyInfo {
        directory: "/srv/db".to_owned(),
        role: MirrorRole::Wait,
        generation: None,
        sync: SyncState::Unknown,
        why: "nobody has said what it is to do".to_owned(),
        cannot_lead: None,
        connected: false,
        frozen: false,
        behind_operations: 3,
        behind_bytes: 34 * 1024,
        recorded_regions: 2,
        write_latency: LatencyInfo { count: 9, p50_us: 80, p99_us: 1_500 },
        flush_latency: LatencyInfo::default(),
        stalls: 1,
        refused: 0,
        sent_bytes: 1 << 20,
        received_bytes: 512,
        resync: None,
        verification: None,
    }
}
