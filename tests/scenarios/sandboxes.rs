//! Pods that the shim makes itself (`sandboxer = "shim"`): what CRI makes for other pods, and the
//! holder that stands in for a pause container. That they are pods at all, `cri` shows.
//!
//! A pod on the node's network is asked of the shim directly: containerd up to 2.2 crashes when
//! CRI asks it for one (its issue 12983).

use std::fs;
use std::path::Path;

use containerd_shim_protos::sandbox_api as sandbox;
use duet_tests::cri::Wish;
use duet_tests::machine;
use duet_tests::memory::rss;
use duet_tests::shim::{Bundle, Shim};
use duet_tests::{Node, leaks, wait};
use k8s_cri::v1 as api;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const FOREVER: &str = "echo ready; exec sleep 1000";

fn namespaces(
    network: api::NamespaceMode,
    pid: api::NamespaceMode,
    ipc: api::NamespaceMode,
) -> api::NamespaceOption {
    api::NamespaceOption {
        network: network.into(),
        pid: pid.into(),
        ipc: ipc.into(),
        ..Default::default()
    }
}

fn set(config: &mut api::PodSandboxConfig, namespaces: &api::NamespaceOption) {
    let linux = config.linux.as_mut().expect("the harness sets it");
    let context = linux.security_context.as_mut().expect("this, too");
    context.namespace_options = Some(namespaces.clone());
}

fn shot(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it runs");
}

/// The parent of a process that runs.
fn parent(pid: i32) -> i32 {
    leaks::parent_of(pid).expect("it runs")
}

#[test]
fn a_pod_has_the_files_the_name_and_the_memory_that_it_asked_for() {
    let Some(node) = Node::enter_with_sandboxes() else {
        return;
    };
    let cri = node.cri();
    let pod = cri.pod_with("furnished", |config| {
        config.dns_config = Some(api::DnsConfig {
            servers: vec!["192.0.2.1".to_owned(), "192.0.2.2".to_owned()],
            searches: vec!["a.test".to_owned()],
            options: vec!["ndots:5".to_owned()],
        });
        let linux = config.linux.as_mut().expect("the harness sets it");
        let sysctl = ("kernel.shm_rmid_forced".to_owned(), "1".to_owned());
        linux.sysctls.extend([sysctl]);
    });
    let main = pod.start(&Wish::native("main", FOREVER));
    let beside = pod.start(&Wish::native("beside", FOREVER));
    let cat = |file: &str| main.exec(&["/bin/cat", file]).1;
    assert_eq!(
        cat("/etc/resolv.conf"),
        "search a.test\nnameserver 192.0.2.1\nnameserver 192.0.2.2\noptions ndots:5\n"
    );
    assert_eq!(cat("/etc/hostname"), "furnished\n");
    assert_eq!(main.exec(&["/bin/hostname"]).1, "furnished\n");
    let hosts = fs::read_to_string("/etc/hosts").expect("the node has one");
    assert_eq!(cat("/etc/hosts"), hosts);
    assert_eq!(cat("/proc/sys/kernel/shm_rmid_forced"), "1\n");
    assert_eq!(cat("/proc/sys/net/ipv4/ip_unprivileged_port_start"), "0\n");

    let write = ["/bin/sh", "-c", "echo x > /dev/shm/x"];
    assert_eq!(main.exec(&write).0, 0);
    assert_eq!(beside.exec(&["/bin/cat", "/dev/shm/x"]).1, "x\n");
    let size = main.exec(&["/bin/df", "-k", "/dev/shm"]).1;
    assert!(size.contains(" 65536 "), "{size}");
    let mounts = cat("/proc/mounts");
    let shm = mounts.lines().find(|line| line.contains(" /dev/shm "));
    let shm = shm.unwrap_or_else(|| panic!("no /dev/shm in {mounts}"));
    for flag in ["nosuid", "nodev", "noexec"] {
        assert!(shm.contains(flag), "{shm}");
    }
    pod.remove();
}

#[test]
fn what_a_container_mounts_itself_is_not_covered_by_the_pods() {
    let Some(node) = Node::enter_with_sandboxes() else {
        return;
    };
    let cri = node.cri();
    let pod = cri.pod("covered");
    let hosts = node.scratch().join("hosts");
    fs::write(&hosts, "192.0.2.9 mine\n").expect("our own folder");
    let shm = node.scratch().join("shm");
    fs::create_dir(&shm).expect("our own folder");
    let wish = Wish::native("main", FOREVER)
        .volume(&hosts, "/etc/hosts")
        .volume(&shm, "/dev/shm");
    let main = pod.start(&wish);
    assert_eq!(main.exec(&["/bin/cat", "/etc/hosts"]).1, "192.0.2.9 mine\n");
    assert_eq!(main.exec(&["/bin/touch", "/dev/shm/x"]).0, 0);
    assert!(shm.join("x").exists());
    pod.remove();
}

