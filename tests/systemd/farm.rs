//! `configs/farm.yaml` as it is, on three machines with a systemd, the unit and nginx of their own.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use safekit::driver::clock;
use safekit_tests::lab;
use serde_json::Value;

use crate::machine::Machine;

const UNIT: &str = include_str!("../../configs/safekit.service");
const CONFIG: &str = include_str!("../../configs/farm.yaml");
const WITHIN: Duration = Duration::from_secs(20);
const NODES: u32 = 3;
/// A request has failed when nothing has come after so long, in seconds.
const PATIENCE: &str = "3";
/// Says who answered, or `failed`.
const ASK: &str = "for i in $(seq $1); do timeout $2 bash -c \
    'exec 3<>/dev/tcp/10.99.0.100/80 && printf \"GET / HTTP/1.0\\r\\n\\r\\n\" >&3 && tail -n 1 <&3' 2>/dev/null || echo failed; done";

/// Two bridges, one of which a client is on.
struct Switch(Child);

impl Switch {
    fn build() -> anyhow::Result<Self> {
        let holder = Command::new("unshare").args(["--net", "sleep", "600"]).stdin(Stdio::null()).spawn()?;
        let switch = Self(holder);
        let ours = fs::read_link("/proc/self/ns/net")?;
        let theirs = format!("/proc/{}/ns/net", switch.0.id());
        lab::wait_until("the switch is a namespace", WITHIN, || {
            fs::read_link(&theirs).is_ok_and(|it| it != ours)
        })?;
        switch.run("for br in br0 br1; do ip link add $br type bridge && ip link set $br up; done && ip addr add 10.99.0.254/24 dev br0")?;
        // Where it is there, iptables of this machine would see what the switch forwards.
        switch.run("sysctl -qw net.bridge.bridge-nf-call-iptables=0 2>/dev/null || true")?;
        Ok(switch)
    }

    fn run(&self, script: &str) -> anyhow::Result<String> {
        let output = self.command(script).output()?;
        ensure!(output.status.success(), "{script}: {output:?}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.0.id().to_string(), "-n", "bash", "-c", script, "bash"]);
        command
    }

    /// Requests, one after the other, by who answered.
    fn ask(&self, requests: u32) -> anyhow::Result<BTreeMap<String, u32>> {
        let output = self.command(ASK).args([&requests.to_string(), PATIENCE]).output()?;
        let mut answers = BTreeMap::new();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            *answers.entry(line.to_owned()).or_default() += 1;
        }
        Ok(answers)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

struct Farm {
    switch: Switch,
    machines: Vec<Machine>,
}

impl Farm {
    fn build() -> anyhow::Result<Self> {
        let switch = Switch::build()?;
        let mut machines = Vec::new();
        for number in 1..=NODES {
            let machine = Machine::boot(number)?;
            machine.plug_into(switch.0.id(), number)?;
            fs::copy(lab::binary()?, machine.path("/usr/bin/safekit"))?;
            fs::create_dir_all(machine.path("/etc/safekit"))?;
            fs::write(machine.path("/etc/safekit/safekit.yaml"), CONFIG)?;
            let site = format!("server {{ listen 80 default_server; return 200 \"web{number}\\n\"; }}\n");
            let enabled = machine.path("/etc/nginx/sites-enabled/default");
            fs::remove_file(&enabled)?;
            fs::write(enabled, site)?;
            machine.install(&[("safekit", UNIT)])?;
            machines.push(machine);
        }
        machines[0].run(&["safekit", "keygen"])?;
        let key = fs::read(machines[0].path("/etc/safekit/cluster.key"))?;
        for machine in &machines[1..] {
            let path = machine.path("/etc/safekit/cluster.key");
            fs::write(&path, &key)?;
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        }
        for machine in &machines {
            machine.run(&["systemctl", "start", "safekit"])?;
        }
        Ok(Self { switch, machines })
    }

    fn module(&self, machine: &Machine) -> Option<Value> {
        let status: Value =
            serde_json::from_str(&machine.output(&["safekit", "status", "-o", "json"])).ok()?;
        status["modules"].as_array()?.first().cloned()
    }

    fn is_up(&self, machine: &Machine) -> bool {
        self.module(machine).is_some_and(|it| it["state"]["role"] == "UP" && it["state"]["status"] == "Ready")
    }

    fn wait_whole(&self) -> anyhow::Result<()> {
        lab::wait_until("all nodes serve", WITHIN, || {
            self.machines
                .iter()
                .all(|it| self.is_up(it) && it.output(&["safekit", "status"]).starts_with("CONVERGED"))
        })
        .with_context(|| self.words())
    }

    fn words(&self) -> String {
        let each = self.machines.iter().map(|it| {
            format!(
                "{}\n{}\n",
                it.output(&["safekit", "status"]),
                it.output(&["safekit", "events", "-n", "20"])
            )
        });
        each.collect()
    }
}

/// Machine by machine the sample that a user begins with: nothing of it is changed.
#[test]
fn the_sample_keeps_a_real_nginx_farm_available() -> anyhow::Result<()> {
    let Some(_lab) = lab::enter() else { return Ok(()) };
    let farm = Farm::build()?;
    farm.wait_whole()?;
    let answers = farm.switch.ask(60)?;
    ensure!(answers.len() == 3 && !answers.contains_key("failed"), "{answers:?}\n{}", farm.words());
    eprintln!("60 requests, by who answered: {answers:?}");

    let web2 = &farm.machines[1];
    for death in 1..=3 {
        web2.run(&["systemctl", "kill", "--signal", "KILL", "nginx"])?;
        let begun = clock::now();
        // What reached web2 before its share was gone is reset, as with any server that dies.
        std::thread::sleep(Duration::from_millis(100));
        let answers = farm.switch.ask(40)?;
        ensure!(
            answers.values().sum::<u32>() == 40 && !answers.contains_key("failed"),
            "death {death}: {answers:?}\n{}",
            farm.words()
        );
        lab::wait_until("nginx serves again", WITHIN, || farm.is_up(web2))?;
        eprintln!(
            "death {death}: 40 requests meanwhile: {answers:?}, known to be up again within {:?}",
            clock::now().since(begun)
        );
    }
    farm.wait_whole()?;
    web2.run(&["systemctl", "kill", "--signal", "KILL", "nginx"])?;
    lab::wait_until("the module stops", WITHIN, || {
        farm.module(web2).is_some_and(|it| it["state"]["role"] == "STOP")
    })
    .with_context(|| farm.words())?;
    let why = web2.output(&["safekit", "status", "www"]);
    ensure!(
        why.contains("max_loop: more than 3 automatic actions in 24 h")
            && why.contains("process.nginx is down"),
        "{why}"
    );
    let answers = farm.switch.ask(40)?;
    ensure!(
        answers.len() == 2 && !answers.contains_key("failed") && !answers.contains_key("web2"),
        "{answers:?}"
    );
    web2.run(&["safekit", "start", "www"])?;
    farm.wait_whole()?;
    eprintln!("started again: {:?}", farm.switch.ask(60)?);
    Ok(())
}
