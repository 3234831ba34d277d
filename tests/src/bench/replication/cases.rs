//! What is measured of each subject, one round after the other.

use std::time::Duration;

use anyhow::Result;
use safekit::driver::clock;
use serde::Serialize;

use super::fio::{self, Job};
use super::machine::Lab;
use super::postgres::Server;
use super::subject::{Life, Subject};
use super::{Amount, files};
use crate::bench::Spread;
use crate::bench::cpu;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Case {
    SequentialWrite,
    SequentialRead,
    SyncedWrites,
    SyncedWritesOfEight,
    CachedReads,
    Creates,
    Deletes,
    OneClient,
    EightClients,
}

impl Case {
    pub const ALL: [Self; 9] = [
        Self::SequentialWrite,
        Self::SequentialRead,
        Self::SyncedWrites,
        Self::SyncedWritesOfEight,
        Self::CachedReads,
        Self::Creates,
        Self::Deletes,
        Self::OneClient,
        Self::EightClients,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::SequentialWrite => "sequential write, 1 MiB, fsync at the end",
            Self::SequentialRead => "sequential read, 1 MiB, not in memory",
            Self::SyncedWrites => "random write, 4 KiB, fsync each, one job",
            Self::SyncedWritesOfEight => "random write, 4 KiB, fsync each, eight jobs",
            Self::CachedReads => "random read, 4 KiB, in memory",
            Self::Creates => "small files made (4 KiB)",
            Self::Deletes => "small files deleted",
            Self::OneClient => "pgbench, one client",
            Self::EightClients => "pgbench, eight clients",
        }
    }

    /// What is counted, each second.
    pub fn unit(self) -> &'static str {
        match self {
            Self::SequentialWrite | Self::SequentialRead => "MiB",
            Self::SyncedWrites | Self::SyncedWritesOfEight => "writes",
            Self::CachedReads => "reads",
            Self::Creates | Self::Deletes => "files",
            Self::OneClient | Self::EightClients => "transactions",
        }
    }
}

/// Of one round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    pub per_second: f64,
    /// Of the whole machine meanwhile, whoever used it, in microseconds for one of the units.
    pub cpu_us: f64,
}

/// A figure that could not be had, and why.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    pub subject: Subject,
    /// None: the subject did not come up, or did not end well.
    pub case: Option<Case>,
    pub why: String,
}

/// All rounds of a subject.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figure {
    pub subject: Subject,
    /// How file requests reach whoever serves them; none where that is the kernel.
    pub transport: Option<String>,
    pub cases: Vec<CaseFigure>,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CaseFigure {
    pub case: Case,
    pub per_second: Spread,
    pub cpu_us: Spread,
    /// Of the same rounds.
    pub to_plain: Option<Spread>,
    pub to_gluster: Option<Spread>,
}

/// What the rounds have shown so far.
#[derive(Debug)]
pub struct Rounds {
    subjects: Vec<Subject>,
    transports: Vec<Option<String>>,
    /// By round, by subject, by case.
    samples: Vec<Vec<[Option<Sample>; Case::ALL.len()]>>,
    pub failures: Vec<Failure>,
}

impl Rounds {
    pub fn of(subjects: &[Subject]) -> Self {
        let transports = vec![None; subjects.len()];
        Self { subjects: subjects.to_vec(), transports, samples: Vec::new(), failures: Vec::new() }
    }

    pub fn count(&self) -> usize {
        self.samples.len()
    }

    /// Measures all subjects once, one after the other. A subject that fails is noted; an error ends the benchmark.
    pub fn measure_one(&mut self, lab: &Lab, amount: &Amount) -> Result<()> {
        self.samples.push(vec![[None; Case::ALL.len()]; self.subjects.len()]);
        for (index, subject) in self.subjects.clone().into_iter().enumerate() {
            let start = clock::now();
            let outcome = self.measure_subject(lab, index, amount);
            // What failed because all shall end is no finding.
            lab.go_on()?;
            if let Err(error) = outcome {
                self.note(lab, subject, None, &error);
            }
            let seconds = clock::now().since(start).as_secs_f64();
            eprintln!("==> round {}: {} ({seconds:.0} s)", self.samples.len(), subject.name());
        }
        Ok(())
    }

