//! Tells a test what a guest of preview 3 sees. The first argument is a verb.
//!
//! What it does, it does by preview 3; the library of its language is of preview 2, so it imports both. Errors
//! are not named: their many names would be a quarter of it.

use wasip3::cli::{environment, exit, stdin, stdout, terminal_stdin, terminal_stdout};
use wasip3::clocks::monotonic_clock;
use wasip3::filesystem::preopens;
use wasip3::filesystem::types::{Descriptor, DescriptorFlags, OpenFlags, PathFlags};
use wasip3::http::client;
use wasip3::http::types::{Fields, Request, Response, Scheme};
use wasip3::random::random;
use wasip3::sockets::ip_name_lookup::resolve_addresses;
use wasip3::sockets::types::{
    IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket, UdpSocket,
};
use wasip3::{wit_future, wit_stream};

struct Probe;

wasip3::cli::command::export!(Probe);

impl wasip3::exports::cli::run::Guest for Probe {
    async fn run() -> Result<(), ()> {
        let arguments = environment::get_arguments();
        let rest: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
        match rest[..] {
            ["args", ..] => say(&format!("{arguments:?}\n")).await,
            ["env"] => {
                for (name, value) in environment::get_environment() {
                    say(&format!("{name}={value}\n")).await;
                }
            }
            ["fail"] => return Err(()),
            ["exit", code] => exit::exit_with_code(code.parse().unwrap()),
            ["cat", path] => print(&read(path).await).await,
            ["write", path, text] => match write(path, text.as_bytes()).await {
                Ok(()) => {}
                Err(_) => say("refused\n").await,
            },
            ["ls", path] => {
                let directory = open(path, OpenFlags::DIRECTORY, DescriptorFlags::READ).await;
                let (entries, end) = directory.ok().unwrap().read_directory();
                let mut names: Vec<_> = entries.collect().await;
                end.await.ok().unwrap();
                names.sort_by(|one, two| one.name.cmp(&two.name));
                for entry in names {
                    say(&format!("{}\n", entry.name)).await;
                }
            }
            ["upper"] => {
                let (text, end) = stdin::read_via_stream();
                print(&text.collect().await.to_ascii_uppercase()).await;
                end.await.ok().unwrap();
            }
            ["terminal"] => {
                let input = terminal_stdin::get_terminal_stdin().is_some();
                let output = terminal_stdout::get_terminal_stdout().is_some();
                say(&format!("{input} {output}\n")).await;
            }
            ["sleep", milliseconds] => {
                say("asleep\n").await;
                let milliseconds: u64 = milliseconds.parse().unwrap();
                monotonic_clock::wait_for(milliseconds * 1_000_000).await;
                say("awake\n").await;
            }
            ["spin"] => {
                say("spinning\n").await;
                loop {
                    std::hint::black_box(&arguments);
                }
            }
            ["trap"] => unreachable!("as told"),
            ["deep"] => say(&format!("{}\n", deep(std::hint::black_box(0)))).await,
            ["grow"] => {
                let mut all = Vec::new();
                // As much as it may have.
                while let Ok(()) = all.try_reserve_exact(all.len() + (4 << 20)) {
                    all.resize(all.capacity(), 1_u8);
                }
                say(&format!("{} MiB\n", all.len() >> 20)).await;
            }
            ["random"] => {
                let bytes = random::get_random_bytes(16);
                say(&format!("{}\n", bytes != random::get_random_bytes(16))).await;
            }
            ["echo", port] => echo(port.parse().unwrap()).await,
            ["tcp", port, text] => tcp(port.parse().unwrap(), text).await,
            ["udp", port, text] => udp(port.parse().unwrap(), text).await,
            ["resolve", name] => {
                let addresses = resolve_addresses(name.to_owned()).await.ok().unwrap();
                say(&format!("{}\n", addresses.iter().any(is_loopback))).await;
            }
            ["get", authority, path] => get(authority, path).await,
            // The same by preview 2, in the same component.
            ["both", path] => println!("{}", std::fs::read_to_string(path).unwrap()),
            _ => {
                say(&format!("probe-p3: no verb {rest:?}\n")).await;
                exit::exit_with_code(2);
            }
        }
        Ok(())
    }
}

async fn say(text: &str) {
    print(text.as_bytes()).await;
}

async fn print(bytes: &[u8]) {
    let (mut writer, reader) = wit_stream::new();
    let written = stdout::write_via_stream(reader);
    let left = writer.write_all(bytes.to_vec()).await;
    assert!(left.is_empty());
    drop(writer);
    written.await.ok().unwrap();
}

