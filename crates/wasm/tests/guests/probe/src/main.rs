//! Tells a test what a guest sees. The first argument is a verb; compiled for previews 1 and 2.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Error, Read, Write};
use std::time::Duration;

fn main() {
    let mut args = std::env::args().skip(1);
    let verb = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    match verb.as_str() {
        "args" => println!("{:?}", std::env::args().collect::<Vec<_>>()),
        "env" => std::env::vars().for_each(|(name, value)| println!("{name}={value}")),
        "exit" => std::process::exit(rest[0].parse().unwrap()),
        "cat" => print!("{}", std::fs::read_to_string(&rest[0]).unwrap()),
        "write" => std::fs::write(&rest[0], &rest[1]).unwrap(),
        "open" => match std::fs::File::options().read(true).write(true).open(&rest[0]) {
            Ok(_) => println!("opened"),
            Err(error) => println!("{error}"),
        },
        "race" => race(&rest[0], rest[1].parse().unwrap(), &rest[2]),
        #[cfg(target_env = "p1")]
        "serve" => serve(rest[0].parse().unwrap()),
        "ls" => {
            let mut names: Vec<_> = std::fs::read_dir(&rest[0])
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            println!("{}", names.join(" "));
        }
        "upper" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).unwrap();
            print!("{}", text.to_uppercase());
        }
        "sleep" => {
            println!("asleep");
            std::thread::sleep(Duration::from_millis(rest[0].parse().unwrap()));
            println!("awake");
        }
        "spin" => {
            println!("spinning");
            let mut n = 0_u64;
            loop {
                n = std::hint::black_box(n.wrapping_add(1));
            }
        }
        "panic" => panic!("as told"),
        "recurse" => println!("{}", recurse(1)),
        "connect" => {
            let mut stream = std::net::TcpStream::connect(&rest[0]).unwrap();
            stream.write_all(rest[1].as_bytes()).unwrap();
            let mut answer = [0; 64];
            let read = stream.read(&mut answer).unwrap();
            println!("{}", String::from_utf8_lossy(&answer[..read]));
        }
        "listen" => {
            let listener = std::net::TcpListener::bind(&rest[0]).unwrap();
            println!("{}", listener.local_addr().unwrap());
            let (mut stream, _) = listener.accept().unwrap();
            let mut heard = [0; 64];
            let read = stream.read(&mut heard).unwrap();
            stream.write_all(&heard[..read].to_ascii_uppercase()).unwrap();
        }
        "datagram" => {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let mut answer = [0; 64];
            // To whoever, and to one who was chosen before.
            socket.send_to(rest[1].as_bytes(), &rest[0]).unwrap();
            let (read, from) = socket.recv_from(&mut answer).unwrap();
            println!("{} from {from}", String::from_utf8_lossy(&answer[..read]));
            socket.connect(&rest[0]).unwrap();
            socket.send(b"again").unwrap();
            let read = socket.recv(&mut answer).unwrap();
            println!("{}", String::from_utf8_lossy(&answer[..read]));
        }
        "hoard" => {
            let mut all = Vec::new();
            let error = loop {
                match std::fs::File::open(&rest[0]) {
                    Ok(file) => all.push(file),
                    Err(error) => break error,
                }
            };
            println!("{error} after {}", if all.is_empty() { "none" } else { "some" });
        }
        other => {
            eprintln!("probe: no verb {other:?}");
            std::process::exit(2);
        }
    }
}

/// Reads, creates with words in it, and renames in a folder, each so often; what it met, each once, with a count.
/// The names of what it makes end with `mark`.
fn race(folder: &str, rounds: u32, mark: &str) {
    let mut met = BTreeMap::new();
    let mut meet = |what: String| *met.entry(what).or_insert(0) += 1;
    let failed = |error: Error| format!("{:?}", error.kind());
    for round in 0..rounds {
        let (new, renamed) = (format!("{folder}/new-{round}{mark}"), format!("{folder}/renamed-{round}{mark}"));
        let read = std::fs::read_to_string(format!("{folder}/file"));
        meet(format!("read {}", read.unwrap_or_else(failed)));
        let created = File::create_new(&new).and_then(|mut file| file.write_all(b"mine"));
        meet(format!("create {}", created.map_or_else(failed, |()| "done".to_owned())));
        let renamed = std::fs::rename(&new, &renamed);
        meet(format!("rename {}", renamed.map_or_else(failed, |()| "done".to_owned())));
    }
    met.iter().for_each(|(what, count)| println!("{what} {count}"));
}

/// Answers so many connections in capitals, one after the other, at the socket that it finds open.
#[cfg(target_env = "p1")]
fn serve(count: u32) {
    use std::net::{Shutdown, TcpListener};
    use std::os::fd::FromRawFd;

    // SAFETY: descriptors 0, 1 and 2 are standard; nobody else uses the first after them.
    let listener = unsafe { TcpListener::from_raw_fd(3) };
    println!("listening");
    for _ in 0..count {
        let (mut stream, _) = listener.accept().unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        stream.write_all(text.to_uppercase().as_bytes()).unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
    }
}

fn recurse(n: u64) -> u64 {
    let here = std::hint::black_box([n; 64]);
    if here[0] == 0 { 0 } else { recurse(n + 1) + here[1] }
}