#[test]
fn a_shared_process_namespace_has_a_process_1_that_reaps_and_cannot_be_ended_from_within() {
    let Some(node) = Node::enter_with_sandboxes() else {
        return;
    };
    use api::NamespaceMode::Pod as Shared;
    let cri = node.cri();
    let shared = namespaces(Shared, Shared, Shared);
    let pod = cri.pod_with("processes", |config| set(config, &shared));
    let main = pod.start(&Wish::native("main", FOREVER).namespaces(shared.clone()));
    let beside = pod.start(&Wish::native("beside", FOREVER).namespaces(shared));
    main.says("ready");
    beside.says("ready");
    assert_eq!(main.exec(&["/bin/cat", "/proc/1/comm"]).1, "duet-holder\n");
    let sleepers = ["/bin/sh", "-c", "pidof sleep | wc -w"];
    assert_eq!(main.exec(&sleepers).1.trim(), "2", "they see each other");

    // An orphan that ends is process 1's to reap.
    let orphan = "sh -c 'sleep 0 & echo $!'";
    let orphan = main.exec(&["/bin/sh", "-c", orphan]).1;
    let orphan = format!("/proc/{}", orphan.trim());
    wait::until("the orphan to be reaped", || {
        (main.exec(&["/bin/test", "-e", &orphan]).0 == 1).then_some(())
    });
    for signal in ["-TERM", "-INT", "-KILL"] {
        let _refused = main.exec(&["/bin/kill", signal, "1"]);
    }
    assert_eq!(main.exec(&["/bin/cat", "/proc/1/comm"]).1, "duet-holder\n");
    // What keeps the pod shows nothing of itself but its name.
    assert_ne!(main.exec(&["/bin/readlink", "/proc/1/exe"]).0, 0);
    assert!(pod.is_ready());
    pod.remove();
}

#[test]
fn a_pod_may_see_the_nodes_processes_and_ipc() {
    let Some(node) = Node::enter_with_sandboxes() else {
        return;
    };
    use api::NamespaceMode::{Node as Nodes, Pod as Own};
    let cri = node.cri();
    let wanted = namespaces(Own, Nodes, Nodes);
    let pod = cri.pod_with("seeing", |config| set(config, &wanted));
    let main = pod.start(&Wish::native("main", FOREVER).namespaces(wanted));
    main.says("ready");
    for (kind, is_nodes) in [("pid", true), ("ipc", true), ("net", false), ("uts", false)] {
        let link = format!("/proc/self/ns/{kind}");
        let nodes = fs::read_link(&link).expect("procfs").display().to_string();
        let pods = main.exec(&["/bin/readlink", &link]).1;
        assert_eq!(pods.trim() == nodes, is_nodes, "{kind}: {pods}, {nodes}");
    }
    pod.remove();
}

#[test]
fn a_pod_lives_on_while_containerd_is_away() {
    let Some(node) = Node::enter_with_sandboxes() else {
        return;
    };
    let cri = node.cri();
    let (pod, dead) = (cri.pod("lasting"), cri.pod("ending"));
    let main = pod.start(&Wish::native("main", FOREVER));
    main.says("ready");
    let holder = pod.holder();
    let doomed = dead.holder();
    node.daemon().end(Signal::SIGKILL);
    shot(doomed);
    node.daemon().start_again();
    cri.reconnect();
    assert!(pod.is_ready());
    assert_eq!(pod.holder(), holder);
    assert_eq!(main.exec(&["/bin/echo", "alive"]).1, "alive\n");
    let later = pod.start(&Wish::native("later", FOREVER));
    later.says("ready");
    wait::until("CRI to call the other pod dead", || {
        (!dead.is_ready()).then_some(())
    });
    dead.remove_insistently();
    pod.remove();
}

#[test]
fn a_pod_is_called_dead_when_its_holder_is() {
    let Some(node) = Node::enter_with_sandboxes() else {
        return;
    };
    let cri = node.cri();
    let pod = cri.pod("unheld");
    let _main = pod.start(&Wish::native("main", FOREVER));
    assert!(pod.is_ready());
    shot(pod.holder());
    wait::until("CRI to call the pod dead", || {
        (!pod.is_ready()).then_some(())
    });
    pod.remove_insistently();
}

