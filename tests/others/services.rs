//! `wasi:http` services in Python and in JavaScript, asked over the pod's network.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use duet_tests::cri::{Cri, Member, Pod, Wish};
use duet_tests::wait;

use crate::{IMAGE, enter, lines};

/// Longer than a test waits: a server that ends before has finished by itself.
const GRACE: Duration = Duration::from_secs(600);

/// The language, and what its log says of an exception.
const SERVICES: [(&str, &str); 2] = [
    ("python", "ValueError: asked to raise"),
    (
        "javascript",
        "Error while running request handler: asked to raise",
    ),
];

/// Status and body of the answer to a GET.
fn get(pod: &str, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect((pod, 8080))?;
    stream.set_read_timeout(Some(wait::patience()))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: guest\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.get(9..12).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body);
    match (status, body) {
        (Some(status), Some(body)) => Ok((status, body.to_owned())),
        _ => Err(io::Error::other(answer)),
    }
}

/// A pod whose annotations ask for so many requests an instance.
fn pod_with_reuse<'c>(cri: &'c Cri<'_>, name: &str, reuse: u32) -> Pod<'c> {
    cri.pod_with(name, |config| {
        let name = "io.containerd.duet.v1.http.reuse".to_owned();
        config.annotations.insert(name, reuse.to_string());
        // One at a time: an instance is put back a moment after its answer is there.
        let name = "io.containerd.duet.v1.http.concurrency".to_owned();
        config.annotations.insert(name, "1".to_owned());
    })
}

/// Starts a service, and waits until it listens.
fn serve<'p>(pod: &'p Pod<'_>, language: &str) -> Member<'p> {
    let program = format!("/{language}-service.wasm");
    let member = pod.start(&Wish::wasm(language, &[]).image(IMAGE).command(&[&program]));
    let ip = pod.ip();
    wait::until("the service to listen", || {
        TcpStream::connect((ip.as_str(), 8080)).ok()
    });
    member
}

/// Asks four times how many requests its instance has had: the answers, and the log.
fn count(pod: &Pod<'_>, language: &str) -> ([(u16, String); 4], Vec<String>) {
    let member = serve(pod, language);
    let counted = [(); 4].map(|()| get(&pod.ip(), "/count").expect("it answers"));
    member.stop(GRACE);
    assert_eq!(member.wait().0, 0, "{language}");
    let log = member.log().into_iter();
    let lines = log.map(|(stream, line)| format!("{stream}: {line}"));
    (counted, lines.collect())
}

#[test]
fn each_request_has_an_instance_of_its_own() {
    let Some(node) = enter() else { return };
    let cri = node.cri();
    for (language, _) in SERVICES {
        let pod = cri.pod(language);
        let (counted, log) = count(&pod, language);
        assert_eq!(counted, [(); 4].map(|()| (200, "1".to_owned())), "{log:?}");
        let said = |number| format!("stdout: [{number}] said 1");
        assert_eq!(log, [1, 2, 3, 4].map(said), "{language}");
        pod.remove();
    }
}

#[test]
fn an_instance_of_python_serves_as_many_requests_as_it_is_told_to() {
    let Some(node) = enter() else { return };
    let cri = node.cri();
    let pod = pod_with_reuse(&cri, "python", 3);
    let (counted, log) = count(&pod, "python");
    let expected = ["1", "2", "3", "1"].map(|count| (200, count.to_owned()));
    assert_eq!(counted, expected, "{log:?}");
    pod.remove();
}

#[test]
fn an_engine_that_cannot_be_reused_says_so_and_the_next_instance_serves() {
    let Some(node) = enter() else { return };
    let cri = node.cri();
    let pod = pod_with_reuse(&cri, "javascript", 3);
    let (counted, log) = count(&pod, "javascript");
    // StarlingMonkey has one fetch event in its life.
    assert_eq!(counted.map(|(status, _)| status), [200, 500, 500, 200]);
    let words = "/javascript-service.wasm: GET /count: the guest returned without an answer";
    assert!(log.contains(&format!("stderr: [2] {words}")), "{log:?}");
    pod.remove();
}

#[test]
fn eight_at_a_time_are_answered_each_with_its_own() {
    let Some(node) = enter() else { return };
    let cri = node.cri();
    for (language, _) in SERVICES {
        let pod = cri.pod(language);
        let member = serve(&pod, language);
        let ip = pod.ip();
        thread::scope(|scope| {
            for client in 0..8 {
                let ip = &ip;
                let _ended_by_the_scope = scope.spawn(move || {
                    for turn in 0..8 {
                        let path = format!("/{client}/{turn}");
                        let (status, body) = get(ip, &path).expect("it answers");
                        assert_eq!(status, 200, "{body}");
                        assert!(body.ends_with(&format!("says {path}")), "{path}: {body}");
                    }
                });
            }
        });
        member.stop(GRACE);
        assert_eq!(member.wait().0, 0, "{language}");
        assert_eq!(lines(&member, "stdout").len(), 64);
        pod.remove();
    }
}

#[test]
fn an_exception_is_a_500_and_lines_of_the_log_and_the_service_goes_on() {
    let Some(node) = enter() else { return };
    let cri = node.cri();
    for (language, words) in SERVICES {
        let pod = cri.pod(language);
        let member = serve(&pod, language);
        let (status, body) = get(&pod.ip(), "/raise").expect("it answers");
        assert_eq!(status, 500, "{language}: {body}");
        let (status, body) = get(&pod.ip(), "/after").expect("it answers");
        assert_eq!(status, 200, "{language}: {body}");
        member.says(words);
        let stderr = lines(&member, "stderr");
        let line = stderr.iter().find(|line| line.contains(words));
        assert!(
            line.is_some_and(|line| line.starts_with("[1] ")),
            "{stderr:?}"
        );
        member.stop(GRACE);
        assert_eq!(member.wait().0, 0, "{language}");
        pod.remove();
    }
}
