//! `safekit completions` and `safekit man`.

use super::{Folder, text};

#[test]
fn a_shell_takes_what_completions_prints() {
    let folder = Folder::new();
    let script = folder.safekit(&["completions", "bash"]);
    assert_eq!(script.status.code(), Some(0));
    let words = text(&script.stdout);
    assert!(words.contains("safekit__subcmd__snapshot") || words.contains("safekit__snapshot"), "{words}");
    assert!(!words.contains("demo-web"), "hidden verbs are not offered");
    std::fs::write(folder.path("safekit.bash"), words).unwrap();
    let checked = std::process::Command::new("bash").arg("-n").arg(folder.path("safekit.bash")).status();
    assert!(checked.unwrap().success(), "bash reads it");
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(text(&folder.safekit(&["completions", shell]).stdout).contains("snapshot"), "{shell}");
    }
}

#[test]
fn every_command_gets_a_page_and_the_top_one_goes_to_the_screen() {
    let folder = Folder::new();
    let top = text(&folder.safekit(&["man"]).stdout);
    assert!(top.contains(".TH safekit 8") && top.contains("EXIT STATUS") && top.contains("FILES"), "{top}");
    let output = folder.safekit(&["man", "--dir", "pages/man8"]);
    let pages = std::fs::read_dir(folder.path("pages/man8")).unwrap().count();
    let said = format!("{pages} pages in pages/man8\nnext step: man -l pages/man8/safekit.8\n");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), said));
    assert!(pages > 40, "{pages}");
    assert!(folder.path("pages/man8/safekit-config-schema.8").exists());
}
