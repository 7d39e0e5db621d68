//! What the handlers of a server print, while nobody reads it.

use std::collections::BTreeSet;

use crate::harness::{eventually, root};
use crate::servers::{Server, ask, of_both_previews, read};

#[test]
fn handlers_whose_words_wait_for_a_reader_keep_nobody_out_and_lose_none_of_them() {
    if !root() {
        return;
    }
    // More than there are threads to serve, and three times what the pipe takes.
    const ALL: usize = 24;
    for plain in [false, true] {
        for guest in of_both_previews() {
            let mut server = Server::start(guest.http(|http| http.plain_log = plain));
            let text = "x".repeat(8 << 10);
            let ask_all = (0..ALL).map(|_| {
                let mut stream = server.connect();
                ask(
                    &mut stream,
                    &format!("/say/{text}"),
                    "connection: close\r\n",
                );
                stream
            });
            let mut waiting: Vec<_> = ask_all.collect();
            eventually("all to be inside", || {
                let requests = usize::try_from(server.guest.told().requests).unwrap();
                (requests >= ALL).then_some(())
            });
            for _ in 0..3 {
                assert_eq!(server.get("/"), (200, "hello\n".into()));
            }
            let lines: Vec<_> = (0..ALL).map(|_| server.guest.line()).collect();
            if !plain {
                let numbers: BTreeSet<_> = lines
                    .iter()
                    .map(|line| {
                        let (number, said) = line.split_once("] ").unwrap();
                        assert!(said == text, "{line}");
                        number
                    })
                    .collect();
                assert_eq!(numbers.len(), ALL);
            }
            // As it comes, words of several may meet in a line; none is lost.
            let said: usize = lines.iter().map(|line| line.matches('x').count()).sum();
            assert_eq!(said, ALL * text.len());
            for stream in &mut waiting {
                assert_eq!(read(stream), (200, String::new()));
            }
            assert_eq!(server.end(), (0, String::new()));
        }
    }
}