#[test]
fn a_shot_shim_takes_the_holder_and_every_container_along() {
    let Some(node) = Node::enter_with_sandboxes() else {
        return;
    };
    let cri = node.cri();
    let pod = cri.pod("unserved");
    let main = pod.start(&Wish::native(
        "main",
        "sleep 1000 & echo ready; exec sleep 1000",
    ));
    main.says("ready");
    let holder = pod.holder();
    shot(parent(holder));
    wait::until("the holder to be gone", || {
        let gone = !std::path::Path::new(&format!("/proc/{holder}")).exists();
        gone.then_some(())
    });
    assert_ne!(main.wait().0, 0);
    pod.remove_insistently();
}

#[test]
fn the_shim_of_an_idle_pod_is_under_5_mib_and_comes_back() {
    let Some(node) = Node::enter_with_sandboxes() else {
        return;
    };
    let cri = node.cri();
    let pod = cri.pod("idle");
    let main = pod.start(&Wish::native("main", FOREVER));
    main.says("ready");
    let shim = parent(pod.holder()).cast_unsigned();
    let busy = rss(shim);
    let rest = wait::until("the shim to rest", || {
        let now = rss(shim);
        (now < busy / 2 && now < 5 << 10).then_some(now)
    });
    eprintln!("{busy} KiB busy, {rest} KiB at rest");
    assert_eq!(main.exec(&["/bin/echo", "back"]).1, "back\n");
    pod.remove();
}

#[test]
fn a_pod_that_cannot_be_is_refused_by_name() {
    let Some(node) = Node::enter_with_sandboxes() else {
        return;
    };
    let cri = node.cri();
    let error = cri
        .try_pod("refused", |config| {
            let linux = config.linux.as_mut().expect("the harness sets it");
            let sysctl = ("kernel.panic".to_owned(), "1".to_owned());
            linux.sysctls.extend([sysctl]);
        })
        .expect_err("that is the node's");
    assert!(error.message().contains("kernel/panic"), "{error}");

    if Path::new("/sys/fs/selinux/enforce").exists() {
        eprintln!("a policy of SELinux is loaded: such a pod would run");
        return;
    }
    let error = cri
        .try_pod("labelled", |config| {
            let linux = config.linux.as_mut().expect("the harness sets it");
            let security = linux.security_context.as_mut().expect("this, too");
            let label = security.selinux_options.get_or_insert_default();
            "s0:c1,c2".clone_into(&mut label.level);
        })
        .expect_err("nobody would enforce it");
    let words = "selinux_options \":::s0:c1,c2\": SELinux is not enabled in this kernel";
    assert!(error.message().replace('\\', "").contains(words), "{error}");
}

/// A shim that was started for a sandbox, and the bundle of that.
fn shim(node: &Node, id: &str) -> (Shim, Bundle) {
    let bundle = Bundle::new(&node.scratch().join(id), None).expect("our own folder");
    let program = machine::binary("containerd-shim-duet-v1");
    let shim = Shim::start(node.daemon(), &program, node.namespace(), id, &bundle);
    (shim.expect("it starts"), bundle)
}

fn creation(
    id: &str,
    bundle: &Bundle,
    netns: &str,
    config: Vec<u8>,
) -> sandbox::CreateSandboxRequest {
    let mut request = sandbox::CreateSandboxRequest::new();
    id.clone_into(&mut request.sandbox_id);
    request.bundle_path = bundle.dir.display().to_string();
    netns.clone_into(&mut request.netns_path);
    let options = request.options.mut_or_insert_default();
    "runtime.v1.PodSandboxConfig".clone_into(&mut options.type_url);
    options.value = config;
    request
}

