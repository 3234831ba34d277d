//! `bench replication`: a directory that is kept on two nodes, against the directory as it is and against GlusterFS.
//!
//! ```text
//!   rounds, interleaved    plain · our mount · ours with each policy · GlusterFS     fio, small files, pgbench
//!   resynchronisation      ours                                                      cp and sync, rsync -c
//! ```
//!
//! Two nodes are two network namespaces with mounts of their own; their directories lie on the same disk and share the
//! same processors, so each byte that is replicated is written twice by the one machine.

pub mod cases;
pub mod files;
pub mod fio;
pub mod gluster;
pub mod machine;
pub mod mounted;
pub mod page;
pub mod pair;
pub mod postgres;
pub mod report;
pub mod resync;
pub mod subject;

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use safekit::driver::clock;
use safekit::front::demo::interrupt::Interrupt;
use serde::Serialize;

use cases::Rounds;
use machine::Lab;
use report::Report;
use resync::Resync;
use subject::Subject;

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Amount {
    /// At most: none is begun that would end beyond the time for rounds.
    pub rounds: usize,
    /// For the rounds, and for all.
    pub rounds_within_s: u64,
    pub within_s: u64,
    /// Of a case that runs for a time.
    pub seconds: u32,
    pub big_mib: u32,
    pub small_files: u64,
    pub pgbench_seconds: u32,
    pub pgbench_scale: u32,
    /// Of a tree, and how many files of two sizes it has.
    pub copies: usize,
    pub tree_big_files: u64,
    pub tree_small_files: u64,
    pub changed_file_bytes: u64,
    pub compared_files: u64,
}

impl Amount {
    pub const TREE_BIG_BYTES: u64 = 64 << 20;
    pub const TREE_SMALL_BYTES: u64 = 64 << 10;

    pub fn full(rounds: usize) -> Self {
        Self {
            rounds,
            rounds_within_s: 19 * 60,
            within_s: 35 * 60,
            seconds: 4,
            big_mib: 512,
            small_files: 5000,
            pgbench_seconds: 8,
            pgbench_scale: 10,
            copies: 3,
            tree_big_files: 14,
            tree_small_files: 2000,
            changed_file_bytes: 10 << 30,
            compared_files: 100_000,
        }
    }

    /// Two minutes: shows that all of it works, and little more.
    pub fn quick() -> Self {
        Self {
            rounds: 1,
            rounds_within_s: 120,
            within_s: 5 * 60,
            seconds: 1,
            big_mib: 64,
            small_files: 500,
            pgbench_seconds: 1,
            pgbench_scale: 1,
            copies: 1,
            tree_big_files: 1,
            tree_small_files: 200,
            changed_file_bytes: 1 << 30,
            compared_files: 2000,
        }
    }

    pub fn tree_bytes(&self) -> u64 {
        self.tree_big_files * Self::TREE_BIG_BYTES + self.tree_small_files * Self::TREE_SMALL_BYTES
    }

    pub fn tree_files(&self) -> u64 {
        self.tree_big_files + self.tree_small_files
    }
}

/// On the disk that `directory` lies on. When the time is over there is a report of what was measured until then.
pub fn measure(
    directory: &Path,
    subjects: &[Subject],
    amount: Amount,
    interrupt: &Interrupt,
) -> Result<Report> {
    let within = Duration::from_secs(amount.within_s);
    let lab = Lab::build(directory, interrupt.clone(), within)?;
    let (mut rounds, mut resync) = (Rounds::of(subjects), Resync::default());
    let done =
        interleaved(&lab, &amount, &mut rounds).and_then(|()| resync::measure(&lab, &amount, &mut resync));
    if let Err(error) = done {
        interrupt.check()?;
        resync.note(&lab, "what was left", &error);
    }
    Ok(Report::of(amount, directory, &rounds, resync))
}

fn interleaved(lab: &Lab, amount: &Amount, rounds: &mut Rounds) -> Result<()> {
    let start = clock::now();
    while rounds.count() < amount.rounds {
        let spent = clock::now().since(start);
        let of_one = spent / u32::try_from(rounds.count().max(1))?;
        if rounds.count() > 0 && spent + of_one > Duration::from_secs(amount.rounds_within_s) {
            eprintln!("==> no time for another round");
            break;
        }
        rounds.measure_one(lab, amount)?;
    }
    Ok(())
}
