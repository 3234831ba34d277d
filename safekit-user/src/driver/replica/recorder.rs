//! The thread that writes the record of a copy. What waits while it writes is its next append: however many
//! applications change files at once, they share a sync.
//!
//! ```text
//!   record(1) record(2) record(3) ──▶ queue ──▶ thread: append(1)     ──▶ recorded(Ok(1))
//!                                                       append(2, 3)  ──▶ recorded(Ok(3))
//! ```

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use super::store::{Batch, Error, Store};
use super::watch::Trace;
use crate::engine::mirror::Entry;
use crate::types::replica::ObjectId;

/// Dropping it waits until what was queued is written.
#[derive(Debug)]
pub struct Recorder {
    /// Not bounded here: each batch has somebody who waits for it, and `recorded` must be able to go on while
    /// another is queued.
    queue: Option<Sender<(u64, Batch)>>,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    /// `recorded` is called on the thread that writes: all batches up to this number are on the disk. After an error
    /// none is any longer.
    pub fn start(
        store: Store,
        recorded: impl FnMut(Result<u64, Error>) + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, queued) = channel();
        let thread = std::thread::Builder::new()
            .name("record".into())
            .spawn(move || write(store, &queued, recorded))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// In the order of their numbers. `traces`: where objects are that the entries name.
    pub fn record(&self, batch: u64, entries: Vec<Entry>, traces: Vec<(ObjectId, Trace)>) {
        let queue = self.queue.as_ref().expect("it is there until the drop");
        let queued = queue.send((batch, Batch { entries, traces }));
        assert!(queued.is_ok(), "the thread ends after its queue, unless it has panicked");
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        drop(self.queue.take());
        let Some(thread) = self.thread.take() else { return };
        // Whoever is called back may hold the last of it, and nobody waits for himself.
        if thread.thread().id() != std::thread::current().id() {
            // A panic there has been reported by its own thread.
            let _panicked = thread.join();
        }
    }
}

fn write(mut store: Store, queued: &Receiver<(u64, Batch)>, mut recorded: impl FnMut(Result<u64, Error>)) {
    while let Ok((mut highest, first)) = queued.recv() {
        let mut batches = vec![first];
        for (number, batch) in queued.try_iter() {
            highest = number;
            batches.push(batch);
        }
        recorded(store.append(&batches).map(|()| highest));
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;
    use std::path::Path;
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::driver::replica::object::FileHandle;
    use crate::driver::replica::store::Kept;
    use crate::driver::scripts::tests::TempDir;
    use crate::types::replica::Region;

    fn open(path: &Path) -> (Store, Kept) {
        Store::open(&File::open(path).expect("it is there").into()).expect("nobody else has it")
    }

    fn add(number: u64) -> Vec<Entry> {
        vec![Entry::Add(Region::meta(ObjectId(number)))]
    }

    #[test]
    fn what_waits_is_written_at_once() {
        let dir = TempDir::new("recorder");
        let (said, heard) = sync_channel(0);
        let (go, gate) = sync_channel::<()>(0);
        let recorder = Recorder::start(open(dir.path()).0, move |result| {
            said.send(result.expect("the disk works")).expect("the story goes on");
            gate.recv().expect("the story goes on");
        });
        let recorder = recorder.expect("a thread");
        recorder.record(1, add(1), Vec::new());
        assert_eq!(heard.recv(), Ok(1));
        (2..10).for_each(|number| recorder.record(number, add(number), Vec::new()));
        go.send(()).unwrap();
        assert_eq!(heard.recv(), Ok(9), "eight of them, one append");
        go.send(()).unwrap();
        drop(recorder);
        assert_eq!(open(dir.path()).1.regions.len(), 9);
    }

    #[test]
    fn the_end_waits_for_what_was_queued() {
        let dir = TempDir::new("recorder");
        let (said, heard) = sync_channel(100);
        let recorder = Recorder::start(open(dir.path()).0, move |result| said.send(result.unwrap()).unwrap());
        let recorder = recorder.expect("a thread");
        let here = File::open(dir.path()).expect("it is there");
        let trace = Trace { handle: FileHandle::of(here.as_fd()).expect("it has one"), place: None };
        let traces = |number| vec![(ObjectId(number), trace.clone())];
        (1..=50).for_each(|number| recorder.record(number, add(number), traces(number)));
        drop(recorder);
        assert_eq!(heard.iter().last(), Some(50));
        let kept = open(dir.path()).1;
        assert_eq!((kept.regions.len(), kept.traces.len()), (50, 50));
    }

    #[test]
    fn an_error_is_told_for_all_that_follow() {
        let dir = TempDir::new("recorder");
        let (said, heard) = sync_channel(100);
        let recorder = Recorder::start(open(dir.path()).0, move |result| said.send(result).unwrap());
        let recorder = recorder.expect("a thread");
        // No new file can be made in a directory that is gone.
        std::fs::remove_dir_all(dir.path()).unwrap();
        let many = (0..100_000).flat_map(add).collect();
        recorder.record(1, many, Vec::new());
        assert!(matches!(heard.recv(), Ok(Err(Error::Io { .. }))));
        recorder.record(2, add(2), Vec::new());
        assert!(matches!(heard.recv(), Ok(Err(Error::Failed))));
    }
}
