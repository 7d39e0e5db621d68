//! `duet run`: one pod, from its manifest to its exit status.

mod attached;
mod driver;
mod images;
mod probing;
mod signals;

use crate::containerd::{self, Private};
use crate::cri::sandbox::Placement;
use crate::cri::{Cri, sandbox};
use crate::environment::Place;
use crate::error::Error;
use crate::log::follow::Follower;
use crate::manifest::{self, Refused};
use crate::screen::{Screen, step};
use crate::volumes::Volumes;
use crate::{machine, program, restart, volumes};
use attached::Claim;
use driver::{Driver, Ended};
pub(crate) use images::import;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use signals::{Signals, Stops};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the options' own lines do not say.
const MORE: &str = "\
It ends with the pod's result: 0, the code of the first container that failed, 128 plus the signal
that stopped it, or 125 for a failure of its own. Ctrl-C, TERM and a terminal that hangs up stop the
pod in order; the second of them kills it at once.

An image without imagePullPolicy is pulled only if it is not there, whatever its tag.

Without --address it needs containerd 1.6 or later, the CNI programs, and iptables for hostPort and
for the way out of the machine. What that containerd says is in containerd.log below --root. Images
are imported by `ctr`.

Compiled code is in /var/lib/duet/cache, whatever --root says. When no pod of Duet's runs on the
machine, `rm -rf /var/lib/duet` removes everything.";

/// Runs a Kubernetes Pod manifest on this machine.
#[derive(Debug, clap::Args)]
#[command(after_help = MORE)]
pub(crate) struct Args {
    /// The manifest, or `-` for standard input
    manifest: PathBuf,
    /// The socket of a containerd to use; without it Duet starts one of its own
    #[arg(long, value_name = "SOCKET")]
    address: Option<PathBuf>,
    /// The runtime handler of a pod without runtimeClassName
    #[arg(long, value_name = "NAME", default_value = "duet")]
    runtime: String,
    /// An image to import first: a tar in OCI or Docker layout; repeatable
    #[arg(long = "image", value_name = "TAR")]
    images: Vec<PathBuf>,
    /// A directory whose *.tar files are imported first; repeatable
    #[arg(long, value_name = "DIR")]
    images_dir: Vec<PathBuf>,
    /// Where Duet's own containerd keeps images and state
    #[arg(long, value_name = "DIR", default_value = "/var/lib/duet")]
    root: PathBuf,
    /// The back-off before the second restart, in milliseconds
    #[arg(long, hide = true, value_name = "MS")]
    restart_base: Option<u64>,
}

/// Runs the pod and returns its exit status.
pub(crate) async fn run(args: Args) -> Result<u8, Error> {
    let pod = manifest::load(&args.manifest)?;
    let spec = pod.spec.clone().unwrap_or_default();
    let refused = |source| Error::Manifest {
        file: args.manifest.clone(),
        source,
    };
    sandbox::check(&spec).map_err(refused)?;
    volumes::check(&spec).map_err(refused)?;
    if args.address.is_none() {
        if let Some(class) = &spec.runtime_class_name {
            containerd::check_class(class).map_err(refused)?;
        }
        containerd::check_ports(&spec).map_err(refused)?;
    }
    let images = images::given(&args.images, &args.images_dir)?;
    if !rustix::process::geteuid().is_root() {
        return Err(Error::Missing(
            "`duet run` makes containers, mounts and cgroups: it has to be run by root".to_owned(),
        ));
    }
    let root = containerd::absolute(&args.root)?;
    let signals = Signals::listen()?;
    let mut stops = signals.stops();

    let Some(socket) = &args.address else {
        let private = Private::enter(&root, &args.runtime).await?;
        let result = match private.prepare().await {
            Ok(()) => {
                let socket = private.socket().to_owned();
                let site = Site {
                    socket: &socket,
                    pods: &private.pods(),
                    snapshotter: Some(private.snapshotter()),
                    lasting: false,
                };
                on(&args, &site, &pod, &spec, &images, &mut stops).await
            }
            Err(error) => Err(error),
        };
        return both(result, private.leave().await);
    };
    let socket = containerd::absolute(socket)?;
    let site = Site {
        socket: &socket,
        pods: &root.join("attached"),
        snapshotter: None,
        lasting: true,
    };
    on(&args, &site, &pod, &spec, &images, &mut stops).await
}

