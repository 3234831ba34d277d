//! Crashes in the middle of work: nothing that was promised is lost, and only what was touched lately is compared.

use std::fs;
use std::io;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use safekit::driver::clock;
use safekit::types::mirror::MirrorOrder;
use safekit::types::replica::MirrorRole;

use crate::application::{Application, BYTES_MAX, Ledger, Model};
use crate::stage::{NODES, Options, Stage, story};

const ROUNDS: u64 = 10;
const ROUND_MAX: Duration = Duration::from_secs(30);
const APPLICATIONS: [&str; 2] = ["one", "two"];
/// What nobody writes to, so that a resynchronisation which moves it is noticed.
const COLD_FILES: usize = 12;
const COLD_FILE_BYTES: usize = 4 << 20;
/// What a resynchronisation may move beyond what applications have: attributes and names are not counted as bytes, blocks
/// at the ends of files are.
const SLACK_BYTES: u64 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crash {
    KillLeader,
    KillFollower,
    CutLink,
    /// In the middle of a frame, at a byte that chance has chosen.
    CutWithinBytes,
}

/// A word of the environment, as a number.
fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}

#[test]
fn crashes_lose_nothing_that_was_promised() -> Result<()> {
    let rounds = number("SAFEKIT_MIRROR_ROUNDS").unwrap_or(ROUNDS);
    let first = number("SAFEKIT_MIRROR_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    let options = Options { within: ROUND_MAX * (rounds as u32 + 2), ..Options::default() };
    story("crash", options, |stage| {
        make_cold_files(stage)?;
        stage.mirrored()?;
        let mut play = Play { leader: 0, models: Vec::new() };
        for name in APPLICATIONS {
            fs::create_dir(stage.mount(0).join(name))?;
            play.models.push(Model::default());
        }
        for seed in first..first + rounds {
            let round = play.round(stage, seed);
            round.with_context(|| format!("the round that SAFEKIT_MIRROR_SEED={seed} begins with"))?;
        }
        Ok(())
    })
}

/// Before anybody watches, so that they belong to what the first comparison finds.
fn make_cold_files(stage: &Stage) -> Result<()> {
    fs::create_dir(stage.mount(0).join("cold"))?;
    for number in 0..COLD_FILES {
        let contents: Vec<u8> = (0..COLD_FILE_BYTES).map(|at| (at / 4096 + number) as u8).collect();
        fs::write(stage.mount(0).join(format!("cold/{number}")), contents)?;
    }
    Ok(())
}

struct Play {
    leader: usize,
    /// What each application has, at the begin of a round.
    models: Vec<Model>,
}

impl Play {
    fn round(&mut self, stage: &mut Stage, seed: u64) -> Result<()> {
        let begun = clock::now();
        let mut random = fastrand::Rng::with_seed(seed);
        let crash = match random.u8(0..8) {
            0..3 => Crash::KillLeader,
            3..5 => Crash::KillFollower,
            5 => Crash::CutLink,
            _ => Crash::CutWithinBytes,
        };
        let applications = self.start_applications(stage, &mut random);
        std::thread::sleep(Duration::from_millis(random.u64(20..700)));
        let told = match crash {
            Crash::KillLeader => self.without_leader(stage, applications, &mut random)?,
            Crash::KillFollower | Crash::CutLink | Crash::CutWithinBytes => {
                self.without_follower(stage, applications, crash, &mut random)?
            }
        };
        println!("seed {seed}: {crash:?}, {told}, {:?}", clock::now().since(begun));
        Ok(())
    }

    fn start_applications(&self, stage: &Stage, random: &mut fastrand::Rng) -> Vec<Application> {
        let mount = stage.mount(self.leader);
        let start =
            |(name, model): (&&str, &Model)| Application::start(&mount, name, model.clone(), random.u64(..));
        APPLICATIONS.iter().zip(&self.models).map(start).collect()
    }

    /// The other node goes on from where the promises are kept.
    fn without_leader(
        &mut self,
        stage: &mut Stage,
        applications: Vec<Application>,
        random: &mut fastrand::Rng,
    ) -> Result<String> {
        let dead = self.leader;
        stage.kill(dead)?;
        self.leader = 1 - dead;
        let mut done = (0, 0);
        let mut ledgers = Vec::new();
        for application in applications {
            let (name, ledger, ended) = application.end()?;
            if let Err(error) = ended {
                check_error(&error).with_context(|| name.clone())?;
            }
            done = (done.0 + ledger.steps, done.1 + ledger.promises);
            ledgers.push((name, ledger));
        }
        stage.order(self.leader, MirrorOrder::Prim { force: false })?;
        stage.until_role(self.leader, MirrorRole::Alone)?;
        self.models = ledgers
            .into_iter()
            .map(|(name, ledger): (String, Ledger)| {
                let top = stage.mount(self.leader).join(&name);
                ledger.find(&top).with_context(|| format!("{name} on {}", NODES[1 - dead]))
            })
            .collect::<Result<_>>()?;
        let applications = self.start_applications(stage, random);
        std::thread::sleep(Duration::from_millis(random.u64(0..300)));
        stage.start(dead)?;
        let resync = self.come_together(stage, applications, random)?;
        Ok(format!("{} steps, {} promises, {resync}", done.0, done.1))
    }

    /// Applications notice nothing.
    fn without_follower(
        &mut self,
        stage: &mut Stage,
        applications: Vec<Application>,
        crash: Crash,
        random: &mut fastrand::Rng,
    ) -> Result<String> {
        let follower = 1 - self.leader;
        match crash {
            Crash::KillFollower => stage.kill(follower)?,
            Crash::CutWithinBytes => stage.road.cut_after(random.usize(0..200_000)),
            Crash::CutLink | Crash::KillLeader => stage.road.cut(),
        }
        stage.until_role(self.leader, MirrorRole::Alone)?;
        std::thread::sleep(Duration::from_millis(random.u64(0..300)));
        if crash == Crash::KillFollower {
            stage.start(follower)?;
        }
        stage.road.mend();
        self.come_together(stage, applications, random)
    }

    /// While applications write, and now and then with another crash on the way.
    fn come_together(
        &mut self,
        stage: &mut Stage,
        applications: Vec<Application>,
        random: &mut fastrand::Rng,
    ) -> Result<String> {
        let follower = 1 - self.leader;
        if random.u8(0..3) == 0 {
            std::thread::sleep(Duration::from_millis(random.u64(0..150)));
            stage.kill(follower)?;
            stage.start(follower)?;
        }
        stage.until_in_sync(self.leader)?;
        let resync = stage.info(self.leader)?.resync.context("there was a resynchronisation")?;
        ensure!(!resync.everything, "all was compared: {resync:?}");
        let bound = u64::from(resync.passes) * APPLICATIONS.len() as u64 * BYTES_MAX + SLACK_BYTES;
        ensure!(resync.bytes <= bound, "more than {bound} bytes: {resync:?}");
        std::thread::sleep(Duration::from_millis(random.u64(0..200)));
        let mount = stage.mount(self.leader);
        let (mut steps, mut promises) = (0, 0);
        self.models.clear();
        for application in applications {
            let (_, ledger, model) = application.end_well(&mount)?;
            (steps, promises) = (steps + ledger.steps, promises + ledger.promises);
            self.models.push(model);
        }
        stage.until_same()?;
        let info = stage.info(self.leader)?;
        ensure!(info.role == MirrorRole::Prim, "parted again: {info:#?}");
        Ok(format!(
            "{steps} steps and {promises} promises after it, {} bytes of {} objects in {} passes",
            resync.bytes, resync.files, resync.passes
        ))
    }
}

/// Of a mount whose process is gone: what was under way is broken off, what comes later finds nobody.
fn check_error(error: &io::Error) -> Result<()> {
    let kinds = [io::ErrorKind::NotConnected, io::ErrorKind::ConnectionAborted];
    ensure!(kinds.contains(&error.kind()), "not the error of a mount whose process is gone: {error}");
    Ok(())
}
