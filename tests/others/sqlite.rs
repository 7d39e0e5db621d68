//! SQLite 3.26, built for what WASI was before preview 1: its database lies on a volume.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use duet_tests::command::{self, Outcome};
use duet_tests::cri::{Pod, Wish};

use crate::{FOREVER, enter, folder, lines, run, volume, wish};

/// One shell of it that does what `sql` says.
fn shell(name: &str, volume: &Path, sql: &str) -> Wish {
    wish(name, volume, &["/sqlite.wasm", "/data/shop.db", sql])
}

/// What it answers; it must have nothing to complain about.
fn ask(pod: &Pod<'_>, name: &str, volume: &Path, sql: &str) -> Vec<String> {
    let (code, stdout, stderr) = run(pod, &shell(name, volume, sql));
    assert_eq!((code, stderr.as_slice()), (0, &[][..]), "{sql}: {stdout:?}");
    stdout
}

/// The SQLite in Python's own library, on the node.
fn native(volume: &Path, sql: &str) -> Outcome {
    let script = "import sqlite3, sys\n\
                  base = sqlite3.connect(sys.argv[1])\n\
                  for row in base.execute(sys.argv[2]): print(*row, sep='|')\n\
                  base.commit()";
    let mut python = Command::new(folder().join("python/bin/python"));
    let python = python.args(["-c", script]).arg(volume.join("shop.db"));
    command::run(python.arg(sql))
}

#[test]
fn a_database_on_a_volume_outlives_its_container_and_is_its_neighbours_too() {
    let Some(node) = enter() else { return };
    let (cri, volume) = (node.cri(), volume(&node));
    let pod = cri.pod("sqlite");
    let filled = "create table fruit(name text primary key, weight int); \
                  insert into fruit values('apple', 150), ('melon', 2000); \
                  select count(*), sum(weight) from fruit;";
    assert_eq!(ask(&pod, "first", &volume, filled), ["2|2150"]);

    // The container is started again: another one, with the same volume.
    let again = "insert into fruit values('plum', 30); \
                 select name from fruit order by weight;";
    let all = ["plum", "apple", "melon"];
    assert_eq!(ask(&pod, "second", &volume, again), all);

    // A native neighbour in the pod sees the file, and a native SQLite what is in it.
    let neighbour = Wish::native("neighbour", FOREVER).volume(&volume, "/data");
    let neighbour = pod.start(&neighbour);
    neighbour.says("ready");
    let head = neighbour.exec(&["/bin/head", "-c", "15", "/data/shop.db"]);
    assert_eq!(head, (0, "SQLite format 3".to_owned(), String::new()));
    let seen = native(&volume, "select name, weight from fruit order by name").ok();
    assert_eq!(seen.stdout, "apple|150\nmelon|2000\nplum|30\n");
    assert_eq!(
        native(&volume, "pragma integrity_check").ok().stdout,
        "ok\n"
    );
    let _written = native(
        &volume,
        "update fruit set weight = 160 where name = 'apple'",
    )
    .ok();
    let weight = "select weight from fruit where name = 'apple';";
    assert_eq!(ask(&pod, "third", &volume, weight), ["160"]);
    pod.remove();
}

#[test]
fn a_query_that_is_wrong_is_an_exit_code_and_a_line() {
    let Some(node) = enter() else { return };
    let (cri, volume) = (node.cri(), volume(&node));
    let pod = cri.pod("wrong");
    let (code, stdout, stderr) = run(&pod, &shell("wrong", &volume, "select * from vegetable;"));
    assert_eq!((code, stdout.as_slice()), (1, &[][..]));
    assert_eq!(stderr, ["Error: no such table: vegetable"]);
    pod.remove();
}

#[test]
fn a_container_that_is_killed_within_a_transaction_has_done_nothing() {
    let Some(node) = enter() else { return };
    let (cri, volume) = (node.cri(), volume(&node));
    let pod = cri.pod("killed");
    // Ten thousand rows of a page's tenth.
    let filled = "create table number(n int, filler blob); \
                  insert into number with recursive c(x) as (select 1 union all select x + 1 from c \
                  limit 10000) select x, zeroblob(400) from c;";
    assert!(ask(&pod, "first", &volume, filled).is_empty());
    let file = || fs::read(volume.join("shop.db")).expect("it was made");
    let before = file();
    // Pages that do not fit into its cache are written into the file before the transaction's end.
    let endless = "pragma cache_size = 10; begin; update number set n = n + 40; select 'written'; \
                   with recursive c(x) as (select 1 union all select x + 1 from c) select max(x) from c;";
    let member = pod.start(&shell("second", &volume, endless));
    member.says("written");
    let journal = volume.join("shop.db-journal");
    assert!(journal.exists(), "{:?}", lines(&member, "stderr"));
    member.stop(Duration::ZERO);
    assert_eq!(member.wait().0, 137);
    assert!(file() != before, "nothing was written into the file");
    let sum = "select count(*), sum(n) from number;";
    assert_eq!(ask(&pod, "third", &volume, sum), ["10000|50005000"]);
    assert!(!journal.exists());
    assert_eq!(
        native(&volume, "pragma integrity_check").ok().stdout,
        "ok\n"
    );
    pod.remove();
}
