//! A birth that comes to nothing though its process is there already.

use std::fs;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use duet_pod::Given;

use crate::hooks::text;
use crate::rig::with;

#[test]
fn a_container_that_nobody_could_serve_is_not_created_and_nothing_is_left() {
    with(async |mut rig| {
        let farewell = rig.script("farewell", "cat >/dev/null; echo gone >>$DIR/trace");
        // The terminal is handed on when the process stands at its gate. Nobody takes it.
        let (socket, taker) = UnixStream::pair().unwrap();
        drop(taker);
        let bundle = rig.bundle("web", &["sleep", "100"]).terminal();
        let bundle = bundle.given(Given::Console(Arc::new(socket.into())));
        let bundle = bundle.hook("poststop", &[&farewell], "");
        let error = text(&bundle.create().await.unwrap_err());
        assert!(
            error.contains("send the master of the terminal: Broken pipe"),
            "{error}"
        );
        let trace = fs::read_to_string(rig.path().join("trace")).unwrap();
        assert_eq!(trace, "gone\n");
        assert_eq!(rig.facts(), Vec::<String>::new());
        // Its name is free, and so is its cgroup.
        rig.bundle("web", &["true"]).start().await;
        assert_eq!(rig.finish("web").await.code, 0);
    });
}
