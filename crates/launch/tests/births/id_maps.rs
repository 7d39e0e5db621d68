//! Bind mounts whose files have other owners in the container.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::mount::MsFlags;
use serde_json::{Value, json};

use crate::stage::{Outcome, Stage, stage};
use crate::user_namespaces::{ROOT, SIZE, spec};

/// A volume of the host's with a file of its root's, and another file system below it.
pub(crate) fn volume(stage: &Stage) -> std::path::PathBuf {
    let volume = stage.bundle.join("volume");
    fs::create_dir_all(volume.join("below")).unwrap();
    fs::write(volume.join("file"), "x").unwrap();
    let none = None::<&str>;
    let below = volume.join("below");
    nix::mount::mount(Some("below"), &below, Some("tmpfs"), MsFlags::empty(), none).unwrap();
    fs::write(below.join("file"), "x").unwrap();
    volume
}

/// The life of a container with the volume mapped. Before Linux 6.3 a tmpfs, which the volume is on, cannot
/// be mapped: then this sees that it is named, and answers nothing.
fn mapped(stage: &Stage, spec: &Value, volume: &Path) -> Option<Outcome> {
    match stage.live(&stage.plan(spec)) {
        Ok(outcome) => Some(outcome),
        Err(error) => {
            assert!(kernel() < (6, 3), "{error}");
            let volume = volume.display();
            assert_eq!(
                error.to_string(),
                format!("id-mapped mount source {volume}: invalid argument (EINVAL)")
            );
            None
        }
    }
}

/// The kernel's version.
fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
fn an_id_mapped_volume_shows_the_hosts_owners_as_the_containers() {
    stage(|stage| {
        let volume = volume(stage);
        let script = "stat -c %u /v/file /v/below/file; touch /v/made || true";
        let ids = json!([{"containerID": 0, "hostID": ROOT, "size": SIZE}]);
        let own = json!([{"containerID": 0, "hostID": ROOT + 7, "size": 1}]);
        for (options, lists, seen) in [
            (json!(["rbind"]), Value::Null, "65534\n65534\n"),
            (json!(["rbind"]), ids, "0\n65534\n"),
            (json!(["rbind", "idmap"]), Value::Null, "0\n65534\n"),
            (json!(["rbind", "ridmap"]), Value::Null, "0\n0\n"),
            (json!(["rbind", "ridmap"]), own, "7\n7\n"),
        ] {
            let mut spec = spec(stage, ["sh", "-c", script]);
            let bind = json!({"destination": "/v", "type": "bind", "source": volume,
                "options": options, "uidMappings": lists, "gidMappings": lists});
            spec["mounts"].as_array_mut().unwrap().push(bind);
            let outcome = if options == json!(["rbind"]) && lists.is_null() {
                stage.run(&spec)
            } else {
                let Some(outcome) = mapped(stage, &spec, &volume) else {
                    return;
                };
                outcome
            };
            assert_eq!(outcome.out, seen, "{options} {outcome:?}");
        }
        // What root of the container made in the mapped volume is the host's root's.
        assert_eq!(fs::metadata(volume.join("made")).unwrap().uid(), 0);
    });
}

#[test]
fn without_a_user_namespace_a_volume_can_be_mapped_too() {
    stage(|stage| {
        let volume = volume(stage);
        let mut spec = stage.spec(["stat", "-c", "%u:%g", "/v/file"]);
        let ids = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
        let bind = json!({"destination": "/v", "type": "bind", "source": volume,
            "options": ["bind"], "uidMappings": ids, "gidMappings": ids});
        spec["mounts"].as_array_mut().unwrap().push(bind);
        if let Some(outcome) = mapped(stage, &spec, &volume) {
            assert_eq!(outcome.out, "1000:1000\n");
        }
    });
}

#[test]
fn a_file_system_that_cannot_be_mapped_is_named() {
    stage(|stage| {
        let mut spec = spec(stage, ["true"]);
        let bind = json!({"destination": "/v", "type": "bind", "source": "/proc/sys",
            "options": ["bind", "idmap"]});
        spec["mounts"].as_array_mut().unwrap().push(bind);
        let error = stage.live(&stage.plan(&spec)).unwrap_err().to_string();
        assert_eq!(
            error,
            "id-mapped mount source /proc/sys: invalid argument (EINVAL)"
        );
    });
}
