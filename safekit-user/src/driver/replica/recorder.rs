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

use super::store::{Error, Store};
use crate::engine::mirror::Entry;

/// Dropping it waits until what was queued is written.
#[derive(Debug)]
pub struct Recorder {
    /// Not bounded here: each batch has somebody who waits for it, and `recorded` must be able to go on while
    /// another is queued.
    queue: Option<Sender<Batch>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Batch {
    number: u64,
    entries: Vec<Entry>,
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

    /// In the order of their numbers.
    pub fn record(&self, batch: u64, entries: Vec<Entry>) {
        let queue = self.queue.as_ref().expect("it is there until the drop");
        let queued = queue.send(Batch { number: batch, entries });
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

fn write(mut store: Store, queued: &Receiver<Batch>, mut recorded: impl FnMut(Result<u64, Error>)) {
    while let Ok(first) = queued.recv() {
        let mut highest = first.number;
        let mut batches = vec![first.entries];
        for batch in queued.try_iter() {
            highest = batch.number;
            batches.push(batch.entries);
        }
        recorded(store.append(&batches).map(|()| highest));
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::Path;
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::driver::replica::store::Kept;
    use crate::driver::scripts::tests::TempDir;
    use crate::types::replica::{ObjectId, Region};

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
        recorder.record(1, add(1));
        assert_eq!(heard.recv(), Ok(1));
        (2..10).for_each(|number| recorder.record(number, add(number)));
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
        (1..=50).for_each(|number| recorder.record(number, add(number)));
        drop(recorder);
        assert_eq!(heard.iter().last(), Some(50));
        assert_eq!(open(dir.path()).1.regions.len(), 50);
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
        recorder.record(1, many);
        assert!(matches!(heard.recv(), Ok(Err(Error::Io { .. }))));
        recorder.record(2, add(2));
        assert!(matches!(heard.recv(), Ok(Err(Error::Failed))));
    }
}
