//! `safekit demo`: a whole farm on one machine, and what happens to its clients when nodes die and return.
//!
//! ```text
//!   script ──▶ scenario ──▶ farm (daemons, web servers) ──▶ topology (namespaces, bridge)
//!                 │            ▲ control sockets: watch ──▶ timeline
//!                 │            │
//!                 │         client ──▶ ledger,  tap
//!                 └──▶ report ◀──┘
//! ```

pub mod client;
pub mod farm;
pub mod interrupt;
pub mod ledger;
pub mod leftovers;
pub mod namespace;
pub mod prefix;
pub mod process;
pub mod report;
pub mod scenario;
pub mod script;
pub mod tap;
pub mod timeline;
pub mod topology;
pub mod watch;
pub mod web;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use self::interrupt::Interrupt;
use self::report::{Report, StepReport};
use self::scenario::{Audience, Error, LONG_CONNECTIONS, REQUESTS_PER_SECOND, Scenario};
use self::script::Step;
use self::topology::{NODES_MAX, VIRTUAL_IP};
use super::exit::Exit;

/// What happens when nobody says what shall happen.
const STORY: &str = "kill,revive,stop,start";

#[derive(Args, Debug)]
pub struct DemoArgs {
    #[command(subcommand)]
    pub verb: Option<DemoVerb>,
    /// Play these steps without a screen: kill, crash, revive, stop, start; `kill:n1` names the node.
    #[arg(long, value_name = "STEPS")]
    pub script: Option<String>,
    /// Print one JSON object at the end, and progress on stderr. Exit code 0 only if every step met its bars.
    #[arg(long)]
    pub json: bool,
    /// Leave the farm running at the end until Ctrl-C, for experiments of your own.
    #[arg(long)]
    pub keep: bool,
    /// How many nodes.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=NODES_MAX as i64))]
    pub nodes: u8,
}

#[derive(Subcommand, Debug)]
pub enum DemoVerb {
    /// Remove what demos have left behind whose processes were killed.
    Clean,
}

pub fn run(args: &DemoArgs) -> Exit {
    if !rustix::process::geteuid().is_root() {
        eprintln!("error: the demo needs root, because it makes network namespaces and loads packet filters");
        eprintln!("next: sudo {}", std::env::args().collect::<Vec<_>>().join(" "));
        return Exit::Failed;
    }
    match args.verb {
        Some(DemoVerb::Clean) => clean(),
        None => show(args),
    }
}

/// Removes the runs of processes that are gone.
pub fn clean() -> Exit {
    let (removed, failures) = leftovers::clean();
    for run in &removed {
        println!("removed {run}");
    }
    if removed.is_empty() {
        println!("nothing was left behind");
    }
    for failure in &failures {
        eprintln!("error: {failure}");
    }
    if failures.is_empty() { Exit::Done } else { Exit::Failed }
}

fn show(args: &DemoArgs) -> Exit {
    let nodes = usize::from(args.nodes);
    let steps = match script::parse(args.script.as_deref().unwrap_or(STORY), nodes) {
        Ok(steps) => steps,
        Err(error) => {
            eprintln!("error: {error}");
            eprintln!("next: safekit demo --script {STORY}");
            return Exit::Usage;
        }
    };
    let result = binary().and_then(|binary| {
        let interrupt = Interrupt::on_signals().map_err(Failure::Start)?;
        let lines = Lines { to_stderr: args.json };
        lines.print(&plan(nodes));
        play(args, &binary, &steps, &interrupt, &lines)
    });
    match result {
        Ok(exit) => exit,
        Err(Failure::Scenario(Error::Interrupted(_))) => {
            eprintln!("interrupted; everything is removed again");
            Exit::Failed
        }
        Err(error) => {
            eprintln!("error: {}", causes(&error));
            eprintln!("next: everything is removed again; the message above says what to mend");
            Exit::Failed
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Scenario(#[from] Error),
    #[error("cannot start")]
    Start(#[source] io::Error),
}

fn binary() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(Failure::Start)
}

fn play(
    args: &DemoArgs,
    binary: &std::path::Path,
    steps: &[Step],
    interrupt: &Interrupt,
    lines: &Lines,
) -> Result<Exit, Failure> {
    let mut scenario = Scenario::build(binary, usize::from(args.nodes), interrupt, lines)?;
    let reports: Vec<StepReport> =
        steps.iter().map(|step| scenario.play(*step)).collect::<Result<_, Error>>()?;
    if args.keep {
        wait_for_the_end(&scenario, interrupt, lines);
    }
    drop(scenario);
    let report = Report::new(usize::from(args.nodes), reports);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report).expect("a report is plain data"));
    } else {
        lines.print(&summary(&report));
    }
    Ok(if report.ok { Exit::Done } else { Exit::Failed })
}

fn wait_for_the_end(scenario: &Scenario<'_>, interrupt: &Interrupt, lines: &Lines) {
    let topology = scenario.farm.topology();
    lines.print(&format!(
        "\nkept until Ctrl-C. Be the client:  ip netns exec {} curl http://{VIRTUAL_IP}/\n\
         Ask a node:  safekit status --run-dir {}",
        topology.client().name(),
        topology.run_dir().join("n1").display()
    ));
    while interrupt.nap().is_ok() {
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn plan(nodes: usize) -> String {
    format!(
        "This makes {nodes} nodes, a switch and a client of network namespaces on this machine, runs a real daemon and\n\
         a small web server on each node, behind the virtual IP {VIRTUAL_IP}, and a client that opens {REQUESTS_PER_SECOND} connections\n\
         a second and holds {LONG_CONNECTIONS}. Nothing of this machine's own network is touched, and everything is removed at\n\
         the end, also after an error or Ctrl-C.\n"
    )
}

fn summary(report: &Report) -> String {
    let mut text = String::from("\n");
    for step in &report.steps {
        text += &format!("{}\n", step.sentence());
        for missed in step.missed() {
            text += &format!("    missed: {missed}\n");
        }
    }
    text + if report.ok { "All of it as it should be." } else { "Not as it should be: see what was missed." }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

/// Plain lines, for pipes and logs.
struct Lines {
    to_stderr: bool,
}

impl Lines {
    fn print(&self, text: &str) {
        if self.to_stderr {
            eprintln!("{text}");
        } else {
            println!("{text}");
        }
    }
}

impl Audience for Lines {
    fn caption(&self, text: &str) {
        self.print(&format!("… {text}"));
    }

    fn result(&self, report: &StepReport) {
        self.print(&format!("  {}", report.sentence()));
    }

    fn is_impatient(&self) -> bool {
        false
    }
}

/// Whether a person looks at a screen that can be drawn on.
fn has_screen(args: &DemoArgs) -> bool {
    args.script.is_none() && !args.json && io::stdout().is_terminal() && io::stdin().is_terminal()
}
