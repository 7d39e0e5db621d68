//! CPython 3.12, 26 MB with its library inside: scripts of a volume.

use std::fs;
use std::path::Path;
use std::time::Duration;

use duet_tests::cri::{Member, Wish};
use duet_tests::guests;

use crate::{FOREVER, enter, lines, run, volume, wish};

/// Longer than a test waits: what ends before was told to, and not killed.
const GRACE: Duration = Duration::from_secs(600);

const REPORT: &str = r#"
import collections, datetime, decimal, hashlib, json, os, pathlib, re, struct, sys, tempfile, time, zlib

print("arguments", sys.argv[1:])
print("colour", os.environ["COLOUR"])
print("version", sys.version_info[:2], sys.platform)
print("sha256", hashlib.sha256(b"duet").hexdigest()[:16])
print("decimal", decimal.Decimal(1) / 7)
print("zlib", zlib.decompress(zlib.compress(b"duet" * 1000)) == b"duet" * 1000)
print("json", json.dumps(collections.Counter(re.findall(r"\w", "abracadabra")), sort_keys=True))
print("later", datetime.datetime.now(datetime.timezone.utc).year >= 2024, time.monotonic() > 0)
print("random", os.urandom(8) != os.urandom(8))

data = pathlib.Path("/data")
print("found", sorted(path.name for path in data.iterdir()))
(data / "made" / "below").mkdir(parents=True)
with open(data / "made" / "lines", "w") as file:
    for number in range(1000):
        print(number, file=file)
with open(data / "made" / "lines", "r+b") as file:
    file.seek(-4, os.SEEK_END)
    file.write(struct.pack(">I", 0xCAFEF00D))
    file.truncate()
os.rename(data / "made" / "lines", data / "made" / "below" / "moved")
print("size", os.stat(data / "made" / "below" / "moved").st_size)
os.symlink("moved", data / "made" / "below" / "link")
print("link", os.readlink(data / "made" / "below" / "link"), (data / "made" / "below" / "link").read_bytes()[-4:].hex())
with tempfile.TemporaryDirectory(dir=data) as place:
    pathlib.Path(place, "x").write_text("x")
print("walk", [(path, sorted(folders), sorted(files)) for path, folders, files in os.walk(data / "made")])
try:
    print("input", input())
except EOFError:
    print("no input")
for path in ("/proc/self/status", "/sys/kernel", "/etc/shadow"):
    print(path, os.path.exists(path))
sys.exit(3)
"#;

fn script(name: &str, volume: &Path, text: &str, args: &[&str]) -> Wish {
    let file = format!("{name}.py");
    fs::write(volume.join(&file), text).expect("our own folder");
    let path = format!("/data/{file}");
    wish(name, volume, &[&["/cpython.wasm", &path], args].concat())
}

#[test]
fn a_script_of_a_volume_has_arguments_a_library_files_and_an_exit_code() {
    let Some(node) = enter() else { return };
    let (cri, volume) = (node.cri(), volume(&node));
    let pod = cri.pod("report");
    let wish = script("report", &volume, REPORT, &["one", "two words", ""]);
    let (code, stdout, stderr) = run(&pod, &wish.env("COLOUR", "blue"));
    assert_eq!((code, stderr.as_slice()), (3, &[][..]), "{stdout:#?}");
    let expected = [
        "arguments ['one', 'two words', '']",
        "colour blue",
        "version (3, 12) wasi",
        "sha256 103608b9bff4544a",
        "decimal 0.1428571428571428571428571429",
        "zlib True",
        r#"json {"a": 5, "b": 2, "c": 1, "d": 1, "r": 2}"#,
        "later True True",
        "random True",
        "found ['report.py']",
        "size 3890",
        "link moved cafef00d",
        "walk [('/data/made', ['below'], []), ('/data/made/below', [], ['link', 'moved'])]",
        "no input",
        "/proc/self/status False",
        "/sys/kernel False",
        "/etc/shadow False",
    ];
    assert_eq!(stdout, expected);
    let made = fs::read(volume.join("made/below/moved")).expect("the node sees it");
    assert!(made.starts_with(b"0\n1\n2\n") && made.ends_with(b"\xca\xfe\xf0\x0d"));
    pod.remove();
}

#[test]
fn an_exception_is_exit_code_1_and_a_traceback_in_the_log() {
    let Some(node) = enter() else { return };
    let (cri, volume) = (node.cri(), volume(&node));
    let pod = cri.pod("raised");
    let text = "def ask():\n    raise ValueError('nobody knows')\nprint('before')\nask()\n";
    let (code, stdout, stderr) = run(&pod, &script("raised", &volume, text, &[]));
    assert_eq!((code, stdout.join("\n").as_str()), (1, "before"));
    assert_eq!(stderr[0], "Traceback (most recent call last):");
    assert_eq!(
        stderr.last().map(String::as_str),
        Some("ValueError: nobody knows")
    );
    assert!(
        stderr
            .concat()
            .contains("/data/raised.py\", line 2, in ask")
    );
    pod.remove();
}

