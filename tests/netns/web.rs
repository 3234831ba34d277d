//! What daemons answer over HTTP: figures that scrapers understand, and health that balancers can go by.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use safekit::driver::clock;
use safekit::front::demo::farm::{Design, Farm, MODULE};
use safekit::front::demo::interrupt::Interrupt;
use safekit::front::demo::scenario::{seen, wait_whole};
use safekit::types::NodeId;
use safekit_tests::lab;

use crate::modules::Site;

const N1: NodeId = NodeId(0);
const N2: NodeId = NodeId(1);
const CONSOLE: &str = "console: { listen: 0.0.0.0:9010 }\n";
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9010);
const WITHIN: Duration = Duration::from_secs(10);
/// From SIGTERM to the end, with connections open to the daemon.
const END_MAX: Duration = Duration::from_millis(500);

/// Debian's python3-prometheus-client reads both forms, and is strict with this one.
const PARSER: &str = "import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strict
from prometheus_client.parser import text_string_to_metric_families as text
families = list((strict if sys.argv[1] == 'openmetrics' else text)(sys.stdin.read()))
print(' '.join(family.name for family in families))
";

fn ask(farm: &Farm, node: NodeId, path: &str, headers: &str) -> anyhow::Result<String> {
    let namespace = farm.topology().node(node).context("the node is powered")?;
    let answer = namespace.inside(|| -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&ADDRESS, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: node\r\n{headers}\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })?;
    Ok(answer?)
}

/// 200, 503, … and the text behind the headers.
fn health(farm: &Farm, node: NodeId) -> anyhow::Result<(u16, String)> {
    let answer = ask(farm, node, &format!("/health/{MODULE}"), "")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer has a head")?;
    let status = head.split(' ').nth(1).context("a head has a status")?.parse()?;
    Ok((status, body.trim_end().to_owned()))
}

fn families(page: &str, form: &str) -> anyhow::Result<Vec<String>> {
    let mut parser = Command::new("/usr/bin/python3")
        .args(["-c", PARSER, form])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run Debian's python3")?;
    parser.stdin.take().context("it has an input")?.write_all(page.as_bytes())?;
    let output = parser.wait_with_output()?;
    ensure!(output.status.success(), "no {form}; `cargo xtask setup` installs its parser:\n{page}");
    Ok(String::from_utf8(output.stdout)?.split_whitespace().map(str::to_owned).collect())
}

#[test]
fn a_dead_application_makes_its_node_ill_and_scrapers_read_all_nodes() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let mut site = Site::build_with(&[], CONSOLE)?;
    site.wait_up()?;
    let nodes: Vec<NodeId> = site.farm.ids().collect();
    lab::wait_until("every node says that it serves", WITHIN, || {
        nodes.iter().all(|node| health(&site.farm, *node).is_ok_and(|(status, _)| status == 200))
    })?;
    for node in &nodes {
        scrape(&site.farm, *node)?;
    }
    let killed = site.kill_nginx(N2)?;
    let mut ill = None;
    lab::wait_until("n2 was ill and is well again", WITHIN, || {
        let status = health(&site.farm, N2);
        if let (Ok((503, sentence)), None) = (&status, &ill) {
            ill = Some((clock::now().since(killed), sentence.clone()));
        }
        for node in nodes.iter().filter(|node| **node != N2) {
            assert!(health(&site.farm, *node).is_ok_and(|(status, _)| status == 200), "{node:?} serves on");
        }
        ill.is_some() && status.is_ok_and(|(status, _)| status == 200)
    })
    .with_context(|| site.words())?;
    let (after, sentence) = ill.context("it was ill")?;
    eprintln!("… 503 {after:?} after the kill: {sentence}");
    ensure!(sentence.starts_with("www on n2 "), "{sentence}");
    let page = ask(&site.farm, N2, "/metrics", "")?;
    ensure!(page.contains("\nsafekit_module_loops{module=\"www\"} 1\n"), "{page}");
    ensure!(page.contains("\nsafekit_script_runs_total{module=\"www\",script=\"start_both\"} 2\n"), "{page}");
    drained_is_ill(&site)
}

fn scrape(farm: &Farm, node: NodeId) -> anyhow::Result<()> {
    for (accept, form) in
        [("", "openmetrics"), ("accept: text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n", "text")]
    {
        let began = clock::now();
        let answer = ask(farm, node, "/metrics", accept)?;
        let took = clock::now().since(began);
        let (head, page) = answer.split_once("\r\n\r\n").context("an answer has a head")?;
        ensure!(head.starts_with("HTTP/1.1 200 ") && page.ends_with("# EOF\n"), "{answer}");
        let families = families(page, form)?;
        eprintln!("… {node:?}: {} families, {} bytes of {form} in {took:?}", families.len(), page.len());
        for name in
            ["safekit_module_role", "safekit_farm_buckets", "safekit_check_up", "safekit_link_connected"]
        {
            ensure!(families.iter().any(|family| family == name), "{name} is missing in {families:?}");
        }
        let dir = farm.node_dir(node);
        let dir = dir.parent().and_then(|dir| dir.to_str()).context("the run directory is plain text")?;
        ensure!(!page.contains(dir), "the page names files:\n{page}");
    }
    Ok(())
}

