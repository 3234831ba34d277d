//! What happens to the farm, scenario by scenario.

use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use safekit::driver::clock;
use safekit::front::demo::topology::node_name;
use safekit::types::NodeId;
use safekit::types::snapshot::MemberState;

use super::ledger::Held;
use super::options::Scenario;
use super::stage::{SETTLE_TIMEOUT, Stage, What};
use super::{cut, paths, verbs};

/// The node that things happen to. The first one is asked about it.
const VICTIM: NodeId = NodeId(1);
const ASKED: NodeId = NodeId(0);
/// Finishing clients take their time, and less than the shortest `drain_timeout` that was ever in force.
const FINISH_OVER: Duration = Duration::from_millis(500);
const DRAIN_OVER: Duration = Duration::from_secs(2);
const LEAVE_TIMEOUT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_secs(3);
const PARTITION: Duration = Duration::from_secs(6);
/// Later than the time for which gained buckets are in transition.
const AFTER_TRANSITION: Duration = Duration::from_secs(4);
/// The client's retransmissions back off: 0.2, 0.6, 1.4, 3.0, 6.2 seconds after its first packet.
const RESETS_TIMEOUT: Duration = Duration::from_secs(15);
/// Where a node returns at once, some get no reset: their buckets stay in transition for as long as a live connection
/// of another node is in the same sixteen. Their clients give up, after twenty seconds here.
const TIMEOUTS: Duration = Duration::from_secs(30);

