//! Times the loaded filter with `BPF_PROG_TEST_RUN`: what a packet costs in the kernel, without a network.

use std::time::Duration;

use aya::maps::ProgramArray;
use aya::programs::{TestRun, TestRunOptions};
use safekit_ebpf::abi::{maps, symbols};

use super::{Datapath, Error, program, take};

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Passes everything: the cost of the loop itself.
    Empty,
    Filter,
}

/// The programs that only a measurement needs, loaded beside the filter.
pub struct Stopwatch {
    datapath: Datapath,
    scattered: ProgramArray<aya::maps::MapData>,
}

impl Stopwatch {
    pub fn new(mut datapath: Datapath) -> Result<Self, Error> {
        for name in [symbols::EMPTY, symbols::SCATTER] {
            program(&mut datapath.ebpf, name)?.load().map_err(|source| Error::Program { name, source })?;
        }
        let scattered = take(&mut datapath.ebpf, maps::SCATTERED)?;
        Ok(Self { datapath, scattered })
    }

    pub fn datapath(&mut self) -> &mut Datapath {
        &mut self.datapath
    }

    /// Mean time of one of `repeat` runs with the same frame.
    pub fn one_flow(&mut self, what: Program, frame: &[u8], repeat: u32) -> Result<Duration, Error> {
        self.time(symbol(what), frame, repeat)
    }

    /// The same with 65,536 clients in turn. The scatterer's own cost is in it: subtract that of [`Program::Empty`].
    pub fn many_flows(&mut self, what: Program, frame: &[u8], repeat: u32) -> Result<Duration, Error> {
        let name = symbol(what);
        let target = program(&mut self.datapath.ebpf, name)?;
        let target = target.fd().map_err(|source| Error::Program { name, source })?;
        self.scattered.set(0, target, 0).map_err(|source| Error::Map { name: maps::SCATTERED, source })?;
        self.time(symbols::SCATTER, frame, repeat)
    }

    fn time(&mut self, name: &'static str, frame: &[u8], repeat: u32) -> Result<Duration, Error> {
        let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() };
        let result = program(&mut self.datapath.ebpf, name)?
            .test_run(options)
            .map_err(|source| Error::Program { name, source })?;
        Ok(result.duration)
    }
}

const fn symbol(what: Program) -> &'static str {
    match what {
        Program::Empty => symbols::EMPTY,
        Program::Filter => symbols::FILTER,
    }
}