fn drained_is_ill(site: &Site) -> anyhow::Result<()> {
    let dir = site.farm.node_dir(N1);
    let dir = dir.to_str().context("the run directory is plain text")?;
    ensure!(lab::safekit(&["drain", "n1", "--run-dir", dir])?.status.success());
    lab::wait_until("n1 says that it is drained", WITHIN, || {
        health(&site.farm, N1).is_ok_and(|(status, why)| status == 503 && why.contains("drained"))
    })?;
    ensure!(lab::safekit(&["undrain", "n1", "--run-dir", dir])?.status.success());
    lab::wait_until("n1 serves again", WITHIN, || {
        health(&site.farm, N1).is_ok_and(|(status, _)| status == 200)
    })
}

#[test]
fn connections_that_say_nothing_hold_up_neither_answers_nor_the_end() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let mut farm = with_console(CONSOLE)?;
    let namespace = farm.topology().node(N2).context("the node is powered")?;
    let held = namespace.inside(|| -> std::io::Result<Vec<TcpStream>> {
        let mut held = Vec::new();
        for _ in 0..500 {
            held.push(TcpStream::connect(ADDRESS)?);
        }
        for slow in held.iter_mut().step_by(5) {
            // Those that were pushed out already may say so.
            let _closed = slow.write_all(b"GET /health HTTP/1.1\r\nx: ");
        }
        Ok(held)
    })??;
    let began = clock::now();
    let answer = ask(&farm, N2, "/health", "")?;
    let took = clock::now().since(began);
    ensure!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("CONVERGED"), "{answer}");
    eprintln!("… answered in {took:?} beside {} connections", held.len());
    ensure!(took < Duration::from_millis(500), "answered after {took:?}");
    // No session of the farm's is open, so nothing but these connections could hold up the end.
    if let Some(web) = farm.topology().node(N2) {
        ensure!(web.inside(|| TcpStream::connect(ADDRESS).is_ok())?, "it still listens");
    }
    let asked = farm.stop(N2)?;
    farm.finish_stop(N2)?;
    let ended = clock::now().since(asked);
    eprintln!("… ended {ended:?} after SIGTERM");
    ensure!(ended < END_MAX, "ended after {ended:?}");
    drop(held);
    Ok(())
}

/// The farm works without its console; a configuration that names another address is taken without a stop.
#[test]
fn an_address_that_is_not_here_is_told_and_another_is_taken_while_it_runs() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let mut farm = with_console("console: { listen: 192.0.2.1:9010 }\n")?;
    let snapshot = farm.sight(N2).snapshot.context("n2 answers")?;
    ensure!(snapshot.warnings.iter().any(|it| it.what.contains("192.0.2.1:9010")), "{:?}", snapshot.warnings);
    let before = farm.daemon_pid(N2)?;
    let file = farm.config().to_owned();
    let text = std::fs::read_to_string(&file)?.replace("192.0.2.1:9010", "0.0.0.0:9010");
    let new = file.with_extension("new");
    std::fs::write(&new, text)?;
    let dir = farm.node_dir(N2);
    let arguments = ["config", "apply", "--yes", new.to_str().context("plain text")?, "--run-dir"];
    let arguments = [&arguments[..], &[dir.to_str().context("plain text")?]].concat();
    let applied = lab::safekit(&arguments)?;
    ensure!(applied.status.success(), "{applied:?}");
    lab::wait_until("n2 answers at its new address", WITHIN, || {
        ask(&farm, N2, "/health", "").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 "))
    })?;
    ensure!(farm.daemon_pid(N2)? == before, "the daemon was started anew");
    lab::wait_until("the warning is gone", WITHIN, || {
        farm.sight(N2).snapshot.is_some_and(|it| !it.warnings.iter().any(|it| it.what.contains("console")))
    })?;
    farm.check_daemons()?;
    Ok(())
}

fn with_console(section: &str) -> anyhow::Result<Farm> {
    let binary = lab::binary()?;
    let mut farm = Farm::designed(&binary, Design::demo(&binary, 3))?;
    let text = std::fs::read_to_string(farm.config())?;
    std::fs::write(farm.config(), format!("{text}{section}"))?;
    for node in farm.ids() {
        farm.start(node)?;
    }
    wait_whole(&mut farm, &Interrupt::default()).with_context(|| seen(&farm))?;
    Ok(farm)
}