/// The containerd a pod runs on.
#[derive(Debug)]
struct Site<'a> {
    socket: &'a Path,
    /// Volumes and logs of pods.
    pods: &'a Path,
    /// Named if images have to be unpacked for another than containerd's default.
    snapshotter: Option<&'a str>,
    /// Whether it goes on when the last `duet` is gone, and with it the pod of one that is killed.
    lasting: bool,
}

/// Imports the images and runs the pod on a containerd that is there.
async fn on(
    args: &Args,
    site: &Site<'_>,
    pod: &Pod,
    spec: &PodSpec,
    images: &[PathBuf],
    stops: &mut Stops,
) -> Result<u8, Error> {
    let mut cri = Cri::connect(site.socket).await?;
    if let Some((path, port)) = sandbox::host_port(spec)
        && !maps_ports(&cri.status().await?.info)
    {
        let why =
            format!("{port} needs a CNI program that maps ports (portmap) in containerd's network");
        return Err(Error::Manifest {
            file: args.manifest.clone(),
            source: Refused::field(path, why),
        });
    }
    if site.lasting {
        attached::sweep(&mut cri, site.pods, site.socket).await?;
    }
    for image in images {
        images::import(&mut cri, site.socket, site.snapshotter, image).await?;
        if let Some(signal) = stops.signal() {
            return Ok(signal.status());
        }
    }
    // A registry may take for ever to answer; what was begun ends with its connection.
    let images = tokio::select! {
        biased;
        asked = stops.asked() => return Ok(asked.status()),
        images = images::present(&mut cri, spec, &args.manifest) => images?,
    };

    let uid = machine::uuid()?;
    let directory = site.pods.join(&uid);
    let logs = directory.join("logs");
    std::fs::create_dir_all(&logs).map_err(Error::at("could not create", &logs))?;
    let _claim = if site.lasting {
        Some(Claim::stake(&directory, site.socket)?)
    } else {
        None
    };
    let cgroup_parent = cgroup_parent(&mut cri, &uid).await?;
    let profiles = profiles(&args.manifest)?;
    let placement = Placement {
        uid: &uid,
        logs: &logs,
        profiles: &profiles,
        cgroup_parent: &cgroup_parent,
    };
    let result = async {
        let volumes = Volumes::make(spec, directory.join("volumes"))?;
        let mut driver = Driver {
            pod,
            spec,
            images: &images,
            volumes: &volumes,
            profiles: &profiles,
            place: Place {
                uid: uid.clone(),
                pod_ip: String::new(),
                host_ip: machine::host_ip().to_string(),
                node_name: machine::node_name(),
            },
            config: sandbox::config(pod, spec, placement),
            sandbox: String::new(),
            follower: Follower::new(&logs)?,
            screen: Screen::new(driver::names(spec)),
            members: driver::members(
                spec,
                args.restart_base
                    .map_or(restart::BASE, Duration::from_millis),
            ),
            cri: cri.clone(),
            stops: stops.clone(),
            verdicts: driver::Verdicts::new(),
        };
        let handler = spec.runtime_class_name.as_deref().unwrap_or(&args.runtime);
        let status = match driver.drive(handler).await {
            Ok(Ended::Stopped(signal)) => Ok(signal.status()),
            Ok(Ended::Finished) => Ok(driver.status()),
            Err(error) => {
                // Said now and not at the end: the others may take a grace period to stop.
                step("duet", &error.chain());
                Ok(crate::FAILED)
            }
        };
        both(status, driver.shut_down().await)
    }
    .await;
    both(
        result,
        clean_up(&mut cri, &uid, &directory, &cgroup_parent).await,
    )
}

/// Removes whatever the pod has left, by its uid, wherever it failed.
async fn clean_up(
    cri: &mut Cri,
    uid: &str,
    directory: &Path,
    cgroup_parent: &str,
) -> Result<(), Error> {
    // While its processes may live their files stay: Duet's containerd finds them by these at
    // its next start, and removes all.
    for sandbox in cri.sandboxes(Some(uid)).await? {
        cri.remove_sandbox(&sandbox.id).await?;
    }
    let files = volumes::remove(directory);
    let cgroup = if cgroup_parent.ends_with(".slice") {
        stop_slice(cgroup_parent).await
    } else {
        machine::remove_cgroup(Path::new(cgroup_parent))
    };
    both(files, cgroup)
}

