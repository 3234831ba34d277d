//! The benchmarks still run, on the smallest amount: the farm's (direct access and ours, without rivals), the modules'.

use std::process::Command;

use anyhow::Context;
use safekit::front::demo::prefix::Prefix;
use safekit_tests::lab;
use serde_json::Value;

#[test]
fn a_quick_benchmark_measures_direct_access_and_the_farm() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let bench = Command::new(env!("CARGO_BIN_EXE_bench-farm"))
        .args(["--quick", "--json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    let run = Prefix { pid: bench.id(), number: 0 };
    let output = bench.wait_with_output()?;
    let progress = String::from_utf8_lossy(&output.stderr);
    let report: Value =
        serde_json::from_slice(&output.stdout).with_context(|| progress.clone().into_owned())?;
    let requests = report["requests"].as_array().context("requests")?;
    let names: Vec<&str> = requests.iter().filter_map(|figure| figure["contestant"].as_str()).collect();
    assert_eq!(names, ["direct", "ours"]);
    for figure in requests {
        for kind in ["keepAlive", "fresh"] {
            assert_eq!(figure[kind]["failed"], 0, "{figure:#}");
            for what in ["requestsPerSecond", "cpuUsPerRequest"] {
                assert!(figure[kind][what]["median"].as_f64().is_some_and(|value| value > 0.0), "{figure:#}");
            }
        }
    }
    assert_eq!(lab::leftovers_of(run), Vec::<String>::new());
    Ok(())
}

#[test]
fn a_quick_benchmark_of_modules_measures_everything() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let bench = Command::new(env!("CARGO_BIN_EXE_bench-modules"))
        .args(["--quick", "--json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    let run = Prefix { pid: bench.id(), number: 0 };
    let output = bench.wait_with_output()?;
    let report: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    for figure in ["startMs", "idlePercent", "detectedMs", "restartedMs", "readyMs"] {
        assert!(report[figure]["median"].as_f64().is_some_and(|value| value > 0.0), "{figure}: {report:#}");
    }
    assert!(report["memory"]["proportional"].as_f64().is_some_and(|value| value > 1.0), "{report:#}");
    assert_eq!(lab::leftovers_of(run), Vec::<String>::new());
    Ok(())
}