    fn measure_subject(&mut self, lab: &Lab, index: usize, amount: &Amount) -> Result<()> {
        let subject = self.subjects[index];
        let life = Life::begin(subject, lab)?;
        self.transports[index].clone_from(&life.transport);
        storage(&life, amount, &mut |case, sample| self.keep(lab, index, case, sample))?;
        database(&life, amount, &mut |case, sample| self.keep(lab, index, case, sample))?;
        life.end()
    }

    fn keep(&mut self, lab: &Lab, index: usize, case: Case, sample: Result<Sample>) -> Result<()> {
        lab.go_on()?;
        match sample {
            Ok(sample) => {
                let round = self.samples.last_mut().expect("a round begins before its samples come");
                round[index][case as usize] = Some(sample);
            }
            Err(error) => self.note(lab, self.subjects[index], Some(case), &error),
        }
        Ok(())
    }

    fn note(&mut self, lab: &Lab, subject: Subject, case: Option<Case>, error: &anyhow::Error) {
        let why = lab.words(error);
        let what = case.map_or("it", Case::name);
        // One reason may keep many from being measured: it is said once.
        if self.failures.iter().all(|failure| failure.why != why) {
            eprintln!("warning: {}: {what}: {why}", subject.name());
        }
        let same =
            |failure: &Failure| failure.subject == subject && failure.case == case && failure.why == why;
        if !self.failures.iter().any(same) {
            self.failures.push(Failure { subject, case, why });
        }
    }

    pub fn figures(&self) -> Vec<Figure> {
        let figures = self.subjects.iter().enumerate().map(|(index, subject)| {
            let cases = Case::ALL.iter().filter_map(|case| self.case_figure(index, *case)).collect();
            Figure { subject: *subject, transport: self.transports[index].clone(), cases }
        });
        figures.filter(|figure| !figure.cases.is_empty()).collect()
    }

    fn case_figure(&self, index: usize, case: Case) -> Option<CaseFigure> {
        let of = |round: &Vec<[Option<Sample>; Case::ALL.len()]>, index: usize| round[index][case as usize];
        let samples: Vec<Sample> = self.samples.iter().filter_map(|round| of(round, index)).collect();
        let ratio_to = |other: Subject| {
            let other = self.subjects.iter().position(|subject| *subject == other)?;
            let ratios = self
                .samples
                .iter()
                .filter_map(|round| Some(of(round, index)?.per_second / of(round, other)?.per_second));
            Spread::of(&ratios.collect::<Vec<_>>())
        };
        Some(CaseFigure {
            case,
            per_second: Spread::over(&samples, |sample| sample.per_second)?,
            cpu_us: Spread::over(&samples, |sample| sample.cpu_us)?,
            to_plain: ratio_to(Subject::Plain),
            to_gluster: ratio_to(Subject::Gluster),
        })
    }
}

type Keep<'a> = dyn FnMut(Case, Result<Sample>) -> Result<()> + 'a;

/// A command that hangs is given up after so long beyond what it was asked for.
const PATIENCE: Duration = Duration::from_secs(60);
const BIG: &str = "big";
const JOBS: u32 = 8;
const JOB_MIB: u32 = 16;
const RANDOM_MIB: u32 = 64;

fn storage(life: &Life<'_>, amount: &Amount, keep: &mut Keep<'_>) -> Result<()> {
    let (big, random) = (format!("--filename={BIG}"), format!("--size={}m", RANDOM_MIB.min(amount.big_mib)));
    let synced = ["--rw=randwrite".to_owned(), "--bs=4k".to_owned(), "--fsync=1".to_owned()];
    let timed = ["--time_based".to_owned(), format!("--runtime={}", amount.seconds)];
    let of_eight = [format!("--numjobs={JOBS}"), format!("--size={JOB_MIB}m")];
    let whole = [big.clone(), "--bs=1m".to_owned(), format!("--size={}m", amount.big_mib)];

    let write = [&whole[..], &["--rw=write".to_owned(), "--end_fsync=1".to_owned()]].concat();
    keep(Case::SequentialWrite, mebibytes(life, "write", &write))?;
    keep(
        Case::SequentialRead,
        life.forget(BIG, u64::from(amount.big_mib) << 20).and_then(|()| {
            let read = [&whole[..], &["--rw=read".to_owned(), "--invalidate=1".to_owned()]].concat();
            mebibytes(life, "read", &read)
        }),
    )?;
    let one = [&synced[..], &timed, &[big.clone(), random.clone()]].concat();
    keep(Case::SyncedWrites, operations(life, "synced", &one))?;
    let lay_out = [&of_eight[..], &["--rw=write", "--bs=1m", "--end_fsync=1"].map(str::to_owned)].concat();
    let eight = [&synced[..], &timed, &of_eight].concat();
    let laid_out = done(life, "eight", &lay_out);
    keep(Case::SyncedWritesOfEight, laid_out.and_then(|_| operations(life, "eight", &eight)))?;
    let cached = ["--rw=randread", "--bs=4k", "--pre_read=1", "--invalidate=0"].map(str::to_owned);
    let cached = [&cached[..], &timed, &[big, random]].concat();
    keep(Case::CachedReads, operations(life, "cached", &cached))?;
    small_files(life, amount, keep)
}