impl Stage<'_> {
    pub(super) fn play(&mut self) -> anyhow::Result<()> {
        self.quiet("before")?;
        self.acted = clock::now();
        match self.options.scenario {
            Scenario::Join => self.join()?,
            Scenario::Leave => self.leave(VICTIM)?,
            Scenario::Drain => self.drain(VICTIM)?,
            Scenario::Kill => self.kill(VICTIM)?,
            Scenario::Pause => self.pause_daemon(VICTIM)?,
            Scenario::Partition => self.partition()?,
            Scenario::RestartDaemon => self.restart_daemons()?,
            Scenario::Weights => self.weights()?,
            Scenario::Churn => self.churn().and_then(|()| self.bury_the_dead(TIMEOUTS))?,
            Scenario::Soak => self.soak().and_then(|()| self.bury_the_dead(TIMEOUTS))?,
            Scenario::Steady => self.steady()?,
            Scenario::Synflood => paths::flood(self)?,
            Scenario::Pmtu | Scenario::Fragments | Scenario::Ping => {
                unreachable!("run() plays these without connections that are held")
            }
        }
        self.settled = clock::now();
        self.quiet("after")?;
        self.last_words()
    }

    fn join(&mut self) -> anyhow::Result<()> {
        let last = NodeId(self.options.nodes - 1);
        self.act(format!("{} joins", node_name(last)));
        self.farm.start(last)?;
        let all = self.nodes();
        self.settle(&all)
    }

    /// The daemon goes for good; finishing clients end what its node holds.
    pub(super) fn leave(&mut self, node: NodeId) -> anyhow::Result<()> {
        self.act(format!("the daemon of {} is asked to stop", node_name(node)));
        self.farm.stop(node)?;
        let others = self.others(node);
        self.settle(&others)?;
        self.finish_leaving(node)
    }

    pub(super) fn finish_leaving(&mut self, node: NodeId) -> anyhow::Result<()> {
        self.client.end_connections_of(node, FINISH_OVER);
        self.wait("the daemon that was asked to stop has ended", LEAVE_TIMEOUT, |stage| {
            Ok(stage.farm.has_left(node)?)
        })?;
        let left = self.client.ledger().held_by(node);
        self.farm.finish_leave(node)?;
        let at =
            self.act(format!("the daemon of {} has ended; {left} connections were left", node_name(node)));
        self.fate(node, What::Stopped, at);
        Ok(())
    }

    fn drain(&mut self, node: NodeId) -> anyhow::Result<()> {
        self.verbs.demand_changes(&self.farm)?;
        let name = node_name(node);
        self.act(format!("safekit drain {name}"));
        let words = ["drain", &name, "--timeout", "30s"];
        let mut command = self.verbs.start(&self.farm, ASKED, &words)?;
        let others = self.others(node);
        let settled = self.settle(&others);
        if let Some(status) = command.try_wait()?.filter(|status| !status.success()) {
            let said = verbs::finished(command, &words).unwrap_or_else(|error| error.to_string());
            bail!("safekit drain ended at once ({status}): {said}");
        }
        settled?;
        let drained = clock::now();
        self.pause(Duration::from_secs(1))?;
        let before = self.client.ledger().held_by(node);
        self.client.end_connections_of(node, DRAIN_OVER);
        let said = verbs::finished(command, &words)?;
        let left = self.client.ledger().held_by(node);
        self.act(format!("drained: {before} connections, then {left}; it said: {}", last_line(&said)));
        if left > 0 {
            self.broken.push(format!("`safekit drain` ended while {left} connections stood"));
        }
        self.pause(Duration::from_secs(2))?;
        let nodes = self.nodes().len();
        let new = self.client.ledger().shares(drained, clock::now(), nodes)[usize::from(node.0)];
        if new > 0 {
            self.broken.push(format!("{new} new connections went to {name}, which was drained"));
        }
        self.act(format!("safekit undrain {name}"));
        self.verbs.run(&self.farm, ASKED, &["undrain", &name])?;
        let all = self.nodes();
        self.settle(&all)
    }

    /// Power off, and what its clients notice: those who ask, and later those who were silent.
    fn kill(&mut self, node: NodeId) -> anyhow::Result<()> {
        let died = self.power_off(node)?;
        let others = self.others(node);
        self.settle(&others)?;
        self.notes.push(("converged_ms".to_owned(), clock::now().since(died).as_secs_f64() * 1e3));
        self.pause((died + AFTER_TRANSITION).since(clock::now()))?;
        self.bury_the_dead(RESETS_TIMEOUT)
    }

    /// Waits until no connection is left whose node lost its power: each is asked for a sign of life.
    fn bury_the_dead(&mut self, within: Duration) -> anyhow::Result<()> {
        let dead: Vec<_> = self.fates.iter().filter(|fate| fate.what == What::Died).copied().collect();
        if dead.is_empty() {
            return Ok(());
        }
        self.client.ask_for_signs_of_life();
        self.wait("each connection of a dead node has ended", within, |stage| {
            let ledger = stage.client.ledger();
            let is_dead =
                |held: &Held| dead.iter().any(|fate| fate.node == held.node && held.opened <= fate.from);
            Ok(!ledger.held().any(is_dead))
        })
    }

    pub(super) fn power_off(&mut self, node: NodeId) -> anyhow::Result<safekit::types::Instant> {
        let count = self.client.ledger().held_by(node);
        self.act(format!("{} loses its power; {count} held connections die with it", node_name(node)));
        let died = self.farm.kill(node)?;
        self.fate(node, What::Died, died);
        Ok(died)
    }

    pub(super) fn pause_daemon(&mut self, node: NodeId) -> anyhow::Result<()> {
        let daemon = self.farm.daemon_pid(node)?;
        let parent = self.farm.parent_pid(node).context("a daemon has a parent")?;
        // The parent first: it must not see its child stop.
        let at = self.act(format!("the daemon of {} is stopped for {} s", node_name(node), PAUSE.as_secs()));
        self.fate(node, What::Paused, at);
        signal(&[parent, daemon], Signal::STOP)?;
        let slept = self.pause(PAUSE);
        signal(&[daemon, parent], Signal::CONT)?;
        slept?;
        self.act(format!("the daemon of {} goes on", node_name(node)));
        self.fate_ends(node, What::Paused);
        let all = self.nodes();
        self.settle(&all)
    }

    fn partition(&mut self) -> anyhow::Result<()> {
        let all = self.nodes();
        let half = &all[..all.len().div_ceil(2)];
        let at = self.act(format!(
            "no heartbeat passes between the first {} and the last {}; clients reach all",
            half.len(),
            all.len() - half.len()
        ));
        all.iter().for_each(|node| self.fate(*node, What::CutOff, at));
        cut::cut(self.farm.topology(), half)?;
        self.pause(PARTITION)?;
        cut::heal(self.farm.topology())?;
        self.act("the heartbeats pass again");
        self.settle(&all)?;
        let healed = clock::now();
        all.iter().for_each(|node| self.fate_ends(*node, What::CutOff));
        self.pause(AFTER_TRANSITION)?;
        let doubles = self.tap.doubles(healed, clock::now());
        if doubles > 0 {
            self.broken.push(format!("{doubles} double accepts after the farm was one again"));
        }
        Ok(())
    }

    fn restart_daemons(&mut self) -> anyhow::Result<()> {
        for node in self.nodes() {
            self.restart_daemon(node)?;
            self.pause(Duration::from_secs(1))?;
        }
        Ok(())
    }

    /// SIGHUP to the parent: another daemon, the same parent, filter and address.
    pub(super) fn restart_daemon(&mut self, node: NodeId) -> anyhow::Result<()> {
        let name = node_name(node);
        let before = self.farm.daemon_pid(node)?;
        self.act(format!("the daemon of {name} is restarted by SIGHUP to its parent"));
        self.farm.reload(node)?;
        self.wait("another daemon runs after SIGHUP", SETTLE_TIMEOUT, |stage| {
            if stage.farm.has_left(node)? {
                bail!(
                    "the parent of {name}'s daemon ended on SIGHUP: this safekit cannot restart its daemon"
                );
            }
            Ok(stage.farm.daemon_pid(node).is_ok_and(|pid| pid != before))
        })?;
        let all = self.nodes();
        self.settle(&all)
    }

    fn weights(&mut self) -> anyhow::Result<()> {
        self.verbs.demand_changes(&self.farm)?;
        for weight in [3, 0, 1] {
            self.weigh(VICTIM, weight)?;
            let (nodes, victim) = (usize::from(self.options.nodes), usize::from(VICTIM.0));
            let expected = f64::from(weight) / (f64::from(weight) + (nodes - 1) as f64);
            self.wait("the tables follow the weight", SETTLE_TIMEOUT, |stage| {
                let timeline = stage.farm.timeline();
                let owned: Vec<u64> = stage.farm.ids().map(|node| timeline.owned(node)).collect();
                let total: u64 = owned.iter().sum();
                let share = owned[victim] as f64 / total.max(1) as f64;
                Ok(stage.farm.buckets() == Some(total) && (share - expected).abs() < 0.03)
            })?;
            self.quiet(&format!("weight {weight}"))?;
        }
        Ok(())
    }

    pub(super) fn weigh(&mut self, node: NodeId, weight: u32) -> anyhow::Result<()> {
        let (name, weight) = (node_name(node), weight.to_string());
        self.act(format!("safekit weight www {name} {weight}"));
        let asked = self.somebody_to_ask()?;
        self.verbs.run(&self.farm, asked, &["weight", "www", &name, &weight])?;
        Ok(())
    }

    /// A daemon that is neither starting nor about to end.
    pub(super) fn somebody_to_ask(&self) -> anyhow::Result<NodeId> {
        let serves = |node: &NodeId| {
            let sight = self.farm.sight(*node);
            sight.connected && sight.snapshot.is_some_and(|snapshot| snapshot.state == MemberState::Active)
        };
        self.farm.ids().filter(serves).last().context("no daemon serves that could be asked")
    }

    fn steady(&mut self) -> anyhow::Result<()> {
        let span = Duration::from_secs(60) * self.options.minutes;
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let burners = if self.options.burn { burn(&stop)? } else { Vec::new() };
        self.act(format!(
            "nothing happens for {} minutes; {} threads burn",
            self.options.minutes,
            burners.len()
        ));
        let rest = self.pause(span);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for burner in burners {
            let _ended = burner.join();
        }
        rest?;
        let all = self.nodes();
        self.settle(&all)
    }
}

/// Two busy threads a processor, until the flag is set.
fn burn(
    stop: &std::sync::Arc<std::sync::atomic::AtomicBool>,
) -> anyhow::Result<Vec<std::thread::JoinHandle<()>>> {
    let processors = std::thread::available_parallelism()?.get();
    let start = |_| {
        let stop = std::sync::Arc::clone(stop);
        std::thread::Builder::new().name("burn".into()).spawn(move || {
            let mut number = 1_u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                number = std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
            }
        })
    };
    Ok((0..2 * processors).map(start).collect::<std::io::Result<_>>()?)
}

fn signal(processes: &[Pid], signal: Signal) -> anyhow::Result<()> {
    for process in processes {
        kill_process(*process, signal).with_context(|| format!("cannot send {signal:?} to {process:?}"))?;
    }
    Ok(())
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or_default()
}
