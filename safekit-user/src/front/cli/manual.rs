//! `safekit completions SHELL` and `safekit man`: what shells and `man` need, made from the same words as `--help`.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::{Cli, fail, out};
use crate::front::exit::Exit;

const NAME: &str = "safekit";
/// Of pages about commands of the administrator (man-pages(7)).
const SECTION: &str = "8";

#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell that is to complete.
    #[arg(value_enum)]
    pub shell: Shell,
}

#[derive(Args, Debug)]
pub struct ManArgs {
    /// Write a page for every command into this directory, which is made if it is missing.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum ManError {
    #[error("cannot make the directory {}", dir.display())]
    Directory {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write the page {}", page.display())]
    Write {
        page: PathBuf,
        #[source]
        source: io::Error,
    },
}

pub fn completions(args: &CompletionsArgs) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut shown(), NAME, &mut script);
    out(String::from_utf8_lossy(&script).trim_end());
    Exit::Done
}

pub fn man(args: &ManArgs) -> Exit {
    let Some(dir) = &args.dir else {
        let pages = pages();
        let (_, top) = pages.last().expect("the page of the program itself comes last");
        out(String::from_utf8_lossy(top).trim_end());
        return Exit::Done;
    };
    match write(dir) {
        Ok(count) => {
            let top = dir.join(format!("{NAME}.{SECTION}"));
            out(&format!("{count} pages in {}\nnext step: man -l {}", dir.display(), top.display()));
            Exit::Done
        }
        Err(error) => {
            fail(&error, "safekit man --dir DIR, where DIR is a directory that you may write");
            Exit::Failed
        }
    }
}

fn write(dir: &Path) -> Result<usize, ManError> {
    std::fs::create_dir_all(dir).map_err(|source| ManError::Directory { dir: dir.to_owned(), source })?;
    let pages = pages();
    for (name, text) in &pages {
        let page = dir.join(format!("{name}.{SECTION}"));
        std::fs::write(&page, text).map_err(|source| ManError::Write { page, source })?;
    }
    Ok(pages.len())
}

/// The commands that are there for people: a shell need not offer the others.
fn shown() -> Command {
    let whole = Cli::command();
    let verbs: Vec<Command> = whole.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned().collect();
    Command::new(NAME)
        .version(env!("CARGO_PKG_VERSION"))
        .propagate_version(true)
        .about(whole.get_about().cloned().unwrap_or_default())
        .subcommand_required(true)
        .subcommands(verbs)
}

/// Name and text of each page: those of a command's parts before its own, the program's last.
fn pages() -> Vec<(String, Vec<u8>)> {
    let mut whole = shown().disable_help_subcommand(true);
    whole.build();
    let mut pages = Vec::new();
    add_pages(&whole, None, &mut pages);
    pages
}

fn add_pages(command: &Command, parent: Option<&str>, pages: &mut Vec<(String, Vec<u8>)>) {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    for part in command.get_subcommands().filter(|part| !part.is_hide_set()) {
        add_pages(part, Some(&name), pages);
    }
    let text = page(command, &name, parent).expect("a Vec takes all that is written to it");
    pages.push((name, text));
}

fn page(command: &Command, name: &str, parent: Option<&str>) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone())
        .section(SECTION)
        // No date: the same version gives the same pages. The empty word would be left out, and shift the others.
        .date(" ")
        .source(format!("{NAME} {}", env!("CARGO_PKG_VERSION")))
        .manual("High availability");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    let mut rest = Roff::new();
    exit_codes(&mut rest);
    if parent.is_none() {
        files(&mut rest);
    }
    see_also(&mut rest, name, parent);
    rest.to_writer(&mut text)?;
    Ok(text)
}

fn exit_codes(roff: &mut Roff) {
    roff.control("SH", ["EXIT STATUS"]);
    for exit in Exit::ALL {
        entry(roff, &exit.code().to_string(), exit.meaning());
    }
}

fn files(roff: &mut Roff) {
    roff.control("SH", ["FILES"]);
    for (file, what) in FILES {
        entry(roff, file, what);
    }
}

/// Where things are when nothing else is said.
const FILES: [(&str, &str); 4] = [
    (crate::config::CONFIG_FILE_DEFAULT, "The configuration, the same on every node."),
    (crate::config::KEY_FILE_DEFAULT, "The cluster key, mode 0600, the same on every node."),
    ("/run/safekit", "The control socket and the pinned maps."),
    ("/var/lib/safekit", "State that outlives the machine's restart, and the output of scripts."),
];

fn see_also(roff: &mut Roff, name: &str, parent: Option<&str>) {
    roff.control("SH", ["SEE ALSO"]);
    let mut names = vec![NAME];
    names.extend(parent.filter(|parent| *parent != NAME));
    names.extend(
        ["safekit-status", "safekit-doctor", "safekit-config"].iter().filter(|also| parent != Some(*also)),
    );
    names.retain(|also| *also != name);
    let names: Vec<String> = names.iter().map(|name| format!("{name}({SECTION})")).collect();
    roff.text([roman(names.join(", "))]);
}

fn entry(roff: &mut Roff, what: &str, meaning: &str) {
    roff.control("TP", []);
    roff.text([roman(what)]);
    roff.text([roman(meaning)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a command and its parts, the whole path and what is missing.
    fn silent(command: &Command, path: &str, found: &mut Vec<String>) {
        let path = format!("{path}{}", command.get_name());
        if command.get_about().is_none() {
            found.push(path.clone());
        }
        let arguments = command.get_arguments().filter(|argument| !argument.is_hide_set());
        for argument in arguments.filter(|argument| argument.get_help().is_none()) {
            found.push(format!("{path}: {}", argument.get_id()));
        }
        for part in command.get_subcommands() {
            silent(part, &format!("{path} "), found);
        }
    }

    #[test]
    fn every_command_and_argument_says_what_it_is_for() {
        let mut found = Vec::new();
        silent(&shown(), "", &mut found);
        assert_eq!(found, Vec::<String>::new(), "a `///` comment above each is its help");
    }

    #[test]
    fn each_command_has_its_page_and_hidden_ones_have_none() {
        let names: Vec<String> = pages().into_iter().map(|(name, _)| name).collect();
        for name in ["safekit", "safekit-status", "safekit-config-apply", "safekit-man"] {
            assert!(names.iter().any(|known| known == name), "no page for {name}: {names:?}");
        }
        assert_eq!(names.last().map(String::as_str), Some(NAME));
        assert!(!names.iter().any(|name| name.contains("demo-web") || name.contains("help")), "{names:?}");
    }

    #[test]
    fn a_page_tells_exit_codes_and_its_parent() {
        let pages = pages();
        let (_, text) = pages.iter().find(|(name, _)| name == "safekit-config-apply").expect("a page");
        let text = String::from_utf8(text.clone()).expect("UTF-8");
        assert!(text.contains(".TH safekit-config-apply 8"), "{text}");
        assert!(text.contains("safekit(8), safekit\\-config(8)"), "{text}");
        assert!(text.contains(Exit::Unreachable.meaning()), "{text}");
    }
}
