//! The oracle: the same specs under Duet and under runc, side by side, and what the containers
//! see of themselves compared line by line.
//!
//! Both shims are asked at their Task API, as containerd asks them. What may differ stands in
//! [`known::DIFFERENCES`] with its reason, and in `docs/differences.md`; a difference that is not
//! listed fails the test, and so does an entry that nothing differs in any more.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail loudly"
)]

mod cases;
mod known;
mod life;
mod probe;
mod stats;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;

use duet_tests::Node;
use duet_tests::machine::{self, Runtime};

use crate::cases::Case;
use crate::known::DIFFERENCES;
use crate::life::{Stage, Volumes};
use crate::probe::Seen;

#[test]
fn a_container_of_duets_sees_what_one_of_runcs_sees() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let volumes = Volumes::new(&node);
    let place = volumes.place(&node);
    let programs = [
        (Runtime::Duet, machine::binary("containerd-shim-duet-v1")),
        (
            Runtime::Runc,
            machine::program("containerd-shim-runc-v2").expect("containerd brings it"),
        ),
    ];
    let [duet, runc] = std::thread::scope(|scope| {
        programs
            .map(|(runtime, program)| {
                let (stage, place) = (Stage::new(&node, runtime, &program), &place);
                scope.spawn(move || {
                    let seen: Vec<_> = cases::all().map(|case| stage.live(case, place)).collect();
                    stage.close();
                    seen
                })
            })
            .map(|thread| thread.join().expect("a life does not panic"))
    });
    drop(volumes);

    let mut used = BTreeSet::new();
    let mut report = String::new();
    for ((case, duet), runc) in cases::all().zip(&duet).zip(&runc) {
        compare(case, duet, runc, &mut used, &mut report);
    }
    for (number, known) in DIFFERENCES.iter().enumerate() {
        let names = cases::all().map(|case| case.name);
        if known.must_show(names) && !used.contains(&number) {
            writeln!(
                report,
                "nothing differs any more: {} ({})",
                known.section, known.why
            )
            .unwrap();
        }
    }
    assert!(report.is_empty(), "{report}");
}

/// Writes what differs and is not known to, and notes which of the known differences were seen.
fn compare(case: &Case, duet: &Seen, runc: &Seen, used: &mut BTreeSet<usize>, report: &mut String) {
    let mut sections: BTreeSet<_> = duet.keys().chain(runc.keys()).map(String::as_str).collect();
    if duet.get("outcome") != runc.get("outcome") {
        // One of them had nothing to look at.
        sections.retain(|section| *section == "outcome");
    }
    for section in sections {
        let lines = |seen: &Seen| seen.get(section).cloned().unwrap_or_default();
        let (ours, theirs) = (lines(duet), lines(runc));
        for (side, line) in [
            ("duet", without(&ours, &theirs)),
            ("runc", without(&theirs, &ours)),
        ]
        .into_iter()
        .flat_map(|(side, lines)| lines.into_iter().map(move |line| (side, line)))
        {
            let explained = DIFFERENCES
                .iter()
                .position(|known| known.explains(case.name, section, side, &line));
            match explained {
                Some(number) => drop(used.insert(number)),
                None => writeln!(report, "{} / {section}: only {side}: {line}", case.name).unwrap(),
            }
        }
    }
}

/// The lines of one list that another does not have, each as often as it is missing.
fn without(lines: &[String], others: &[String]) -> Vec<String> {
    let mut others = others.to_vec();
    let missing = |line: &&String| match others.iter().position(|other| other == *line) {
        Some(at) => {
            others.swap_remove(at);
            false
        }
        None => true,
    };
    lines.iter().filter(missing).cloned().collect()
}

#[test]
fn every_difference_is_in_the_documentation() {
    let file = machine::workspace().join("docs/differences.md");
    let text = fs::read_to_string(file).expect("it is written");
    let rows: BTreeSet<_> = text
        .lines()
        .filter_map(|line| {
            line.strip_prefix("| ")?
                .strip_suffix(" |")?
                .split(" | ")
                .nth(3)
        })
        .filter(|why| !why.starts_with("---") && *why != "Why")
        .collect();
    let reasons: BTreeSet<_> = DIFFERENCES.iter().map(|known| known.why).collect();
    assert_eq!(rows, reasons);
}

#[test]
fn there_are_cases_enough() {
    let names: BTreeSet<_> = cases::every().map(|case| case.name).collect();
    let strangers = cases::OF_CGROUPS
        .iter()
        .filter(|name| !names.contains(*name));
    assert_eq!(strangers.count(), 0, "{:?}", cases::OF_CGROUPS);
    assert_eq!(
        names.len(),
        cases::every().count(),
        "two cases have one name"
    );
    assert!(names.len() >= 60, "{}", names.len());
}