/// Stops a slice, and those that it lies in as long as nothing else does: systemd keeps empty ones.
/// One that nothing was ever made in it does not know.
async fn stop_slice(slice: &str) -> Result<(), Error> {
    if is_active(slice).await? {
        let _said = systemctl(&["stop", slice]).await?;
    }
    let mut inner = slice;
    // `a-b.slice` lies in `a.slice`.
    while let Some((above, _)) = inner.rsplit_once('-') {
        let parent = format!("{above}.slice");
        // Whoever has written a unit for it decides about it.
        let of = [
            "show",
            "--property=RequiredBy,FragmentPath",
            "--value",
            &parent,
        ];
        let needed = !systemctl(&of).await?.trim().is_empty();
        if needed || !is_active(&parent).await? {
            break;
        }
        // Without its dependencies, or a pod that has begun meanwhile would be stopped with it.
        let alone = "--job-mode=ignore-dependencies";
        let _said = systemctl(&["stop", alone, &parent]).await?;
        inner = above;
    }
    Ok(())
}

async fn is_active(unit: &str) -> Result<bool, Error> {
    let state = systemctl(&["show", "--property=ActiveState", "--value", unit]).await?;
    Ok(state.trim() != "inactive")
}

async fn systemctl(words: &[&str]) -> Result<String, Error> {
    let words = words.iter().map(|word| (*word).to_owned());
    program::run("systemctl", words.collect()).await
}

/// The first error counts; one that comes while cleaning up after it is shown beside it.
fn both<T>(first: Result<T, Error>, second: Result<(), Error>) -> Result<T, Error> {
    match (first, second) {
        (Ok(value), Ok(())) => Ok(value),
        (Ok(_), Err(error)) | (Err(error), Ok(())) => Err(error),
        (Err(error), Err(left)) => {
            step("left behind", &left.chain());
            Err(error)
        }
    }
}

/// Where the pod's cgroups go: a slice if containerd's runtimes use systemd's driver.
async fn cgroup_parent(cri: &mut Cri, uid: &str) -> Result<String, Error> {
    let status = cri.status().await?;
    let systemd = status
        .info
        .get("config")
        .and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok())
        .and_then(|config| {
            let runtimes = config.pointer("/containerd/runtimes")?.as_object()?.clone();
            Some(runtimes.values().any(|runtime| {
                runtime.pointer("/options/SystemdCgroup") == Some(&serde_json::Value::Bool(true))
            }))
        });
    Ok(if systemd == Some(true) {
        format!("duet-{}.slice", uid.replace('-', ""))
    } else {
        format!("/duet/{uid}")
    })
}

/// Whether a network of containerd's maps ports of the host's, or does not say what it does: ports
/// are handed to those of its programs alone that declare it, and lost if there is none.
fn maps_ports(info: &HashMap<String, String>) -> bool {
    let networks = info
        .get("cniconfig")
        .and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok())
        .and_then(|config| config.get("Networks")?.as_array().cloned());
    networks.is_none_or(|networks| {
        let programs = networks
            .iter()
            .filter_map(|network| network.pointer("/Config/Plugins")?.as_array());
        programs.flatten().any(|program| {
            program.pointer("/Network/capabilities/portMappings")
                == Some(&serde_json::Value::Bool(true))
        })
    })
}

/// `localhostProfile` is looked up beside the manifest: there is no kubelet's directory here.
fn profiles(manifest: &Path) -> Result<PathBuf, Error> {
    let directory = manifest
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    containerd::absolute(directory.unwrap_or(Path::new(".")))
}

#[cfg(test)]
mod tests {
    use super::maps_ports;
    use std::collections::HashMap;

    #[test]
    fn ports_are_mapped_by_a_program_that_declares_it() {
        let mut info = HashMap::new();
        assert!(maps_ports(&info), "it does not say");
        for (capabilities, mapped) in [
            ("{}", false),
            (r#"{"portMappings": false}"#, false),
            (r#"{"bandwidth": true, "portMappings": true}"#, true),
        ] {
            let config = format!(
                r#"{{"Networks": [
                    {{"Config": {{"Name": "lo", "Plugins": [{{"Network": {{"type": "loopback"}}}}]}}}},
                    {{"Config": {{"Plugins": [
                        {{"Network": {{"type": "bridge"}}}},
                        {{"Network": {{"type": "portmap", "capabilities": {capabilities}}}}}
                    ]}}}}
                ]}}"#
            );
            info.insert("cniconfig".to_owned(), config);
            assert_eq!(maps_ports(&info), mapped, "{capabilities}");
        }
    }
}
