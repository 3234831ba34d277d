//! The command line, a file for each verb. A verb has a clap `Args` struct and a `run` that answers with an
//! [`Exit`](super::exit::Exit): results on stdout, errors and next steps on stderr.

pub mod config;
pub mod keygen;

use std::io::Write;

/// A reader that has gone (`| head`) is no error of ours.
fn out(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn err(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// An error with its causes, and what to do.
fn fail(error: &dyn std::error::Error, next_step: &str) {
    let causes = std::iter::successors(error.source(), |error| error.source());
    let causes: String = causes.map(|cause| format!(": {cause}")).collect();
    err(&format!("error: {error}{causes}\nnext step: {next_step}"));
}