/// The configuration of a pod in `namespaces`, as CRI encodes it.
fn encoded(node: &Node, namespaces: Option<api::NamespaceOption>) -> Vec<u8> {
    let config = api::PodSandboxConfig {
        hostname: "direct".to_owned(),
        linux: Some(api::LinuxPodSandboxConfig {
            cgroup_parent: format!("/{}", node.namespace()),
            security_context: Some(api::LinuxSandboxSecurityContext {
                namespace_options: namespaces,
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    prost::Message::encode_to_vec(&config)
}

macro_rules! about {
    ($request:ident, $id:expr) => {{
        let mut request = sandbox::$request::new();
        $id.clone_into(&mut request.sandbox_id);
        request
    }};
}

#[test]
fn a_sandbox_of_the_node_is_kept_in_the_nodes_namespaces_from_create_to_shutdown() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    use api::NamespaceMode::Node as Nodes;
    let (shim, bundle) = shim(&node, "nodes");
    let config = encoded(&node, Some(namespaces(Nodes, Nodes, Nodes)));
    let create = creation("nodes", &bundle, "", config);
    let _: sandbox::CreateSandboxResponse = shim.sandbox("CreateSandbox", &create).expect("Create");
    let again = shim.sandbox::<sandbox::CreateSandboxResponse>("CreateSandbox", &create);
    assert!(again.expect_err("it exists").contains("already exists"));
    let started: sandbox::StartSandboxResponse = shim
        .sandbox("StartSandbox", &about!(StartSandboxRequest, "nodes"))
        .expect("Start");
    let pid = i32::try_from(started.pid).expect("a pid is small");
    let spec: serde_json::Value =
        serde_json::from_slice(&started.spec.value).expect("its spec is JSON");
    assert_eq!(spec["annotations"]["io.kubernetes.cri.sandbox-id"], "nodes");
    for kind in ["net", "ipc", "uts", "pid"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("it runs");
        assert_eq!(of(&pid.to_string()), of("self"), "{kind}");
    }
    let status = || -> sandbox::SandboxStatusResponse {
        shim.sandbox("SandboxStatus", &about!(SandboxStatusRequest, "nodes"))
            .expect("SandboxStatus")
    };
    assert_eq!(status().state, "SANDBOX_READY");
    let platform: sandbox::PlatformResponse = shim
        .sandbox("Platform", &about!(PlatformRequest, "nodes"))
        .expect("Platform");
    assert_eq!(platform.platform.os, "linux");
    let _: sandbox::PingResponse = shim
        .sandbox("PingSandbox", &about!(PingRequest, "nodes"))
        .expect("PingSandbox");
    let metrics: sandbox::SandboxMetricsResponse = shim
        .sandbox("SandboxMetrics", &about!(SandboxMetricsRequest, "nodes"))
        .expect("SandboxMetrics");
    assert!(
        metrics
            .metrics
            .data
            .type_url
            .contains("io.containerd.cgroups.")
    );

    shot(pid);
    let exit: sandbox::WaitSandboxResponse = shim
        .sandbox("WaitSandbox", &about!(WaitSandboxRequest, "nodes"))
        .expect("WaitSandbox");
    assert_eq!(exit.exit_status, 137);
    assert_eq!(status().state, "SANDBOX_NOTREADY");
    for _ in ["once", "and again"] {
        let _: sandbox::StopSandboxResponse = shim
            .sandbox("StopSandbox", &about!(StopSandboxRequest, "nodes"))
            .expect("StopSandbox");
    }
    let server = shim.pid("nodes").expect("Connect");
    let _: sandbox::ShutdownSandboxResponse = shim
        .sandbox("ShutdownSandbox", &about!(ShutdownSandboxRequest, "nodes"))
        .expect("ShutdownSandbox");
    gone(server);
    assert_eq!(shim.shutdown().code, 0, "delete");
}

/// Waits until a shim has ended by itself.
fn gone(server: u32) {
    wait::until("the shim to end by itself", || {
        (!Path::new(&format!("/proc/{server}")).exists()).then_some(())
    });
}

#[test]
fn a_sandbox_that_cannot_be_is_refused_by_name_and_its_shim_ends() {
    let Some(node) = Node::enter_with_duet() else {
        return;
    };
    let own = || encoded(&node, None);
    let no_linux = prost::Message::encode_to_vec(&api::PodSandboxConfig::default());
    let missing = "/run/netns/duet-none";
    for (id, netns, config, text) in [
        ("garbage", missing, vec![0x42, 0x7f], "PodSandboxConfig"),
        (
            "bare",
            missing,
            no_linux,
            "PodSandboxConfig.linux is missing",
        ),
        (
            "unconnected",
            missing,
            own(),
            "duet-none\\\": no such file or directory",
        ),
        (
            "unnamed",
            "",
            own(),
            "a pod with a network of its own needs one",
        ),
    ] {
        let (shim, bundle) = shim(&node, id);
        let server = shim.pid(id).expect("Connect");
        let create = creation(id, &bundle, netns, config);
        let answer = shim.sandbox::<sandbox::CreateSandboxResponse>("CreateSandbox", &create);
        let error = answer.expect_err(text);
        assert!(error.contains(text), "{error} does not say {text}");
        gone(server);
        assert_eq!(shim.shutdown().code, 0, "delete");
    }
}
