//! A program that runs on and reports through `safekit check set`. It is started again when it ends.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::custom::{Program, ended};
use super::{Ends, Surroundings};
use crate::config::upkeep::Check;

/// It ended, which it should not. What it reported before still counts, until it ended `fall` times in a row.
pub(super) struct Trouble {
    pub(super) output: String,
}

/// The program ends when this is dropped.
pub(super) struct Reporter {
    _task: Ends,
}

impl Reporter {
    pub(super) fn start(
        check: &Check,
        run: &str,
        around: &Arc<Surroundings>,
        troubles: mpsc::Sender<Trouble>,
    ) -> Self {
        let (name, run, around) = (check.name.clone(), run.to_owned(), Arc::clone(around));
        let pause = check.interval;
        let keep = async move {
            loop {
                let what = run_once(&name, &run, &around).await;
                let output =
                    format!("the program ended ({what}); it is started again in {} s", pause.as_secs());
                if troubles.send(Trouble { output }).await.is_err() {
                    return;
                }
                sleep(pause).await;
            }
        };
        Self { _task: Ends(tokio::spawn(keep)) }
    }
}

async fn run_once(name: &str, run: &str, around: &Surroundings) -> String {
    match Program::start(name, run, around) {
        Ok(program) => match program.end().await {
            Ok((status, last_line)) => ended(status, &last_line),
            Err(error) => format!("cannot wait for it: {error}"),
        },
        Err(error) => format!("cannot run it: {error}"),
    }
}
