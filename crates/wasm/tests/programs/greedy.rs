//! Clients that would have more of a server than their due: its memory, or the time of its end.

use std::io::Write as _;
use std::time::Duration;

use crate::clients::{DATA, Frame, GOAWAY, SECOND};
use crate::harness::root;
use crate::servers::{Server, of_both_previews, whole};

#[test]
fn who_has_asked_nothing_holds_up_no_end() {
    if !root() {
        return;
    }
    for guest in of_both_previews() {
        let server = Server::start(guest.http(|http| http.drain = Duration::from_secs(20)));
        // Half of a first head, and a client of HTTP/2 that never says that it has read what it is told.
        let mut half = server.connect();
        half.write_all(b"GET / HT").unwrap();
        let mut deaf = server.connect();
        deaf.write_all(SECOND).unwrap();
        // They are heard when somebody is who came later.
        assert_eq!(server.get("/count").0, 200);
        assert_eq!(server.end(), (0, String::new()));
        assert_eq!(whole(&mut half), "");
        Frame::next(&mut deaf, GOAWAY, DATA);
    }
}