#[test]
fn a_guest_that_asks_for_more_than_its_limit_gets_a_memory_error_and_goes_on() {
    let Some(node) = enter() else { return };
    let (cri, volume) = (node.cri(), volume(&node));
    let pod = cri.pod("hungry");
    let text = "kept = bytearray(8 << 20)\n\
                try:\n    bytearray(256 << 20)\n\
                except MemoryError:\n    print('too much')\n\
                kept[::4096] = b'x' * 2048\nprint(len(kept), kept.count(b'x'))\n";
    let wish = script("hungry", &volume, text, &[]).memory(64 << 20);
    let (code, stdout, stderr) = run(&pod, &wish);
    assert_eq!(
        (code, stdout.as_slice()),
        (0, &["too much".to_owned(), "8388608 2048".to_owned()][..]),
        "{stderr:?}"
    );
    let told = stderr.concat();
    assert!(
        told.contains("the container's limit is 65536 KiB"),
        "{told}"
    );
    pod.remove();
}

#[test]
fn term_ends_an_interpreter_that_waits_and_one_that_spins() {
    let Some(node) = enter() else { return };
    let (cri, volume) = (node.cri(), volume(&node));
    let pod = cri.pod("term");
    let jobs = [
        (
            "waits",
            "import time\nprint('ready', flush=True)\ntime.sleep(100000)\n",
        ),
        ("spins", "print('ready', flush=True)\nwhile True: pass\n"),
        (
            "sorts",
            "import random\nprint('ready', flush=True)\nwhile True: sorted(random.random() for _ in range(10 ** 6))\n",
        ),
    ];
    for (name, text) in jobs {
        let member = pod.start(&script(name, &volume, text, &[]));
        member.says("ready");
        member.stop(GRACE);
        assert_eq!(member.wait().0, 143, "{name}");
    }
    pod.remove();
}

#[test]
fn a_second_interpreter_and_other_guests_are_executed_beside_it() {
    let Some(node) = enter() else { return };
    let (cri, volume) = (node.cri(), volume(&node));
    let pod = cri.pod("exec");
    fs::write(volume.join("probe.wasm"), guests::PROBE.bytes).expect("our own folder");
    // It answers through files: each question that lies there gets its answer beside it.
    let text = "import pathlib, time\n\
                data = pathlib.Path('/data')\n\
                print('ready', flush=True)\n\
                while True:\n    \
                    for question in data.glob('*.question'):\n        \
                        answer = question.with_suffix('.part')\n        \
                        answer.write_text(question.read_text().upper())\n        \
                        answer.rename(question.with_suffix('.answer'))\n        \
                        question.unlink()\n    \
                    time.sleep(0.01)\n";
    let first = script("first", &volume, text, &[]).env("COLOUR", "blue");
    let first = pod.start(&first);
    let neighbour = Wish::native("neighbour", FOREVER).volume(&volume, "/data");
    let neighbour = pod.start(&neighbour);
    first.says("ready");
    neighbour.says("ready");

    // A second one, in Python: it has the container's world, asks the first one, and has its own end.
    let ask = "import os, pathlib, sys, time\n\
               pathlib.Path('/data/new').write_text(os.environ['COLOUR'])\n\
               os.rename('/data/new', '/data/second.question')\n\
               answer = pathlib.Path('/data/second.answer')\n\
               while not answer.exists(): time.sleep(0.01)\n\
               print(answer.read_text(), sys.argv[1:])\n\
               print('err', file=sys.stderr)\n\
               sys.exit(5)\n";
    let second = first.exec(&["/cpython.wasm", "-c", ask, "x"]);
    assert_eq!(second, (5, "BLUE ['x']\n".to_owned(), "err\n".to_owned()));
    // What comes through its standard input, as `kubectl exec -i` brings it.
    let streamed = first.exec_streaming(
        &["/cpython.wasm", "-c", "print(input()[::-1])"],
        "tac\n",
        false,
    );
    assert_eq!((streamed.code, streamed.stdout.as_str()), (0, "cat\n"));
    // A native neighbour asks it as well.
    let ask = "echo native > /data/new; mv /data/new /data/third.question; \
               while ! [ -e /data/third.answer ]; do sleep 0.01; done; cat /data/third.answer";
    let third = neighbour.exec(&["/bin/sh", "-c", ask]);
    assert_eq!(third, (0, "NATIVE\n".to_owned(), String::new()));
    // Guests of others, and Duet's own.
    let probe = first.exec(&["/data/probe.wasm", "cat", "/data/third.answer"]);
    assert_eq!((probe.0, probe.1.as_str()), (0, "NATIVE\n"));
    let sum = first.exec(&["/sqlite.wasm", ":memory:", "select 6 * 7;"]);
    assert_eq!((sum.0, sum.1.as_str()), (0, "42\n"));
    assert!(is_listed(&first, "third.answer"));

    first.stop(GRACE);
    assert_eq!(first.wait().0, 143);
    assert_eq!(lines(&first, "stderr"), [] as [String; 0]);
    pod.remove();
}

/// Whether Duet's own `ls` finds a file in the volume.
fn is_listed(member: &Member<'_>, name: &str) -> bool {
    let (code, stdout, stderr) = member.exec(&["ls", "/data"]);
    assert_eq!(code, 0, "{stderr}");
    stdout.lines().any(|line| line == name)
}
