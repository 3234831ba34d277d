//! What a module starts: its systemd units, and the programs that its scripts and checks name.

use super::Checks;
use super::facts::{Application, ScriptFile, ScriptState, Service, ServiceTrouble};

pub(super) fn judge(checks: &mut Checks<'_>, application: &Application) {
    for service in &application.services {
        unit(checks, service);
    }
    let broken: Vec<&ScriptFile> =
        application.scripts.iter().filter(|script| script.state != ScriptState::Executable).collect();
    for script in &broken {
        program(checks, script);
    }
    if broken.is_empty() && !application.scripts.is_empty() {
        checks.ok(
            "programs",
            format!("all {} that its scripts and checks name are there", application.scripts.len()),
        );
    }
}

fn unit(checks: &mut Checks<'_>, service: &Service) {
    let name = format!("service {}", service.name);
    match &service.trouble {
        None => checks.ok(&name, "systemd has it, and leaves its start to safekit"),
        Some(ServiceTrouble::Unusable { why, remedy }) => {
            checks.fault(&name, format!("{why}: the module cannot start"), remedy);
        }
        Some(ServiceTrouble::StartsByItself) => checks.warning(
            &name,
            "systemd starts it at boot by itself: it runs where safekit holds the module stopped",
            format!("systemctl disable {}", service.name),
        ),
        Some(ServiceTrouble::Unknown(why)) => checks.unknown(&name, why),
    }
}

fn program(checks: &mut Checks<'_>, script: &ScriptFile) {
    let path = &script.path;
    let (found, remedy) = match script.state {
        ScriptState::Executable => return,
        ScriptState::Missing => (
            format!("there is no {path}: the call fails, and the module does not come up"),
            format!("ls -l {path}  (copy it to every node, or mend the path; then safekit config check)"),
        ),
        ScriptState::NotExecutable => {
            (format!("{path} is not executable: the call fails"), format!("chmod +x {path}"))
        }
    };
    checks.fault(&script.of, found, remedy);
}
