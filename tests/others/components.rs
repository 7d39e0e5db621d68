//! Commands that were compiled from Python and from JavaScript, each with its interpreter inside.

use std::fs;

use crate::{enter, run, volume, wish};

#[test]
fn a_command_in_python_has_arguments_environment_files_and_an_exit_code() {
    let Some(node) = enter() else { return };
    let (cri, volume) = (node.cri(), volume(&node));
    fs::write(volume.join("question"), "what?").expect("our own folder");
    let pod = cri.pod("python");
    let told = ["/python-command.wasm", "one", "two words"];
    let wish = wish("python", &volume, &told).env("COLOUR", "blue");
    let (code, stdout, stderr) = run(&pod, &wish);
    assert_eq!((code, stderr.join("\n").as_str()), (7, "on stderr"));
    assert_eq!(stdout, ["arguments:", "one", "two words", "colour: blue"]);
    let answer = fs::read_to_string(volume.join("answer")).expect("it was written");
    assert_eq!(answer, "WHAT?");
    pod.remove();
}

#[test]
fn what_a_command_in_python_does_not_catch_is_exit_code_1_and_a_traceback() {
    let Some(node) = enter() else { return };
    let (cri, volume) = (node.cri(), volume(&node));
    let pod = cri.pod("raised");
    let (code, _, stderr) = run(&pod, &wish("raised", &volume, &["/python-command.wasm"]));
    assert_ne!(code, 0);
    let told = stderr.join("\n");
    assert!(told.contains("Traceback (most recent call last)"), "{told}");
    assert!(told.contains("FileNotFoundError"), "{told}");
    pod.remove();
}

#[test]
fn a_command_in_javascript_has_arguments_environment_and_an_exit_code() {
    let Some(node) = enter() else { return };
    let (cri, volume) = (node.cri(), volume(&node));
    let pod = cri.pod("javascript");
    for (name, last, expected) in [("well", "two words", 0), ("badly", "fail", 1)] {
        let told = ["/javascript-command.wasm", "one", last];
        let wish = wish(name, &volume, &told).env("COLOUR", "blue");
        let (code, stdout, stderr) = run(&pod, &wish);
        assert_eq!(code, expected, "{stderr:?}");
        assert_eq!(stdout, ["arguments:", "one", last, "colour: blue"]);
        assert_eq!(stderr, ["on stderr"]);
    }
    pod.remove();
}