async fn open(
    path: &str,
    how: OpenFlags,
    may: DescriptorFlags,
) -> Result<Descriptor, wasip3::filesystem::types::ErrorCode> {
    let roots = preopens::get_directories();
    let [(root, name)] = &roots[..] else {
        panic!("{} preopens", roots.len());
    };
    assert_eq!(name, "/");
    let path = path.trim_start_matches('/').to_owned();
    root.open_at(PathFlags::SYMLINK_FOLLOW, path, how, may).await
}

async fn read(path: &str) -> Vec<u8> {
    let file = open(path, OpenFlags::empty(), DescriptorFlags::READ).await.ok().unwrap();
    let (bytes, end) = file.read_via_stream(0);
    let bytes = bytes.collect().await;
    end.await.ok().unwrap();
    bytes
}

async fn write(path: &str, bytes: &[u8]) -> Result<(), wasip3::filesystem::types::ErrorCode> {
    let file = open(path, OpenFlags::CREATE | OpenFlags::TRUNCATE, DescriptorFlags::WRITE).await?;
    let (mut writer, reader) = wit_stream::new();
    let written = file.write_via_stream(reader, 0);
    writer.write_all(bytes.to_vec()).await;
    drop(writer);
    written.await
}

fn local(port: u16) -> IpSocketAddress {
    IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (127, 0, 0, 1) })
}

fn is_loopback(address: &IpAddress) -> bool {
    match address {
        IpAddress::Ipv4(address) => *address == (127, 0, 0, 1),
        IpAddress::Ipv6(address) => *address == (0, 0, 0, 0, 0, 0, 0, 1),
    }
}

/// Says the same to one client in capitals.
async fn echo(port: u16) {
    let socket = TcpSocket::create(IpAddressFamily::Ipv4).ok().unwrap();
    socket.bind(local(port)).ok().unwrap();
    let mut clients = socket.listen().ok().unwrap();
    say("listening\n").await;
    let client = clients.next().await.unwrap();
    let (mut heard, _) = client.receive();
    let (status, words) = heard.read(Vec::with_capacity(64)).await;
    let (mut writer, reader) = wit_stream::new();
    let sent = client.send(reader);
    writer.write_all(words.to_ascii_uppercase()).await;
    drop(writer);
    sent.await.ok().unwrap();
    say(&format!("{status:?}\n")).await;
}

/// Says something and tells the answer.
async fn tcp(port: u16, text: &str) {
    let socket = TcpSocket::create(IpAddressFamily::Ipv4).ok().unwrap();
    socket.connect(local(port)).await.ok().unwrap();
    let (mut writer, reader) = wit_stream::new();
    let sent = socket.send(reader);
    writer.write_all(text.as_bytes().to_vec()).await;
    drop(writer);
    sent.await.ok().unwrap();
    let (heard, _) = socket.receive();
    print(&heard.collect().await).await;
}

async fn udp(port: u16, text: &str) {
    let socket = UdpSocket::create(IpAddressFamily::Ipv4).ok().unwrap();
    socket.bind(local(0)).ok().unwrap();
    socket.send(text.as_bytes().to_vec(), Some(local(port))).await.ok().unwrap();
    let (answer, _) = socket.receive().await.ok().unwrap();
    print(&answer).await;
}

/// One http request of its own, or https.
async fn get(authority: &str, path: &str) {
    let (scheme, authority) = match authority.strip_prefix("https://") {
        Some(authority) => (Scheme::Https, authority),
        None => (Scheme::Http, authority),
    };
    let (_, trailers) = wit_future::new(|| Ok(None));
    let (request, _) = Request::new(Fields::new(), None, trailers, None);
    request.set_scheme(Some(&scheme)).unwrap();
    request.set_authority(Some(authority)).unwrap();
    request.set_path_with_query(Some(path)).unwrap();
    match client::send(request).await {
        Ok(response) => {
            say(&format!("{} ", response.get_status_code())).await;
            let (_, read) = wit_future::new(|| Ok(()));
            let (body, _) = Response::consume_body(response, read);
            print(&body.collect().await).await;
        }
        Err(_) => say("no answer\n").await,
    }
}

/// Without an end, and without a loop that a compiler could make of it: in the engine's stack alone.
#[inline(never)]
fn deep(n: u32) -> u32 {
    if n == u32::MAX {
        return 0;
    }
    deep(n.wrapping_add(2)).rotate_left(1) ^ n
}
