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
pub mod picture;
pub mod prefix;
pub mod process;
pub mod report;
pub mod scenario;
pub mod screen;
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

use self::farm::Farm;
use self::interrupt::Interrupt;
use self::report::{Report, StepReport};
use self::scenario::{Audience, Error, LONG_CONNECTIONS, REQUESTS_PER_SECOND, Scenario};
use self::screen::Screen;
use self::script::Step;
use self::topology::{NODES_MAX, VIRTUAL_IP};
use super::exit::Exit;

/// What happens when nobody says what shall happen.
const STORY: &str = "kill,revive,stop,start";
/// On the screen: time to read the plan, to see a healthy farm, and to read the last result.
const PLAN_PAUSE: Duration = Duration::from_secs(2);
const OPENING: Duration = Duration::from_secs(3);
const CLOSING: Duration = Duration::from_secs(3);

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
        let stage = Stage { args, binary, interrupt };
        let reports = if has_screen(args) {
            // The plan is to be read before the screen hides it.
            stage.interrupt.pause(PLAN_PAUSE).map_err(Error::from)?;
            stage.play_on_screen(&steps)?
        } else {
            stage.play_in_lines(&steps, &lines)?
        };
        Ok(conclude(args, &Report::new(nodes, reports), &lines))
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

struct Stage<'a> {
    args: &'a DemoArgs,
    binary: PathBuf,
    interrupt: Interrupt,
}

impl Stage<'_> {
    fn play_in_lines(&self, steps: &[Step], lines: &Lines) -> Result<Vec<StepReport>, Error> {
        let nodes = usize::from(self.args.nodes);
        let mut scenario = Scenario::build(&self.binary, nodes, &self.interrupt, lines)?;
        let reports = steps.iter().map(|step| scenario.play(*step)).collect::<Result<_, _>>()?;
        if self.args.keep {
            wait_for_the_end(&scenario, &self.interrupt, lines);
        }
        Ok(reports)
    }

    /// Plays the story until a key is pressed; from then on the person plays, until q.
    fn play_on_screen(&self, story: &[Step]) -> Result<Vec<StepReport>, Error> {
        let screen = Screen::open(&self.interrupt).map_err(Error::Screen)?;
        screen.caption("building the machines and starting the daemons");
        let farm = Farm::build(&self.binary, usize::from(self.args.nodes))?;
        screen.show_farm(&farm);
        let mut scenario = Scenario::with(farm, LONG_CONNECTIONS, &self.interrupt, &screen)?;
        screen.show(&scenario);
        screen.caption("all is well: every node serves its share");
        let mut reports = Vec::new();
        let played = self.tell(story, &screen, &mut scenario, &mut reports);
        match played {
            // q is how a person says that it was enough.
            Err(Error::Interrupted(_)) | Ok(()) => Ok(reports),
            Err(error) => Err(error),
        }
    }

    fn tell(
        &self,
        story: &[Step],
        screen: &Screen,
        scenario: &mut Scenario<'_>,
        reports: &mut Vec<StepReport>,
    ) -> Result<(), Error> {
        scenario.idle(OPENING)?;
        for step in story {
            if screen.has_wish() {
                break;
            }
            reports.push(scenario.play_shown(*step, |scenario| screen.show(scenario))?);
        }
        if !self.args.keep {
            scenario.idle(CLOSING)?;
            if !screen.has_wish() {
                return Ok(());
            }
        }
        screen.caption("your turn: press a key");
        loop {
            match screen.wish().map(|wish| screen::step(wish, &scenario.farm)) {
                Some(Ok(step)) => reports.push(scenario.play_shown(step, |scenario| screen.show(scenario))?),
                Some(Err(why_not)) => screen.caption(&why_not),
                None => self.interrupt.nap()?,
            }
        }
    }
}

fn conclude(args: &DemoArgs, report: &Report, lines: &Lines) -> Exit {
    if args.json {
        println!("{}", serde_json::to_string_pretty(report).expect("a report is plain data"));
    } else {
        lines.print(&summary(report));
    }
    if report.ok { Exit::Done } else { Exit::Failed }
}

fn wait_for_the_end(scenario: &Scenario<'_>, interrupt: &Interrupt, lines: &Lines) {
    let topology = scenario.farm.topology();
    lines.print(&format!(
        "\nkept until Ctrl-C. Be the client:  ip netns exec {} curl http://{VIRTUAL_IP}/\n\
         Ask a node:  safekit status --run-dir {}",
        topology.client().name(),
        topology.run_dir().join("n1").display()
    ));
    while interrupt.nap().is_ok() {}
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