fn small_files(life: &Life<'_>, amount: &Amount, keep: &mut Keep<'_>) -> Result<()> {
    let span = Duration::from_secs(amount.seconds.into());
    let create = files::create_words(amount.small_files, span);
    keep(Case::Creates, small(life, &create, span + PATIENCE))?;
    keep(Case::Deletes, small(life, &files::delete_words(), span + PATIENCE))
}

fn database(life: &Life<'_>, amount: &Amount, keep: &mut Keep<'_>) -> Result<()> {
    let server = match Server::start(life.lab(), life.machine(), amount.pgbench_scale) {
        Ok(server) => server,
        Err(error) => return keep(Case::OneClient, Err(error)),
    };
    let span = Duration::from_secs(amount.pgbench_seconds.into());
    for (case, clients) in [(Case::OneClient, 1), (Case::EightClients, JOBS)] {
        let sample = timed(life, || {
            let done = server.transactions(clients, span)?;
            Ok((done.transactions, done.per_second))
        });
        keep(case, sample)?;
    }
    server.stop()
}

fn done(life: &Life<'_>, name: &str, words: &[String]) -> Result<fio::Done> {
    let findings = life.lab().base().join("fio.json");
    fio::run(life.machine(), &Job { name, words, findings: &findings, within: PATIENCE })
}

fn operations(life: &Life<'_>, name: &str, words: &[String]) -> Result<Sample> {
    timed(life, || {
        let done = done(life, name, words)?;
        Ok((done.operations, done.operations_per_second))
    })
}

fn mebibytes(life: &Life<'_>, name: &str, words: &[String]) -> Result<Sample> {
    const MEBIBYTE: f64 = 1_048_576.0;
    timed(life, || {
        let done = done(life, name, words)?;
        Ok((done.bytes / MEBIBYTE, done.bytes_per_second / MEBIBYTE))
    })
}

fn small(life: &Life<'_>, words: &[String], within: Duration) -> Result<Sample> {
    timed(life, || {
        let done = files::run(life.machine(), words, within)?;
        #[expect(clippy::cast_precision_loss, reason = "some thousands of files")]
        let files = done.files as f64;
        Ok((files, files / done.seconds))
    })
}

/// `work` says how many it has done, and how many a second.
fn timed(life: &Life<'_>, work: impl FnOnce() -> Result<(f64, f64)>) -> Result<Sample> {
    life.lab().settle()?;
    let before = cpu::Reading::take(&[])?;
    let (count, per_second) = work()?;
    let spent = before.until(&cpu::Reading::take(&[])?);
    Ok(Sample { per_second, cpu_us: spent.machine.as_secs_f64() * 1e6 / count })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_the_same_round() {
        let mut rounds = Rounds::of(&[Subject::Plain, Subject::Mount, Subject::Gluster]);
        let case = Case::CachedReads;
        for (plain, mount) in [(100.0, Some(90.0)), (10.0, None), (50.0, Some(25.0))] {
            let mut round = vec![[None; Case::ALL.len()]; 3];
            let sample = |per_second| Sample { per_second, cpu_us: 1.0 };
            round[0][case as usize] = Some(sample(plain));
            round[1][case as usize] = mount.map(sample);
            rounds.samples.push(round);
        }
        let figures = rounds.figures();
        assert_eq!(figures.len(), 2, "a subject without any sample has no figure");
        let [it] = &figures[1].cases[..] else { panic!("one case was measured: {figures:?}") };
        assert_eq!(it.to_plain, Some(Spread { median: 0.7, min: 0.5, max: 0.9 }));
        assert_eq!(it.per_second, Spread { median: 57.5, min: 25.0, max: 90.0 });
        assert_eq!(it.to_gluster, None);
    }
}
