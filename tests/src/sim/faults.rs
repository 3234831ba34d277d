//! What can go wrong.

use safekit::engine::farm::Input;
use safekit::types::{Change, NodeId};

use super::Nanos;
use super::node::{Arrival, Process};
use super::world::World;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGSTOP: the process stands still, its kernel does not. Datagrams wait; the oldest may be lost.
    Pause {
        node: usize,
        span: Nanos,
    },
    Resume {
        node: usize,
        token: u32,
    },
    /// The whole machine stands still and does not notice: its clock stood still as well.
    /// Afterwards the daemon runs `late` after the kernel.
    HiddenPause {
        node: usize,
        span: Nanos,
        late: Nanos,
    },
    HiddenResume {
        node: usize,
        span: Nanos,
        late: Nanos,
    },
    /// The daemon dies; its parent closes the kernel and says so, or is killed with it.
    Crash {
        node: usize,
        obituary: bool,
    },
    PowerOff {
        node: usize,
    },
    Start {
        node: usize,
    },
    Leave {
        node: usize,
        drain: Nanos,
    },
    /// On that network, or on all.
    Cut {
        from: usize,
        to: usize,
        network: Option<usize>,
        span: Nanos,
    },
    /// Nodes whose bit is set on the one side, the others on the other.
    Split {
        side: u16,
        span: Nanos,
    },
    Deafen {
        node: usize,
        network: Option<usize>,
        span: Nanos,
    },
    /// A receiver works again.
    Hear {
        node: usize,
    },
    Mute {
        node: usize,
        network: Option<usize>,
        span: Nanos,
    },
    Unplug {
        node: usize,
        span: Nanos,
    },
    Plug {
        node: usize,
    },
    /// An operator asks that node for something.
    Ask {
        node: usize,
        change: Change,
    },
    /// Its disk forgets which generation was in force.
    Forget {
        node: usize,
    },
}

impl World {
    pub fn suffer(&mut self, fault: Fault) {
        self.say(usize::MAX, &format!("{fault:?}"));
        match fault {
            Fault::Pause { node, span } => self.pause(node, span),
            Fault::Resume { node, token } => self.resume(node, token),
            Fault::HiddenPause { node, span, late } => {
                if self.nodes[node].process == Process::Running {
                    self.nodes[node].process = Process::Paused;
                    self.nodes[node].kernel.up = false;
                    self.fault_after(span, Fault::HiddenResume { node, span, late });
                }
            }
            Fault::HiddenResume { node, span, late } => {
                self.nodes[node].ahead -= span;
                self.nodes[node].kernel.up = true;
                let token = self.nodes[node].token;
                self.fault_after(late, Fault::Resume { node, token });
            }
            Fault::Crash { node, obituary } => self.crash(node, obituary),
            Fault::PowerOff { node } => {
                self.nodes[node].stop();
                self.nodes[node].kernel = super::node::Kernel::default();
                self.nodes[node].connections.clear();
            }
            Fault::Start { node } => {
                if self.nodes[node].process == Process::Dead {
                    self.start(node);
                }
            }
            Fault::Leave { node, drain } => {
                let drain_max = std::time::Duration::from_nanos(drain);
                self.arrive(node, Arrival::Other(Input::Leave { drain_max }));
            }
            Fault::Cut { from, to, network, span } => {
                for network in self.which(network) {
                    self.net.cut(network, from, to, self.now + span);
                }
            }
            Fault::Split { side, span } => self.split(side, span),
            Fault::Deafen { node, network, span } => {
                for network in self.which(network) {
                    self.net.deafen(network, node, self.now + span);
                }
                self.notice_deafness();
                self.fault_after(span, Fault::Hear { node });
            }
            Fault::Hear { node } => {
                self.notice_deafness();
                self.check_overlap(node);
            }
            Fault::Mute { node, network, span } => {
                for network in self.which(network) {
                    self.net.mute(network, node, self.now + span);
                }
            }
            Fault::Unplug { node, span } => {
                self.net.unplug(node, self.now + span);
                self.notice_deafness();
                self.arrive(node, Arrival::Other(Input::Carrier { up: false }));
                self.fault_after(span, Fault::Plug { node });
            }
            Fault::Ask { change: Change::Health { node, percent, group }, .. } => {
                let node = usize::from(node.0);
                self.nodes[node].health = percent;
                let change = Change::Health { node: NodeId(node as u8), percent, group };
                self.arrive(node, Arrival::Other(Input::Change(vec![change])));
            }
            Fault::Ask { node, change } => {
                self.arrive(node, Arrival::Other(Input::Change(vec![change])));
            }
            Fault::Forget { node } => self.nodes[node].kept = safekit::types::Generation::configured(),
            Fault::Plug { node } => {
                self.notice_deafness();
                if !self.net.is_unplugged(node, self.now) {
                    self.arrive(node, Arrival::Other(Input::Carrier { up: true }));
                }
            }
        }
    }

    fn notice_deafness(&mut self) {
        for node in 0..self.nodes.len() {
            let deaf = self.net.is_deaf(0, node, self.now);
            self.truth.deaf(node, deaf, self.now);
        }
    }

    fn which(&self, network: Option<usize>) -> std::ops::Range<usize> {
        network.map_or(0..self.net.networks, |network| network..network + 1)
    }

    fn split(&mut self, side: u16, span: Nanos) {
        for from in 0..self.nodes.len() {
            for to in 0..self.nodes.len() {
                if (side >> from) & 1 != (side >> to) & 1 {
                    for network in 0..self.net.networks {
                        self.net.cut(network, from, to, self.now + span);
                    }
                }
            }
        }
    }

    fn pause(&mut self, node: usize, span: Nanos) {
        if self.nodes[node].process == Process::Running {
            self.nodes[node].process = Process::Paused;
            let token = self.nodes[node].token;
            self.fault_after(span, Fault::Resume { node, token });
        }
    }

    /// What comes first, the timer or the socket, is up to the driver's poll; and a socket's buffer may be full.
    fn resume(&mut self, node: usize, token: u32) {
        let sleeper = &mut self.nodes[node];
        if sleeper.token != token || sleeper.process != Process::Paused {
            return;
        }
        sleeper.process = Process::Running;
        sleeper.wake_at = Nanos::MAX;
        if sleeper.kernel.up && self.rng.bool() {
            let mut lost = self.rng.usize(0..=sleeper.inbox.len());
            sleeper.inbox.retain(|arrival| {
                lost = lost.saturating_sub(1);
                lost == 0 || !matches!(arrival, Arrival::Datagram(..))
            });
        }
        if self.rng.bool() {
            sleeper.inbox.push_front(Arrival::Timer);
        }
        self.drive(node);
    }

    fn crash(&mut self, node: usize, obituary: bool) {
        if self.nodes[node].process == Process::Dead {
            return;
        }
        if obituary {
            self.nodes[node].kernel.lease = safekit::types::Instant(0);
            self.obituary(node);
        }
        self.nodes[node].stop();
    }
}
