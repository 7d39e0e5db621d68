//! A process beside a container's own, in the messages that containerd reads.

use containerd_shim_protos::api;
use containerd_shim_protos::shim::oci::ProcessDetails;
use protobuf::Message as _;
use protobuf::well_known_types::any::Any;
use serde_json::json;

use crate::life::{Daemon, bundle, can_make_containers, creation, forget_cgroups, named};
use crate::node::{Node, limit, task};

#[test]
fn an_exec_is_told_by_its_name_and_is_paused_with_its_container() {
    if !can_make_containers() {
        return;
    }
    let node = Node::new();
    let _daemon = Daemon::listen(&node);
    let socket = node.start("e", "{}");
    let bundle = bundle(&node, "e", "busybox sleep 60");
    let task = task(&socket);
    let init = task.create(limit(), &creation("e", &bundle)).unwrap().pid;
    let start = named("e", |request: &mut api::StartRequest, id| request.id = id);
    task.start(limit(), &start).unwrap();

    let state = |exec: &str| {
        let mut state = named("e", |request: &mut api::StateRequest, id| request.id = id);
        exec.clone_into(&mut state.exec_id);
        task.state(limit(), &state).unwrap()
    };
    let status = |exec: &str| state(exec).status.unwrap();
    let spec = |script: &str| Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".to_owned(),
        value: json!({
            "user": { "uid": 0, "gid": 0 },
            "args": ["/bin/busybox", "sh", "-c", script],
            "env": ["PATH=/bin"],
            "cwd": "/",
        })
        .to_string()
        .into_bytes(),
        ..Any::default()
    };
    let begin = |exec: &str, script: &str| {
        let request = api::ExecProcessRequest {
            id: "e".to_owned(),
            exec_id: exec.to_owned(),
            spec: Some(spec(script)).into(),
            ..Default::default()
        };
        task.exec(limit(), &request).unwrap();
        let start = api::StartRequest {
            exec_id: exec.to_owned(),
            ..start.clone()
        };
        task.start(limit(), &start).unwrap().pid
    };
    let runs = begin("runs", "exec busybox sleep 60");
    begin("ended", "exit 3");
    let mut wait = named("e", |request: &mut api::WaitRequest, id| request.id = id);
    wait.exec_id = "ended".to_owned();
    assert_eq!(task.wait(limit(), &wait).unwrap().exit_status, 3);

    let told = state("runs");
    assert_eq!((told.id.as_str(), told.exec_id.as_str()), ("runs", "runs"));
    assert_eq!((told.pid, status("runs")), (runs, api::Status::RUNNING));
    assert_eq!(state("").id, "e");

    let pids = named("e", |request: &mut api::PidsRequest, id| request.id = id);
    let mut seen: Vec<(u32, Option<String>)> = task
        .pids(limit(), &pids)
        .unwrap()
        .processes
        .into_iter()
        .map(|process| {
            let name = process.info.into_option().map(|info| {
                assert_eq!(info.type_url, "containerd.runc.v1.ProcessDetails");
                ProcessDetails::parse_from_bytes(&info.value)
                    .unwrap()
                    .exec_id
            });
            (process.pid, name)
        })
        .collect();
    seen.sort();
    let mut expected = [(init, None), (runs, Some("runs".to_owned()))];
    expected.sort();
    assert_eq!(seen, expected);

    let pause = named("e", |request: &mut api::PauseRequest, id| request.id = id);
    task.pause(limit(), &pause).unwrap();
    assert_eq!(["", "runs"].map(status), [api::Status::PAUSED; 2]);
    assert_eq!(status("ended"), api::Status::STOPPED);
    let resume = named("e", |request: &mut api::ResumeRequest, id| request.id = id);
    task.resume(limit(), &resume).unwrap();
    assert_eq!(["", "runs"].map(status), [api::Status::RUNNING; 2]);

    let mut kill = named("e", |request: &mut api::KillRequest, id| request.id = id);
    (kill.signal, kill.all) = (9, true);
    task.kill(limit(), &kill).unwrap();
    wait.exec_id.clear();
    assert_eq!(task.wait(limit(), &wait).unwrap().exit_status, 137);
    let delete = named("e", |request: &mut api::DeleteRequest, id| request.id = id);
    task.delete(limit(), &delete).unwrap();
    node.end("e", &socket);
    forget_cgroups();
}
