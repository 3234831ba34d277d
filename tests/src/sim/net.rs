//! Links between nodes, one or two networks. Network 0 is the virtual IP's.

use std::rc::Rc;

use safekit::wire::heartbeat::Heartbeat;

use super::{MS, Nanos};

#[derive(Debug)]
pub struct Datagram {
    pub heartbeat: Heartbeat,
    pub sent: Nanos,
    pub carried: Vec<Nanos>,
}

/// How bad the network is while there are faults.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    pub loss: f64,
    pub duplicate: f64,
    /// Delay spikes of up to 10 ms.
    pub spike: f64,
    /// For each datagram sent, the chance that a recorded one is played to somebody.
    pub replay: f64,
}

#[derive(Debug)]
pub struct Net {
    pub networks: usize,
    nodes: usize,
    pub weather: Weather,
    /// By network, sender, receiver: broken until.
    cut: Vec<Nanos>,
    /// By network, node.
    deaf: Vec<Nanos>,
    mute: Vec<Nanos>,
    /// By node: the virtual IP's network has no carrier until.
    unplugged: Vec<Nanos>,
    tape: Vec<Rc<Datagram>>,
}

/// Recordings that an attacker keeps: enough for several lives of each node.
const TAPE_MAX: usize = 512;

impl Net {
    pub fn new(networks: usize, nodes: usize) -> Self {
        Self {
            networks,
            nodes,
            weather: Weather { spike: 0.001, ..Weather::default() },
            cut: vec![0; networks * nodes * nodes],
            deaf: vec![0; networks * nodes],
            mute: vec![0; networks * nodes],
            unplugged: vec![0; nodes],
            tape: Vec::new(),
        }
    }

    pub fn cut(&mut self, network: usize, from: usize, to: usize, until: Nanos) {
        let link = &mut self.cut[(network * self.nodes + from) * self.nodes + to];
        *link = (*link).max(until);
    }

    pub fn deafen(&mut self, network: usize, node: usize, until: Nanos) {
        let deaf = &mut self.deaf[network * self.nodes + node];
        *deaf = (*deaf).max(until);
    }

    pub fn mute(&mut self, network: usize, node: usize, until: Nanos) {
        let mute = &mut self.mute[network * self.nodes + node];
        *mute = (*mute).max(until);
    }

    pub fn unplug(&mut self, node: usize, until: Nanos) {
        self.unplugged[node] = self.unplugged[node].max(until);
        self.deafen(0, node, until);
        self.mute(0, node, until);
    }

    pub fn is_unplugged(&self, node: usize, now: Nanos) -> bool {
        now < self.unplugged[node]
    }

    pub fn heal(&mut self) {
        self.cut.fill(0);
        self.deaf.fill(0);
        self.mute.fill(0);
        self.weather = Weather::default();
    }

    pub fn is_deaf(&self, network: usize, node: usize, now: Nanos) -> bool {
        now < self.deaf[network * self.nodes + node]
    }

    /// When the datagram arrives at `to`, once for each copy.
    pub fn carry(
        &self,
        rng: &mut fastrand::Rng,
        network: usize,
        from: usize,
        to: usize,
        now: Nanos,
    ) -> [Option<Nanos>; 2] {
        let link = self.cut[(network * self.nodes + from) * self.nodes + to];
        if now < link || now < self.mute[network * self.nodes + from] || rng.f64() < self.weather.loss {
            return [None, None];
        }
        let copy = rng.f64() < self.weather.duplicate;
        [Some(now + self.delay(rng)), copy.then(|| now + self.delay(rng) + 20 * MS)]
    }

    /// 0.06 ms + exp(0.15 ms), and now and then a spike.
    fn delay(&self, rng: &mut fastrand::Rng) -> Nanos {
        let spike = if rng.f64() < self.weather.spike { rng.u64(0..10 * MS) } else { 0 };
        60_000 + exponential(rng, 150_000.0) + spike
    }

    pub fn record(&mut self, rng: &mut fastrand::Rng, datagram: &Rc<Datagram>) -> Option<Rc<Datagram>> {
        if self.weather.replay == 0.0 {
            return None;
        }
        if self.tape.len() < TAPE_MAX {
            self.tape.push(Rc::clone(datagram));
        } else if rng.u8(..) < 40 {
            let place = rng.usize(0..TAPE_MAX);
            self.tape[place] = Rc::clone(datagram);
        }
        (rng.f64() < self.weather.replay).then(|| Rc::clone(&self.tape[rng.usize(0..self.tape.len())]))
    }
}

pub fn exponential(rng: &mut fastrand::Rng, mean: f64) -> Nanos {
    (-(1.0 - rng.f64()).ln() * mean) as Nanos
}
