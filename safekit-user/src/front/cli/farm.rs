//! `safekit farm show` and `safekit farm explain CLIENT[:PORT]`.

use std::net::{IpAddr, SocketAddr};

use clap::{Args, Subcommand};

use super::status::{self, StatusArgs};
use super::{Asking, Format};
use crate::front::control_client::{Client, Error};
use crate::front::exit::Exit;
use crate::types::command::Explanation;
use crate::types::{Command, Reply};

#[derive(Args, Debug)]
pub struct FarmArgs {
    #[command(subcommand)]
    pub verb: FarmVerb,
}

#[derive(Subcommand, Debug)]
pub enum FarmVerb {
    /// Virtual IPs, rules, shares and packet counters.
    Show(StatusArgs),
    /// Which node serves a client, why, since when, and who would be next.
    Explain(ExplainArgs),
}

#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// The client's address, with its port where a rule balances by connection: `192.0.2.7:40312`, `[2001:db8::7]:40312`.
    #[arg(value_parser = parse_client)]
    pub client: (IpAddr, Option<u16>),
    /// A table for people, or JSON for programs.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
    #[command(flatten)]
    pub asking: Asking,
}

fn parse_client(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((address, None));
    }
    match text.parse::<SocketAddr>() {
        Ok(socket) => Ok((socket.ip(), Some(socket.port()))),
        Err(_) => Err("neither ADDRESS nor ADDRESS:PORT ([ADDRESS]:PORT for IPv6)".to_owned()),
    }
}

pub fn run(args: &FarmArgs) -> Exit {
    match &args.verb {
        FarmVerb::Show(show) => status::run(show),
        FarmVerb::Explain(explain) => match explain_client(explain) {
            Ok(exit) => exit,
            Err(error) => error.report(),
        },
    }
}

fn explain_client(args: &ExplainArgs) -> Result<Exit, Error> {
    let (client, port) = args.client;
    let answers = match Client::connect(&args.asking.socket())?.ask(&Command::Explain { client, port })? {
        Reply::Explained { answers } => answers,
        Reply::Refused { error, next_step } => {
            eprintln!("error: {error}\nnext: {next_step}");
            return Ok(Exit::Failed);
        }
        _ => return Err(Error::Unexpected),
    };
    match args.output {
        Format::Json => {
            let object = serde_json::json!({
                "apiVersion": crate::types::snapshot::API_VERSION,
                "answers": answers,
            });
            println!("{object:#}");
        }
        Format::Table => answers.iter().for_each(|answer| print!("{}", sentence(args, answer))),
    }
    Ok(if answers.is_empty() { nothing_to_say(args) } else { Exit::Done })
}

fn nothing_to_say(args: &ExplainArgs) -> Exit {
    eprintln!("error: no rule serves clients of the family of {}", args.client.0);
    eprintln!("next: `safekit farm show` lists virtual IPs and rules");
    Exit::Failed
}

fn sentence(args: &ExplainArgs, answer: &Explanation) -> String {
    let (client, port) = args.client;
    let client = match (answer.balance.as_str(), port) {
        ("connection", Some(port)) => SocketAddr::new(client, port).to_string(),
        _ => client.to_string(),
    };
    let owner = answer.owner.as_deref().unwrap_or("nobody");
    let age = status::span(crate::driver::clock::now().since(answer.since));
    let mut text = format!(
        "{client} to {} {}/{} (farm {}): served by {owner}\n  bucket {} by {} hash; {owner}'s since view {} ({age} ago)\n",
        answer.virtual_ip,
        answer.port,
        answer.protocol,
        answer.module,
        answer.bucket.0,
        answer.balance,
        answer.since_view.0
    );
    if answer.transitional {
        text += "  in transition: connections made before the last change stay where they are\n";
    }
    if !answer.next.is_empty() {
        text += &format!("  next in line: {}\n", answer.next.join(", "));
    }
    text
}
